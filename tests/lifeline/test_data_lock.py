from pathlib import Path

import pytest

from lifeline.data_lock import locked
from lifeline.errors import DataDirError
from store.errors import StoreLockedError


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    data_dir = tmp_path / "new" / "data"
    with (
        locked(data_dir),
        pytest.raises(StoreLockedError, match=r"belongs to a node that runs: stop it, or name another"),
        locked(data_dir),
    ):
        pass
    with locked(data_dir):
        assert data_dir.is_dir()


def test_a_directory_that_cannot_be_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(DataDirError, match=r"cannot be used .* name another directory with --data-dir"),
        locked(tmp_path / "file" / "data"),
    ):
        pass


def test_what_a_killed_holder_left_goes_but_not_from_under_one_that_is_at_work(tmp_path: Path) -> None:
    left = tmp_path / "partition-00000.snapshot-abc"
    with locked(tmp_path):
        left.mkdir()
        with pytest.raises(StoreLockedError), locked(tmp_path):
            pass
        assert left.exists()
    with locked(tmp_path):
        assert not left.exists()
