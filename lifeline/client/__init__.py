"""The client library: sequences and scores from a cluster of nodes, over gRPC."""

from lifeline.client.client import SNAPSHOT_TIMEOUT_S, LifelineClient
from lifeline.client.connection import MAX_REPLY_BYTES
from lifeline.client.errors import LifelineError
from lifeline.client.replies import (
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
