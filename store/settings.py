"""The settings of the store."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lifeline.core.actions import Kind

_HOURS_A_DAY = 24


class StoreSettings(BaseModel):
    """Caps, ages, the layout of sequences on disk, the memory that all partitions share, durability."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_explicit: Annotated[int, Field(ge=1, le=1 << 20, description="explicit actions kept for a user")] = 16_384
    max_impressions: Annotated[int, Field(ge=1, le=1 << 20, description="impressions kept for a user")] = 1_024
    max_explicit_age_days: Annotated[
        int | None, Field(ge=1, le=100_000, description="explicit actions expire after so many days; none: never")
    ] = None
    max_impression_age_days: Annotated[
        int | None, Field(ge=1, le=100_000, description="impressions expire after so many days; none: never")
    ] = None
    chunk_events: Annotated[int, Field(ge=2, le=2_048, description="events in a sealed chunk")] = 1_024
    keep_unsealed: Annotated[
        int,
        Field(
            ge=1, le=2_048, description="newest events that stay unsealed, so that late events rarely change a chunk"
        ),
    ] = 512
    inline_events: Annotated[int, Field(ge=1, le=255, description="events inside a head record")] = 16
    run_segments: Annotated[int, Field(ge=2, le=64, description="how many raw segments are merged into a run")] = 16
    head_cache_mib: Annotated[float, Field(gt=0, description="head cache of the process")] = 64
    block_cache_mib: Annotated[int, Field(ge=1, description="RocksDB block cache of the process")] = 128
    write_buffer_mib: Annotated[int, Field(ge=1, description="memtables of the process, inside the block cache")] = 64
    max_wal_mib: Annotated[
        int, Field(ge=1, description="write-ahead log of each partition; replayed when it opens after a crash")
    ] = 32
    max_items: Annotated[
        int | None,
        Field(
            ge=1,
            description="most item ids that the partitions of a node may hold in memory, and most embeddings; "
            "none: a quarter of the node's memory, at 48 bytes each",
        ),
    ] = None
    durability: Annotated[
        Literal["process", "power"],
        Field(description="process: applied batches survive kill -9; power: also a power failure, after sync_every_ms"),
    ] = "process"
    sync_every_ms: Annotated[
        int, Field(ge=1, le=60_000, description="with durability power: the longest time until a batch is synced")
    ] = 100

    @property
    def has_ages(self) -> bool:
        """Whether any kind of event has a maximum age."""
        return any(self.max_age_hours(kind) is not None for kind in Kind)

    def cap(self, kind: Kind) -> int:
        """Return how many events of `kind` a user keeps."""
        return self.max_explicit if kind is Kind.EXPLICIT else self.max_impressions

    def max_age_hours(self, kind: Kind) -> int | None:
        """Return the maximum age of `kind` in hours before the watermark's hour; None for no limit."""
        days = self.max_explicit_age_days if kind is Kind.EXPLICIT else self.max_impression_age_days
        return None if days is None else days * _HOURS_A_DAY
