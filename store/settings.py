"""What can be set about the store."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from store.actions import Kind


class StoreSettings(BaseModel):
    """Caps, the shape of a sequence on disk, and the memory that all partitions share."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_explicit: Annotated[int, Field(ge=1, le=1 << 20, description="explicit actions kept for a user")] = 16_384
    max_impressions: Annotated[int, Field(ge=1, le=1 << 20, description="impressions kept for a user")] = 1_024
    chunk_events: Annotated[int, Field(ge=2, le=2_048, description="events in a sealed chunk")] = 512
    inline_events: Annotated[int, Field(ge=1, le=255, description="events inside a head record")] = 32
    head_cache_entries: Annotated[int, Field(ge=1, description="heads kept in memory, of each partition")] = 65_536
    block_cache_mib: Annotated[int, Field(ge=1, description="RocksDB block cache of the process")] = 128
    write_buffer_mib: Annotated[int, Field(ge=1, description="memtables of the process, in that cache")] = 64

    def cap(self, kind: Kind) -> int:
        """Return how many events of `kind` a user keeps."""
        return self.max_explicit if kind is Kind.EXPLICIT else self.max_impressions

    @property
    def seal_at(self) -> int:
        """Unsealed events at which the oldest are sealed into chunks."""
        return 2 * self.chunk_events
