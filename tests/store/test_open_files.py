"""The limit of open files: raised, divided, and refused where it is too low."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from lifeline.store.errors import OpenFilesError
from lifeline.store.open_files import NODE_FILES, PARTITION_FILES, FileBudget, check_tables, raise_limit
from tests.support.factories import Event, batch_of, open_store, tiny
from tests.support.processes import open_files

_FOLLOW = """
import resource, sys
from pathlib import Path
from lifeline.store.errors import OpenFilesError
from lifeline.store.memory import SharedMemory
from lifeline.store.secondary_partition import SecondaryPartition
from lifeline.store.settings import StoreSettings

resource.setrlimit(resource.RLIMIT_NOFILE, (100, 100))
memory, opened = SharedMemory(StoreSettings()), []
try:
    while len(opened) < 100:
        opened.append(SecondaryPartition.open(Path(sys.argv[1]), partition=3, memory=memory))
except OpenFilesError as error:
    print(len(opened), error)
"""


def limited(limits: str, code: str, *arguments: str) -> str:
    """Run Python code in a process with the limits that `ulimit` sets; return what it prints."""
    command = ["sh", "-c", f'{limits} && exec "$@"', "sh", sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    code = (
        "import resource; from lifeline.store.open_files import raise_limit; "
        "print(raise_limit(), *resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    assert limited("ulimit -Sn 200 && ulimit -Hn 900", code).split() == ["900", "900", "900"]
    assert limited("ulimit -n 200", code).split() == ["200", "200", "200"]


@pytest.mark.parametrize("limit", [1_024, 4_096, 65_536, 1 << 20])
@pytest.mark.parametrize("partitions", [1, 4, 32])
def test_all_partitions_together_leave_room_for_the_rest(
    limit: int, partitions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lifeline.store.open_files.raise_limit", lambda: limit)
    budget = FileBudget.of(partitions, NODE_FILES)
    used = partitions * (PARTITION_FILES + budget.tables)
    assert used <= limit - NODE_FILES
    assert budget.tables >= 10
    # RocksDB raises lower values to 20 by itself.
    assert budget.max_open_files >= 20
    if budget.tables < 4_096:
        assert used >= limit * 3 // 4 - partitions


def test_too_many_partitions_are_refused_with_both_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lifeline.store.open_files.raise_limit", lambda: 200)
    with pytest.raises(
        OpenFilesError, match=r"32 partitions need 960 open files, and this process may have 200: raise"
    ):
        FileBudget.of(32, NODE_FILES)


def test_more_tables_than_may_be_open_are_refused_before_one_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [tmp_path / "partition-00000", tmp_path / "partition-00001"]
    for path in paths:
        path.mkdir()
        for number in range(100):
            (path / f"{number:06}.sst").touch()
    monkeypatch.setattr("lifeline.store.open_files.raise_limit", lambda: 300)
    check_tables(paths[:1])
    monkeypatch.setattr("lifeline.store.open_files.raise_limit", lambda: 291)
    with pytest.raises(OpenFilesError, match="2 partitions with 200 tables need 292 open files") as caught:
        check_tables(paths)
    assert "LimitNOFILE" in str(caught.value)


def test_a_limit_that_is_reached_is_named_as_the_cause(tmp_path: Path) -> None:
    with_events = open_store(tmp_path / "p3", tiny())
    with_events.apply(batch_of([Event(b"u", 1, 1, 257)]), offset=0)
    with_events.close()
    opened, _, message = limited("true", _FOLLOW, str(tmp_path / "p3")).partition(" ")
    assert int(opened) > 0
    assert "open files, and this process may have 100: raise its hard limit" in message


def test_a_partition_keeps_as_many_files_open_as_the_budget_counts(tmp_path: Path) -> None:
    store = open_store(tmp_path / "p3", tiny())
    for offset in range(3):
        store.apply(batch_of([Event(b"u", offset, 1, 257)]), offset=offset)
    store.compact()
    names = [name for name in open_files(os.getpid()) if name.startswith(str(tmp_path))]
    beside_tables = [name for name in names if not name.endswith(".sst")]
    store.close()
    assert 5 <= len(beside_tables) <= PARTITION_FILES
    assert raise_limit() > len(names)
