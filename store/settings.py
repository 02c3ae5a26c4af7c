"""What can be set about the store."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lifeline.core.actions import Kind

_HOURS_A_DAY = 24


class StoreSettings(BaseModel):
    """Caps and ages, the shape of a sequence on disk, the memory that all partitions share, durability."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_explicit: Annotated[int, Field(ge=1, le=1 << 20, description="explicit actions kept for a user")] = 16_384
    max_impressions: Annotated[int, Field(ge=1, le=1 << 20, description="impressions kept for a user")] = 1_024
    max_explicit_age_days: Annotated[
        int | None, Field(ge=1, le=100_000, description="explicit actions older than this go; none: no limit")
    ] = None
    max_impression_age_days: Annotated[
        int | None, Field(ge=1, le=100_000, description="impressions older than this go; none: no limit")
    ] = None
    chunk_events: Annotated[int, Field(ge=2, le=2_048, description="events in a sealed chunk")] = 1_024
    keep_unsealed: Annotated[
        int, Field(ge=1, le=2_048, description="newest events that stay unsealed, so that late ones meet no chunk")
    ] = 512
    inline_events: Annotated[int, Field(ge=1, le=255, description="events inside a head record")] = 16
    run_segments: Annotated[int, Field(ge=2, le=64, description="raw segments that are merged into a run")] = 16
    head_cache_mib: Annotated[float, Field(gt=0, description="heads of all partitions kept in memory")] = 64
    block_cache_mib: Annotated[int, Field(ge=1, description="RocksDB block cache of the process")] = 128
    write_buffer_mib: Annotated[int, Field(ge=1, description="memtables of the process, in that cache")] = 64
    max_open_files: Annotated[int, Field(ge=16, description="files that RocksDB keeps open, of each partition")] = 256
    max_wal_mib: Annotated[
        int, Field(ge=1, description="write-ahead log of each partition; replayed when it opens after a crash")
    ] = 32
    max_items: Annotated[
        int | None,
        Field(
            ge=1,
            description="item ids that the partitions of a node may hold in memory, and items with an embedding; "
            "none: a quarter of the memory that the node may have, at 48 bytes each",
        ),
    ] = None
    durability: Annotated[
        Literal["process", "power"],
        Field(description="what an applied batch survives: kill -9, or also a power loss, within sync_every_ms"),
    ] = "process"
    sync_every_ms: Annotated[
        int, Field(ge=1, le=60_000, description="with durability power: how long a batch waits for its fsync")
    ] = 100

    @property
    def has_ages(self) -> bool:
        """Whether anything expires, by the log's own time."""
        return any(self.max_age_hours(kind) is not None for kind in Kind)

    def cap(self, kind: Kind) -> int:
        """Return how many events of `kind` a user keeps."""
        return self.max_explicit if kind is Kind.EXPLICIT else self.max_impressions

    def max_age_hours(self, kind: Kind) -> int | None:
        """Return for how many hours before the watermark's own hour events of `kind` are kept; None for ever."""
        days = self.max_explicit_age_days if kind is Kind.EXPLICIT else self.max_impression_age_days
        return None if days is None else days * _HOURS_A_DAY
