"""The client library: histories and scores of a cluster of nodes, by gRPC."""

from lifeline.client.client import (
    MAX_REPLY_BYTES,
    SNAPSHOT_TIMEOUT_S,
    LifelineClient,
    LifelineError,
    ModelInfo,
    PartitionInfo,
    PartitionList,
    PartitionPlace,
    PartitionSnapshot,
    Scores,
    SelectedToken,
    TokenSource,
)

__all__ = [
    "MAX_REPLY_BYTES",
    "SNAPSHOT_TIMEOUT_S",
    "LifelineClient",
    "LifelineError",
    "ModelInfo",
    "PartitionInfo",
    "PartitionList",
    "PartitionPlace",
    "PartitionSnapshot",
    "Scores",
    "SelectedToken",
    "TokenSource",
]
