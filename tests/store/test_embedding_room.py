"""A table or a disk without room for new items."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import strategies as st

from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.errors import DiskFullError, StoreError
from tests.support.embeddings import apply, check

ROWS = st.lists(st.tuples(st.integers(0, 6) | st.integers(0, (1 << 64) - 1), st.integers(-127, 127)), max_size=12)


def test_a_full_table_passes_new_items_over_and_goes_on_with_those_it_has(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path, max_items=3)
    rows = [(10, 1), (11, 2), (12, 3), (13, 4), (14, 5), (10, 6)]
    taken = table.apply(
        np.array([item for item, _ in rows], np.uint64),
        np.repeat(np.array([value for _, value in rows], np.int8), 32).reshape(-1, 32),
        np.zeros(len(rows), np.uint32),
        partition=0,
        offset=5,
    )
    assert (taken, len(table), table.applied_offset(0)) == (2, 3, 5)
    apply(table, [(11, 9), (15, 1)], 6)
    assert len(table) == 3
    table.close()
    table = EmbeddingTable.open(tmp_path, max_items=4)
    apply(table, [(16, 1), (17, 1)], 7)
    assert table._index.ids.tolist()[-1] == 16
    assert len(table) == 4
    table.close()


def test_a_full_disk_refuses_new_items_and_the_sync_until_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, model = EmbeddingTable.open(tmp_path, sync_every_s=3_600), dict[int, int]()
    first, more = [(item, 1) for item in range(4_000)], [(item, 2) for item in range(3_990, 9_000)]
    apply(table, first, 0)
    model |= dict(first)

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patching:
        patching.setattr("lifeline.store.embedding_files.os.posix_fallocate", refuse)
        for _ in range(2):
            with pytest.raises(DiskFullError, match=rf"free 64 MiB or more on the disk of {tmp_path}"):
                apply(table, more, 1)
            assert len(table) == len(model)
            assert table.applied_offset(0) == 0
    with monkeypatch.context() as patching:
        patching.setattr("lifeline.store.embedding_files.write_durably", refuse)
        with pytest.raises(DiskFullError, match=r"embeddings\.json"):
            table.sync()
    with monkeypatch.context() as patching:
        patching.setattr("lifeline.store.embedding_files.os.fsync", refuse)
        with pytest.raises(StoreError, match=r"cannot be synced .*: check the disk, then restart the node"):
            table.sync()
    apply(table, more, 1)
    model |= dict(more)
    table.sync()
    check(table, model)
    table.close()
    again = EmbeddingTable.open(tmp_path)
    assert again.applied_offset(0) == 1
    check(again, model)
    again.close()
