"""What the store is measured with: batches of actions, made before the clock starts."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Self

import cramjam
import numpy as np
from numpy.typing import NDArray

from lifeline.core.actions import ActionBatch, pack_code
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.sources.history import History

BATCH = 2_000
ZIPF_EXPONENT = 1.05
ZIPF_ITEMS = 200_000
START_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
ACTION_TYPES = (0.55, 0.25, 0.12, 0.06, 0.02)
"""Shares of action types 1 to 5, as a feed sees them."""


@dataclass(frozen=True, slots=True)
class Workload:
    """n actions in order of arrival; user_number int64[n] is a row of `user_ids`."""

    user_ids: list[bytes]
    user_number: NDArray[np.int64]
    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    code: NDArray[np.uint16]
    kind: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.user_number)

    def batches(self, size: int = BATCH) -> list[ActionBatch]:
        """Return the actions as batches of `size`."""
        return [self._batch(slice(at, at + size)) for at in range(0, len(self), size)]

    def _batch(self, rows: slice) -> ActionBatch:
        users = [self.user_ids[number] for number in self.user_number[rows].tolist()]
        return ActionBatch(
            users,
            self.timestamp_ms[rows],
            self.item_id[rows],
            self.code[rows],
            self.kind[rows],
            self.timestamp_ms[rows],
        )

    @classmethod
    def of_history(cls, history: History) -> Self:
        """Return the demo's history in order of arrival."""
        names, number = np.unique(np.array(history.user_id), return_inverse=True)
        return cls(
            [str(name).encode() for name in names],
            number.astype(np.int64),
            history.timestamp_ms,
            history.item_id,
            pack_code(history.action_type, history.surface),
            history.vocabulary.kind_of_type[history.action_type],
        )


class Items:
    """Items with Zipf popularity: ids are hashes, so that they carry no order."""

    def __init__(self, rng: np.random.Generator, count: int = ZIPF_ITEMS, exponent: float = ZIPF_EXPONENT) -> None:
        self._rng = rng
        self.ids: NDArray[np.uint64] = rng.integers(1, 1 << 63, count, dtype=np.uint64)
        weight = np.arange(1, count + 1, dtype=np.float64) ** -exponent
        self._cumulative = np.cumsum(weight / weight.sum())

    def draw(self, n: int) -> NDArray[np.uint64]:
        """Return uint64[n]."""
        rank = np.searchsorted(self._cumulative, self._rng.random(n))
        return self.ids[np.minimum(rank, len(self.ids) - 1)]


def user_names(count: int) -> list[bytes]:
    """Return ids as services give them: 16 hexadecimal digits without order."""
    return [f"{(number * 0x9E3779B97F4A7C15 + 1) & (1 << 64) - 1:016x}".encode() for number in range(count)]


def codes(rng: np.random.Generator, n: int) -> NDArray[np.uint16]:
    """Return uint16[n]: an action type and one of three surfaces."""
    types = rng.choice(np.arange(1, len(ACTION_TYPES) + 1), n, p=ACTION_TYPES).astype(np.uint8)
    return pack_code(types, rng.integers(1, 4, n).astype(np.uint8))


def zipf(users: int, events: int, *, late: float = 0.0, late_by_ms: int = HOUR_MS, seed: int = 1) -> Workload:
    """Return `events` actions for each user, all users in turn, as people act: in visits, with nights between.

    A share of `late` events happened up to `late_by_ms` before they arrive.
    """
    rng = np.random.default_rng(seed)
    total = users * events
    # One event of each user a round; a pause is seconds within a visit, and hours between two.
    pauses = np.where(
        rng.random((events, users)) < 0.06,
        rng.lognormal(np.log(6 * HOUR_MS), 0.8, (events, users)),
        rng.lognormal(np.log(9_000), 1.1, (events, users)),
    )
    timestamp_ms = (START_MS + np.cumsum(pauses, axis=0)).astype(np.int64).reshape(-1)
    if late:
        rows = np.flatnonzero(rng.random(total) < late)
        timestamp_ms[rows] -= rng.integers(1, late_by_ms, len(rows))
    return Workload(
        user_names(users),
        np.tile(np.arange(users), events),
        timestamp_ms,
        Items(rng).draw(total),
        codes(rng, total),
        np.zeros(total, np.uint8),
    )


def inline_bytes(workload: Workload, users: int = 8) -> float:
    """Return the bytes an event of lists that hold each event's embedding, zstd over each whole list."""
    rng = np.random.default_rng(7)
    ids, row = np.unique(workload.item_id, return_inverse=True)
    embedding = rng.integers(-127, 128, (len(ids), EMBEDDING_DIM)).astype(np.int8)
    compressed = events = 0
    for user in range(users):
        mine = np.flatnonzero(workload.user_number == user)
        columns = (
            workload.timestamp_ms[mine].view(np.uint8).reshape(-1, 8),
            workload.item_id[mine].view(np.uint8).reshape(-1, 8),
            workload.code[mine].view(np.uint8).reshape(-1, 2),
            embedding[row[mine]].view(np.uint8),
        )
        compressed += len(bytes(cramjam.zstd.compress(np.concatenate(columns, axis=1).tobytes(), 3)))
        events += len(mine)
    return compressed / events


def scattered(users: int, rounds: int, *, first_ms: int, seed: int) -> Iterator[ActionBatch]:
    """Yield batches of one event for each of 2,000 users that are drawn anew for every batch."""
    rng = np.random.default_rng(seed)
    items, names = Items(rng), user_names(users)
    for number in range(rounds):
        chosen = rng.choice(users, BATCH, replace=False)
        timestamp_ms = np.sort(first_ms + number * 1_000 + rng.integers(0, 1_000, BATCH))
        yield ActionBatch(
            [names[user] for user in chosen.tolist()],
            timestamp_ms,
            items.draw(BATCH),
            codes(rng, BATCH),
            np.zeros(BATCH, np.uint8),
            timestamp_ms,
        )
