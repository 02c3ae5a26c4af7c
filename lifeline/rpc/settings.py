"""The settings of a node as a server."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EVERYWHERE = frozenset({"0.0.0.0", "[::]", "::"})  # noqa: S104 - only compared with, never bound to
"""Hosts that mean "all interfaces": a server can listen on them, but nobody can call them."""


class NodeSettings(BaseModel):
    """The data directory, the addresses and the limits of a node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Annotated[Path, Field(description="directory of the partitions and the embedding table")] = Path("data")
    grpc_address: Annotated[
        str,
        Field(pattern=r"^.+:\d{1,5}$", description="host:port that gRPC listens on; port 0 picks a free one"),
    ] = "127.0.0.1:50051"
    advertised_address: Annotated[
        str,
        Field(
            pattern=r"^(.+:\d{1,5})?$",
            description="host:port at which other nodes and callers reach this one; default: grpc_address, with this "
            "machine's name if that listens on all interfaces",
        ),
    ] = ""
    misrouted: Annotated[
        Literal["forward", "redirect"],
        Field(
            description="forward: pass a call for another node's user on; redirect: refuse it with the owner's address"
        ),
    ] = "forward"
    http_address: Annotated[
        str,
        Field(
            pattern=r"^.+:\d{1,5}$", description="host:port of /metrics, /livez and /readyz; port 0 picks a free one"
        ),
    ] = "127.0.0.1:9464"
    metrics: Annotated[bool, Field(description="collect metrics and serve /metrics")] = True
    max_concurrent_rpcs: Annotated[int, Field(ge=1, le=65_536, description="concurrent calls; more are refused")] = 128
    max_waits: Annotated[
        int | None,
        Field(
            ge=1,
            description="additional calls that may wait for their min_offset at once, half of them of one caller; "
            "default: a quarter of max_concurrent_rpcs",
        ),
    ] = None
    max_wait_ms: Annotated[
        int, Field(ge=1, le=600_000, description="longest wait for a min_offset, whatever the call's deadline")
    ] = 30_000
    max_memory_mib: Annotated[
        int | None,
        Field(
            ge=64,
            description="anonymous memory of the process, caches included, above which calls are refused; default: "
            "nine tenths of the memory of the machine or its control group",
        ),
    ] = None
    max_message_mib: Annotated[int, Field(ge=1, le=1_024, description="largest request and reply")] = 4
    stop_deadline_s: Annotated[float, Field(gt=0, le=3_600, description="deadline of a graceful stop")] = 30.0
    drain_s: Annotated[
        float,
        Field(
            ge=0, le=600, description="part of it: how long the node still accepts calls after it reports NOT_SERVING"
        ),
    ] = 1.0
    log_format: Annotated[Literal["console", "json"], Field(description="format of log lines")] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="lowest level that is logged")
    ] = "info"

    @field_validator("advertised_address")
    @classmethod
    def _is_callable(cls, value: str) -> str:
        if value.rpartition(":")[0] in EVERYWHERE:
            raise ValueError(
                "it means all interfaces, and nobody can call that: set the name or address that others call"
            )
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.wait_places > self.max_concurrent_rpcs:
            raise ValueError(
                f"node.max_waits is more than node.max_concurrent_rpcs ({self.max_concurrent_rpcs}): lower it; at "
                "least half of the threads must be free for calls that do not wait"
            )
        return self

    @property
    def wait_places(self) -> int:
        """How many calls may wait for their min_offset at the same time."""
        return max(1, self.max_concurrent_rpcs // 4) if self.max_waits is None else self.max_waits
