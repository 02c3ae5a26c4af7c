"""The error of a call, and its translation from gRPC."""

from collections.abc import Mapping

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from lifeline.core.errors import ActionableError

_RETRYABLE_CODES = frozenset(
    {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.CANCELLED}
)
# Another attempt may succeed, here or at another node. No reason: the node is unreachable, or is shutting down.
_RETRYABLE_REASONS = frozenset(
    {"", "NOT_OWNER", "OWNER_UNREACHABLE", "CATCHING_UP", "OVERLOADED", "WAITS_FULL", "MEMORY_SHORT"}
)
# Part of gRPC's message about a handshake that failed on this side: the reason, and what it means. A handshake that
# fails on the node's side shows here as a closed socket.
_TLS_PROBLEMS = {
    "CERTIFICATE_VERIFY_FAILED": (
        "SERVER_NOT_TRUSTED",
        "has a certificate that no CA trusted by this client has signed: set security.ca to the CA of the nodes",
    ),
    "Hostname Verification Check failed": (
        "SERVER_NAME_WRONG",
        "has a certificate for another name: call the node by a name that is in its certificate",
    ),
    "WRONG_VERSION_NUMBER": (
        "SERVER_WITHOUT_TLS",
        "does not speak TLS: remove security.ca and security.tls, or give the node a certificate",
    ),
}
_SOCKET_CLOSED = "Socket closed"


class LifelineError(ActionableError):
    """A call failed.

    `code` is the gRPC status. `reason` is the node's machine-readable reason (a `lifeline.core.reasons.Reason`), empty
    when no node answered. `metadata` holds the details of the reason. `retry_after_s` is the pause that the node
    recommends before the next attempt, 0.0 where it recommends none.
    """

    def __init__(
        self,
        code: grpc.StatusCode,
        reason: str,
        message: str,
        metadata: Mapping[str, str],
        attempts: int = 1,
        retry_after_s: float = 0.0,
    ) -> None:
        self.code, self.reason, self.message, self.metadata = code, reason, message, dict(metadata)
        self.attempts, self.retry_after_s = attempts, retry_after_s
        count = f" (the last of {attempts} attempts)" if attempts > 1 else ""
        super().__init__(f"{code.name}{f' ({reason})' if reason else ''}: {message}{count}")

    @property
    def may_pass(self) -> bool:
        """Whether the same call may succeed a little later, or at another node."""
        return self.code in _RETRYABLE_CODES and self.reason in _RETRYABLE_REASONS


def mismatched_reply(problem: str) -> LifelineError:
    """Return the error for a reply that contradicts itself or the request."""
    return LifelineError(grpc.StatusCode.DATA_LOSS, "", f"{problem}: use a client of the node's own version", {})


def translate(error: grpc.Call, address: str, attempts: int, *, secure: bool) -> LifelineError:
    """Return the LifelineError for a failed gRPC call, with the node's ErrorInfo where there is one."""
    code, message = error.code(), error.details() or ""
    status = rpc_status.from_call(error)
    info, retry = error_details_pb2.ErrorInfo(), error_details_pb2.RetryInfo()
    for detail in status.details if status else ():
        detail.Unpack(info)
        detail.Unpack(retry)
    if info.reason:
        retry_after_s = retry.retry_delay.ToTimedelta().total_seconds()
        return LifelineError(code, info.reason, message, info.metadata, attempts, retry_after_s)
    match code:
        case grpc.StatusCode.UNAVAILABLE:
            for sign, (reason, advice) in _TLS_PROBLEMS.items():
                if sign in message:
                    return LifelineError(code, reason, f"{address} {advice} ({message})", {}, attempts)
            if _SOCKET_CLOSED in message:
                hint = (
                    "it may require a client certificate: set security.client_certificate"
                    if secure
                    else "it may speak TLS: set security.ca, or security.tls"
                )
                message = f"{message}; {hint}"
            message = f"no node answers at {address} ({message}): start one there, or give another address"
        case grpc.StatusCode.DEADLINE_EXCEEDED:
            message = f"{address} did not answer in time: retry, or give the call a longer timeout_s"
    return LifelineError(code, "", message, {}, attempts)
