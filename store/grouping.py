"""A batch in the order in which the store applies it: by user, kind and identity."""

from typing import NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store import keys
from lifeline.store.fingerprint import user_hash


class GroupedBatch(NamedTuple):
    """A batch of n events in g sequences, sorted by user, kind and identity, without duplicates."""

    prefixes: list[bytes]
    """The prefix ``u FF k`` of each of the g sequences."""
    starts: list[int]
    """The first row of each sequence."""
    ends: list[int]
    """The row after the last of each sequence."""
    first_ms: list[int]
    """The lowest timestamp of each sequence."""
    last_ms: list[int]
    """The highest timestamp of each sequence."""
    users: NDArray[np.uint64]
    """uint64[n, 2]: the user hash of each row, as two little-endian words."""
    kind: NDArray[np.uint8]
    """uint8[n]."""
    timestamp_ms: NDArray[np.int64]
    """int64[n]."""
    item_id: NDArray[np.uint64]
    """uint64[n]."""
    code: NDArray[np.uint16]
    """uint16[n], action_type << 8 | surface."""

    @classmethod
    def of(cls, batch: ActionBatch) -> Self:
        """Sort a batch that is not empty, and drop its duplicates."""
        numbers = {user_id: number for number, user_id in enumerate(dict.fromkeys(batch.user_ids))}
        number = np.fromiter(map(numbers.__getitem__, batch.user_ids), np.int64, len(batch))
        hashes = [user_hash(user_id) for user_id in numbers]
        group = number * len(Kind) + batch.kind
        order = np.lexsort((batch.code, batch.item_id, batch.timestamp_ms, group))
        group, timestamp_ms = group[order], batch.timestamp_ms[order]
        item_id, code = batch.item_id[order], batch.code[order]
        same = (
            (group[1:] == group[:-1])
            & (timestamp_ms[1:] == timestamp_ms[:-1])
            & (item_id[1:] == item_id[:-1])
            & (code[1:] == code[:-1])
        )
        if same.any():
            keep = np.concatenate([[True], ~same])
            group, timestamp_ms, item_id, code = group[keep], timestamp_ms[keep], item_id[keep], code[keep]
        starts = np.flatnonzero(np.concatenate([[True], group[1:] != group[:-1]]))
        ends = np.append(starts[1:], len(group))
        user_ids = list(numbers)
        suffixes = [keys.sequence_prefix(b"", kind) for kind in Kind]
        prefixes = [user_ids[g // len(suffixes)] + suffixes[g % len(suffixes)] for g in group[starts].tolist()]
        return cls(
            prefixes,
            starts.tolist(),
            ends.tolist(),
            timestamp_ms[starts].tolist(),
            timestamp_ms[ends - 1].tolist(),
            np.frombuffer(b"".join(hashes), np.uint64).reshape(-1, 2)[group // len(Kind)],
            (group % len(Kind)).astype(np.uint8),
            timestamp_ms,
            item_id,
            code,
        )
