"""A recount adds up what is stored, whatever the state record says."""

from pathlib import Path

import numpy as np

from lifeline.core.actions import ActionBatch, Kind
from lifeline.store.keys import sequence_prefix
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import Recount, recount
from lifeline.store.settings import StoreSettings

SETTINGS = StoreSettings(chunk_events=8, inline_events=2, max_explicit=40, max_impressions=20)


def batch(user: bytes, n: int, kind: Kind) -> ActionBatch:
    rows = np.arange(n)
    return ActionBatch(
        [user] * n,
        rows.astype(np.int64) // 2,
        rows.astype(np.uint64),
        np.full(n, 257, np.uint16),
        np.full(n, kind, np.uint8),
        rows.astype(np.int64),
    )


def test_it_is_what_the_writer_kept_until_a_record_goes_missing(tmp_path: Path) -> None:
    memory = SharedMemory(SETTINGS)
    store = PartitionStore.open(tmp_path, partition=0, settings=SETTINGS, memory=memory)
    assert recount(store) == Recount(0, 0)
    for offset, (user, n, kind) in enumerate(
        ((b"a", 100, Kind.EXPLICIT), (b"b", 3, Kind.EXPLICIT), (b"a", 30, Kind.IMPRESSION))
    ):
        store.apply(batch(user, n, kind), offset=offset)
    assert recount(store) == Recount(63, store.fingerprint)
    assert store.state.events == 63
    del store.database.rows[sequence_prefix(b"b", Kind.EXPLICIT)]
    assert recount(store).events == 60
    assert recount(store).fingerprint != store.fingerprint
    store.close()
