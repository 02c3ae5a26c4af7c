"""The settings of a node as a server."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

EVERYWHERE = frozenset({"0.0.0.0", "[::]", "::"})  # noqa: S104 - nothing is bound to it here
"""Hosts to listen at that are no address to call."""


class NodeSettings(BaseModel):
    """Where a node keeps its state and how it serves."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    data_dir: Annotated[Path, Field(description="the partitions and the embedding table")] = Path("data")
    grpc_address: Annotated[
        str,
        Field(pattern=r"^.+:\d{1,5}$", description="host:port that gRPC listens on; port 0 takes a free one"),
    ] = "127.0.0.1:50051"
    advertised_address: Annotated[
        str,
        Field(
            pattern=r"^(.+:\d{1,5})?$",
            description="host:port at which other nodes and callers reach this one; without: grpc_address, and this "
            "machine's name where that has none",
        ),
    ] = ""
    misrouted: Annotated[
        Literal["forward", "redirect"],
        Field(description="a call for another node's user goes on to that node, or its caller is told which one it is"),
    ] = "forward"
    http_address: Annotated[
        str,
        Field(
            pattern=r"^.+:\d{1,5}$", description="host:port of /metrics, /livez and /readyz; port 0 takes a free one"
        ),
    ] = "127.0.0.1:9464"
    metrics: Annotated[bool, Field(description="count, and serve /metrics")] = True
    max_concurrent_rpcs: Annotated[int, Field(ge=1, le=65_536, description="calls at once; more are refused")] = 128
    max_waits: Annotated[
        int | None,
        Field(
            ge=1,
            description="beside them, calls at once that wait for their min_offset, half of them of one caller; "
            "without: a quarter of max_concurrent_rpcs",
        ),
    ] = None
    max_wait_ms: Annotated[
        int, Field(ge=1, le=600_000, description="how long such a call waits at most, whatever its deadline")
    ] = 30_000
    max_memory_mib: Annotated[
        int | None,
        Field(
            ge=64,
            description="memory of its own, caches included, above which calls are refused; without: nine tenths of "
            "what the machine or its control group has",
        ),
    ] = None
    max_message_mib: Annotated[int, Field(ge=1, le=1_024, description="largest request and reply")] = 4
    stop_deadline_s: Annotated[float, Field(gt=0, le=3_600, description="a graceful stop's deadline")] = 30.0
    drain_s: Annotated[
        float, Field(ge=0, le=600, description="of it: how long callers may still come after NOT_SERVING")
    ] = 1.0
    log_format: Annotated[Literal["console", "json"], Field(description="how log lines look")] = "console"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Field(description="the least that is logged")
    ] = "info"

    @field_validator("advertised_address")
    @classmethod
    def _is_somewhere(cls, value: str) -> str:
        if value.rpartition(":")[0] in EVERYWHERE:
            raise ValueError("it means every interface, and nobody can call that: give the name that others call")
        return value

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.wait_places > self.max_concurrent_rpcs:
            raise ValueError(
                f"node.max_waits is more than node.max_concurrent_rpcs ({self.max_concurrent_rpcs}): lower it; half of "
                "the threads are there for calls that do not wait"
            )
        return self

    @property
    def wait_places(self) -> int:
        """How many calls may wait for their min_offset at once."""
        return max(1, self.max_concurrent_rpcs // 4) if self.max_waits is None else self.max_waits
