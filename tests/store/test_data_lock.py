import os
import stat
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from structlog.testing import capture_logs

from lifeline.core.errors import DataDirError
from lifeline.core.paths import items_dir, partition_dir
from lifeline.store.data_lock import data_dir_lock
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.errors import StoreLockedError
from lifeline.store.snapshots.repository import SnapshotRepository
from lifeline.store.snapshots.settings import SnapshotSettings
from tests.support.factories import ANN, SHAPE, batch_of, open_store
from tests.support.permissions import open_to_others


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    with (
        data_dir_lock(data_dir),
        pytest.raises(StoreLockedError, match=r"in use by a running node: stop it, or name another"),
        data_dir_lock(data_dir),
    ):
        pass
    with data_dir_lock(data_dir):
        assert data_dir.is_dir()


def test_a_directory_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataDirError, match=r"cannot be used .* name another directory with --data-dir"),
        data_dir_lock(tmp_path / "file" / "data"),
    ):
        pass


def test_what_a_killed_holder_left_goes_but_not_from_under_one_that_is_at_work(tmp_path: Path) -> None:
    left = tmp_path / "partition-00000.snapshot-abc"
    with data_dir_lock(tmp_path):
        left.mkdir()
        with pytest.raises(StoreLockedError), data_dir_lock(tmp_path):
            pass
        assert left.exists()
    with data_dir_lock(tmp_path):
        assert not left.exists()


@pytest.mark.parametrize("mode", [None, 0o755, 0o2775])
def test_nothing_that_is_made_under_the_lock_is_open_to_others(tmp_path: Path, mode: int | None) -> None:
    data_dir, url = tmp_path / "data", tmp_path / "snapshots"
    if mode is not None:
        data_dir.mkdir()
        data_dir.chmod(mode)
    with data_dir_lock(data_dir):
        store = open_store(partition_dir(data_dir, 3), SHAPE)
        for offset in range(3):
            store.apply(batch_of(ANN), offset=offset)
            store.compact()
        table = EmbeddingTable.open(items_dir(data_dir))
        table.apply(
            np.array([7], np.uint64), np.ones((1, 32), np.int8), np.array([1], np.uint32), partition=0, offset=0
        )
        table.sync()
        SnapshotRepository.of(SnapshotSettings(url=f"file://{url}")).create(store, topic="actions")
        assert len(list(data_dir.rglob("*"))) > 10
        assert [*open_to_others(data_dir), *open_to_others(url)] == []
        store.close()
        table.close()
    assert open_to_others(data_dir) == []
    # What the process makes for others afterwards is as it was.
    (tmp_path / "report").write_text("")
    assert stat.S_IMODE((tmp_path / "report").stat().st_mode) == 0o644


def test_a_directory_of_somebody_elses_is_used_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    tmp_path.chmod(0o2775)
    monkeypatch.setattr(Path, "chmod", refuse)
    with capture_logs() as logs, data_dir_lock(tmp_path):
        (tmp_path / "made").write_text("")
    (warning,) = logs
    assert (warning["log_level"], warning["mode"]) == ("warning", "2775")
    assert "this user does not own it" in warning["event"]
    assert open_to_others(tmp_path) == [str(tmp_path)]
