"""Settings of the updater."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from lifeline.core.limits import MAX_STANDBY_REPLICAS


class UpdaterSettings(BaseModel):
    """The size of a micro-batch, the bounds of an action, and time limits."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_max_records: Annotated[int, Field(ge=1, le=1 << 20, description="the most records applied in one write")] = (
        8_192
    )
    batch_max_wait_ms: Annotated[
        int, Field(ge=0, le=60_000, description="how long a record may wait for others before it is applied")
    ] = 20
    fetch_max_bytes: Annotated[
        int, Field(ge=1 << 16, le=1 << 30, description="fetched from one partition at a time")
    ] = 4 << 20
    max_action_bytes: Annotated[
        int, Field(ge=64, le=4 << 20, description="a larger record is dead-lettered as oversized")
    ] = 65_536
    max_future_ms: Annotated[
        int, Field(ge=0, description="how far an action's time may be after its record's time")
    ] = 86_400_000
    commit_interval_ms: Annotated[
        int, Field(ge=100, le=600_000, description="how often the group's commit follows the store")
    ] = 2_000
    dead_letter_timeout_ms: Annotated[
        int,
        Field(ge=1_000, le=600_000, description="how long a dead letter may wait for its acknowledgement"),
    ] = 30_000
    stall_after_ms: Annotated[
        int,
        Field(
            ge=1_000,
            le=3_600_000,
            description="no progress for this long is a stall; behind an open transaction, a pause",
        ),
    ] = 30_000
    max_waiting_mib: Annotated[
        int,
        Field(
            ge=4,
            le=65_536,
            description="fetched records not yet applied, beyond which fetching waits; one write has 1/4",
        ),
    ] = 64
    serve: Annotated[
        Literal["caught_up", "stale"],
        Field(description="answer reads once a partition has caught up, or at once; as_of has the lag"),
    ] = "caught_up"
    standby_replicas: Annotated[
        int, Field(ge=0, le=MAX_STANDBY_REPLICAS, description="how many nodes follow each partition besides its owner")
    ] = 0
    fingerprint_every: Annotated[
        int, Field(ge=1, le=1 << 32, description="records between the fingerprints that owner and standbys compare")
    ] = 65_536
    max_bad_share: Annotated[
        float, Field(gt=0, le=1, description="a partition stops when more of its last records than this are bad")
    ] = 0.5
    bad_share_records: Annotated[
        int, Field(ge=1, le=1 << 20, description="the number of last records that max_bad_share is measured over")
    ] = 1_000
