"""The real history: every user's sequence equals one computed in plain Python, whatever the order."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from lifeline.core.actions import ActionBatch, Identity, Kind
from lifeline.sources.history import RAILS_HISTORY, History, read_history
from lifeline.store.reader import SequenceReader
from lifeline.store.settings import StoreSettings
from tests.support.factories import EVERYTHING, TINY_MEMORY, Event, event_hash, open_store

DISTINCT = 213_385


@pytest.fixture(scope="module")
def history() -> History:
    return read_history(RAILS_HISTORY)


@pytest.fixture(scope="module")
def expected(history: History) -> dict[str, list[Identity]]:
    """Each user's sequence, from nothing but the rows."""
    sequences: dict[str, set[Identity]] = {}
    for action in history.source():
        identity = Identity(action.timestamp_ms, action.item_id, action.action_type << 8 | action.surface)
        sequences.setdefault(action.user_id, set()).add(identity)
    return {user: sorted(identities) for user, identities in sequences.items()}


@pytest.fixture(scope="module")
def fingerprint(expected: dict[str, list[Identity]]) -> int:
    return sum(event_hash(Event(u.encode(), *i)) for u, identities in expected.items() for i in identities) % (1 << 128)


def batches(history: History, order: "np.ndarray[tuple[int], np.dtype[np.int64]]", size: int) -> Iterator[ActionBatch]:
    users = [user.encode() for user in history.user_id]
    kinds = history.vocabulary.kind_of_type
    for at in range(0, len(order), size):
        rows = order[at : at + size]
        yield ActionBatch.of(
            [users[row] for row in rows],
            history.timestamp_ms[rows],
            history.item_id[rows],
            history.action_type[rows],
            history.surface[rows],
            kinds[history.action_type[rows]],
            history.timestamp_ms[rows],
        )


@pytest.mark.parametrize(("arrival", "size"), [("as-it-came", 2_000), ("shuffled", 7_777), ("backwards", 2_000)])
def test_every_sequence_is_exact(
    tmp_path: Path,
    history: History,
    expected: dict[str, list[Identity]],
    fingerprint: int,
    arrival: str,
    size: int,
) -> None:
    rows = np.arange(len(history))
    order = {
        "as-it-came": rows,
        "backwards": rows[::-1],
        "shuffled": np.random.default_rng(3).permutation(rows),
    }[arrival]
    store = open_store(tmp_path, StoreSettings(**TINY_MEMORY))
    inserted = repeated = 0
    for number, batch in enumerate(batches(history, order, size)):
        result = store.apply(batch, offset=number)
        inserted, repeated = inserted + result.inserted, repeated + result.repeated
        assert result.trimmed == 0
    assert (inserted, repeated) == (DISTINCT, len(history) - DISTINCT)
    assert store.state.events == DISTINCT
    assert store.fingerprint == fingerprint
    reader = SequenceReader(store)
    assert set(store.users()) == set(expected)
    for user, identities in expected.items():
        found = reader.read(user, EVERYTHING).sequences
        assert found[Kind.EXPLICIT].identities() == identities
        assert found[Kind.IMPRESSION].length == 0
    store.close()


def test_the_file_is_the_one_that_is_meant(history: History, expected: dict[str, list[Identity]]) -> None:
    assert len(history) == 214_954
    assert len(expected) == 6_454
    assert sum(map(len, expected.values())) == DISTINCT
    assert max(map(len, expected.values())) <= StoreSettings().max_explicit
