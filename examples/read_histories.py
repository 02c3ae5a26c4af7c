"""Read histories into NumPy and torch: a padded batch for a sequence model.

    python examples/read_histories.py --address 127.0.0.1:50051 --length 256 USER USER ...

A read returns columns, not one Python object per event. The bare package installs NumPy, but not torch.
"""

import argparse
import time
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from lifeline.client import LifelineClient
from lifeline.core.actions import Kind
from lifeline.core.sequence import Column, Sequence, SequenceQuery

# An int8 embedding is e / 0.65 * 127, rounded.
SCALE = 0.65 / 127


class Columns(NamedTuple):
    """The newest n events of a user, oldest first."""

    timestamp_ms: NDArray[np.int64]
    """int64[n]"""
    action_type: NDArray[np.uint8]
    """uint8[n]: ids of the vocabulary"""
    embedding: NDArray[np.int8]
    """int8[n, 32]: of the item; zeros where it has none"""


class Batch(NamedTuple):
    """The histories of b users, padded at the end to l events."""

    embedding: torch.Tensor
    """float32[b, l, 32]"""
    action_type: torch.Tensor
    """int64[b, l]; 0 where there is no event"""
    age_s: torch.Tensor
    """float32[b, l]: seconds before `now_ms`"""
    is_event: torch.Tensor
    """bool[b, l]"""


def read(client: LifelineClient, user_id: str, length: int) -> Columns:
    """Return the user's newest events as NumPy columns; they are read-only views of the reply."""
    query = SequenceQuery(newest=length, columns=Column.TIMESTAMP_MS | Column.ACTION_TYPE | Column.EMBEDDING)
    sequence: Sequence = client.get_sequence(user_id, query).sequences[Kind.EXPLICIT]
    # A column that the query does not request is None.
    assert sequence.timestamp_ms is not None
    assert sequence.action_type is not None
    assert sequence.embedding is not None
    return Columns(sequence.timestamp_ms, sequence.action_type, sequence.embedding)


def pad(histories: list[Columns], length: int, now_ms: int) -> Batch:
    """Return the histories as one batch; torch shares the memory of the padded arrays."""
    shape = (len(histories), length)
    embedding = np.zeros((*shape, 32), np.float32)
    action_type = np.zeros(shape, np.int64)
    age_s = np.zeros(shape, np.float32)
    is_event = np.zeros(shape, np.bool_)
    for row, history in enumerate(histories):
        events = slice(0, len(history.timestamp_ms))
        embedding[row, events] = history.embedding * np.float32(SCALE)
        action_type[row, events] = history.action_type
        age_s[row, events] = (now_ms - history.timestamp_ms) / 1_000
        is_event[row, events] = True
    return Batch(*map(torch.from_numpy, (embedding, action_type, age_s, is_event)))


def main(address: str, users: list[str], length: int) -> None:
    """Read the users, and print the batch's shape, and the mean of each user's item embeddings."""
    with LifelineClient(address) as client:
        histories = [read(client, user_id, length) for user_id in users]
    batch = pad(histories, length, now_ms=int(time.time() * 1_000))
    weight = batch.is_event.float().unsqueeze(-1)
    mean = (batch.embedding * weight).sum(1) / weight.sum(1).clamp(min=1)
    print(f"embedding {tuple(batch.embedding.shape)}, mean of items {tuple(mean.shape)}")
    for user_id, events, norm in zip(users, batch.is_event.sum(1).tolist(), mean.norm(dim=1).tolist(), strict=True):
        print(f"{user_id!r}: {events} events, |mean| {norm:.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Read histories into NumPy and torch.")
    parser.add_argument("--address", default="127.0.0.1:50051")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("users", nargs="+")
    arguments = parser.parse_args()
    main(arguments.address, arguments.users, arguments.length)
