"""Partitions change places whole, whenever the swap is interrupted."""

from pathlib import Path

import pytest

from lifeline.core.errors import DataDirError, ReplayError
from lifeline.ops.swap import swap
from lifeline.ops.topic_note import TOPIC_NOTE
from lifeline.store.data_lock import data_dir_lock
from lifeline.store.errors import StoreLockedError

NUMBERS = (0, 1, 2)


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    """Two partitions; the third is new."""
    return made(tmp_path / "data", "old", NUMBERS[:2])


@pytest.fixture
def into(tmp_path: Path) -> Path:
    return made(tmp_path / "into", "new", NUMBERS)


def made(place: Path, what: str, numbers: tuple[int, ...]) -> Path:
    for number in numbers:
        path = place / f"partition-{number:05d}"
        path.mkdir(parents=True)
        (path / "what").write_text(what)
    return place


def contents(data_dir: Path) -> list[str]:
    return [(data_dir / f"partition-{number:05d}" / "what").read_text() for number in NUMBERS]


def check_done(data_dir: Path, into: Path, replaced: list[Path]) -> None:
    assert contents(data_dir) == ["new"] * 3
    assert [(path / "what").read_text() for path in replaced] == ["old"] * 2
    assert all(path.name.startswith(f"partition-{n:05d}.replaced-") for n, path in enumerate(replaced))
    assert list(into.glob("partition-*")) == []
    with data_dir_lock(data_dir):
        pass


def test_the_old_partitions_stay_beside_the_new_ones(data_dir: Path, into: Path) -> None:
    (data_dir / TOPIC_NOTE).write_text("old")
    (into / TOPIC_NOTE).write_text("new")
    check_done(data_dir, into, swap(data_dir, into, NUMBERS))
    assert (data_dir / TOPIC_NOTE).read_text() == "new"


@pytest.mark.parametrize("steps", range(5))
def test_a_swap_that_was_interrupted_keeps_nodes_out_and_is_finished(
    data_dir: Path, into: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    class Died(BaseException):
        pass

    left = steps
    rename = Path.rename

    def dying(path: Path, target: Path) -> Path:
        nonlocal left
        # The journal's own rename is not one of the steps.
        if path.name.startswith("partition-"):
            if left == 0:
                raise Died
            left -= 1
        return rename(path, target)

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", dying)
        with pytest.raises(Died):
            swap(data_dir, into, NUMBERS)
    with pytest.raises(DataDirError, match="interrupted: finish it"), data_dir_lock(data_dir):
        pass
    elsewhere = made(tmp_path / "elsewhere", "other", NUMBERS)
    with pytest.raises(ReplayError, match="finish it first"):
        swap(data_dir, elsewhere, NUMBERS)
    check_done(data_dir, into, swap(data_dir, into, ()))


def test_what_cannot_be_swapped_is_left_alone(data_dir: Path, into: Path) -> None:
    with pytest.raises(ReplayError, match="has no partition 7"):
        swap(data_dir, into, (0, 7))
    with data_dir_lock(data_dir), pytest.raises(StoreLockedError):
        swap(data_dir, into, NUMBERS)
    (data_dir / "swap.json").write_text("{}")
    with pytest.raises(DataDirError, match="is not a valid journal of a swap"):
        swap(data_dir, into, NUMBERS)
    assert contents(into) == ["new"] * 3
