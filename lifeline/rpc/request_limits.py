"""Limits on requests: the size before decoding, and each field after it, before the handler runs."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, cast

import grpc
from google.protobuf import descriptor_pool
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError

from lifeline.core.limits import UNKNOWN_BYTES, LimitExceededError, MessageLimits
from lifeline.core.reasons import Reason
from lifeline.rpc.interceptor import Handler
from lifeline.rpc.status import Refusal
from lifeline.rpc.validation import invalid_field
from lifeline.v1.group_pb2 import GroupMember, GroupPlacement


class RequestLimits:
    """The innermost stage: its handlers' decoders raise Refusal for a request that exceeds the limits."""

    def wrap(self, method: str, handler: Handler) -> Handler:
        """Return the same handler with a decoder that enforces the limits."""
        decode = handler.request_deserializer
        if decode is None:
            raise TypeError("the handler has no decoder to check: make this stage the innermost")
        limits = MessageLimits(method_of(method).input_type)
        # The library's handlers are named tuples; their declared type hides it.
        bounded: Handler = cast("Any", handler)._replace(request_deserializer=decoder(decode, limits))
        return bounded


def method_of(path: str) -> MethodDescriptor:
    """Return the descriptor of a method of this server, by its path: /package.Service/Method."""
    method: MethodDescriptor = descriptor_pool.Default().FindMethodByName(path[1:].replace("/", "."))
    return method


def decoder(decode: Callable[[bytes], Any], limits: MessageLimits) -> Callable[[bytes], Any]:
    """Return a decoder that raises Refusal for a request that exceeds the limits."""

    def decode_checked(raw: bytes) -> Any:  # noqa: ANN401 - any message
        if len(raw) > limits.max_bytes:
            raise _too_large(limits, len(raw))
        try:
            message = decode(raw)
            limits.check(message)
        except DecodeError:
            raise invalid_field("request", "it cannot be decoded: build the client from the node's protos") from None
        except LimitExceededError as error:
            raise invalid_field(
                error.field, str(error), error.bound.reason, length=str(error.length), limit=str(error.bound.max_length)
            ) from error
        return message

    return decode_checked


def _too_large(limits: MessageLimits, size: int) -> Refusal:
    return Refusal(
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        Reason.REQUEST_TOO_LARGE,
        f"the request has {size:,} bytes, and a {limits.descriptor.name} may have {limits.max_bytes:,}: send "
        "only the fields of the node's own protos, within the bounds of docs/limits.md",
        bytes=str(size),
        limit=str(limits.max_bytes),
    )


def methods_of(services: Iterable[str]) -> list[MethodDescriptor]:
    """Return the methods of services, by the services' full names."""
    pool = descriptor_pool.Default()
    return [method for name in services for method in pool.FindServiceByName(name).methods]


def as_markdown(services: Iterable[str]) -> str:
    """Return docs/limits.md: the limits of these services' methods, and of the consumer group's messages."""
    methods = methods_of(services)
    requests = {method.input_type.full_name: MessageLimits(method.input_type) for method in methods}
    group_messages = (MessageLimits.of(GroupMember), MessageLimits.of(GroupPlacement))
    lines = [
        "# Limits of requests",
        "",
        "Generated from `lifeline/core/limits.py` by `lifeline limits`; do not edit.",
        "",
        "A node checks the size of a request before it decodes it, and the length of each field before Python reads",
        "the field. A request that is too large is refused with `RESOURCE_EXHAUSTED` (`REQUEST_TOO_LARGE`), and a",
        "field that is too long with `INVALID_ARGUMENT`; the details name the field, its length and the bound. Fields",
        f"of a later version, which the node does not know, may have {UNKNOWN_BYTES:,} bytes in total. A configuration",
        "may set lower limits: `scorer.max_candidates`, `security.callers.NAME.max_message_kib`. gRPC itself refuses",
        "messages that exceed `node.max_message_mib` when decompressed, and metadata of more than 16 KiB. Fields that",
        "are not listed here are single numbers.",
        "",
        "## Methods",
        "",
        "| method | largest request, bytes |",
        "|---|---|",
    ]
    lines += [f"| `{method.full_name}` | {requests[method.input_type.full_name].max_bytes:,} |" for method in methods]
    lines += ["", "## Fields", "", *_table(requests.values())]
    lines += [
        "",
        "## The consumer group",
        "",
        "The messages that members of the consumer group exchange have bounds too. A message that exceeds them is",
        "ignored.",
        "",
        *_table(group_messages),
    ]
    return "\n".join(lines) + "\n"


def _table(messages: Iterable[MessageLimits]) -> Iterator[str]:
    yield "| field | bound | meaning of the bound |"
    yield "|---|---|---|"
    for row in dict.fromkeys(row for limits in messages for row in limits.rows()):
        name, unit, bound = row
        each = f", each of {bound.max_entry_bytes:,} bytes" if bound.max_entry_bytes else ""
        yield f"| `{name}` | {bound.max_length:,} {unit}{each} | {bound.description} |"
