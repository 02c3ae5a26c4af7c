"""A scrub whose disk fails, and what a scrub overwrites in RocksDB's own log."""

import sys
import threading
import time
from pathlib import Path

import pytest

from lifeline.store import erasure
from lifeline.store.settings import StoreSettings
from tests.support.erasure import LONG, SHAPE, fill, traces_in
from tests.support.factories import BOB, batch_of, open_store
from tests.support.processes import child, said

FULL_DISK = """
import resource, sys
from pathlib import Path
import structlog
from lifeline.store import erasure
from tests.support.factories import HOUR_MS, Event, batch_of, open_store
from tests.support.erasure import LONG, SHAPE, SINCE, events_of
structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
erasure._RETRY_S = 0.05
store = open_store(Path(sys.argv[1]), SHAPE)
history = events_of(LONG)
for part in range(3):
    events = history[len(history) * part // 3 : len(history) * (part + 1) // 3]
    for user in range(400):
        events += [Event(b"user%04d" % user, SINCE + HOUR_MS + part * 99 + at, user * 777 + at, 1) for at in range(20)]
    store.apply(batch_of(events), offset=part)
    for family in store.database.families.values():
        family.flush()
# No compaction can succeed: its output would be larger than a file may be.
largest = max(file.stat().st_size for file in Path(sys.argv[1]).glob("*.sst"))
resource.setrlimit(resource.RLIMIT_FSIZE, (largest * 3 // 2,) * 2)
store.erase(LONG, offset=9)
print("scrubbed", store.wait_scrubbed(1), flush=True)
sys.stdin.read()
"""


def test_a_compaction_that_fails_is_no_scrub(tmp_path: Path) -> None:
    with child(FULL_DISK, tmp_path) as process:
        assert said(process, "scrubbed") == "False"
    assert traces_in(tmp_path, LONG)
    store = open_store(tmp_path, SHAPE)
    assert store.wait_scrubbed(60)
    assert traces_in(tmp_path, LONG) == {}
    assert store.state.events == 400 * 60
    store.close()


def test_a_scrub_that_fails_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(erasure, "_RETRY_S", 0.01)
    real, fails = erasure._overwrite_logs, [3]

    def overwrite(path: Path, users: list[bytes]) -> None:
        fails[0] -= 1
        if fails[0] >= 0:
            raise OSError("Input/output error")
        real(path, users)

    monkeypatch.setattr(erasure, "_overwrite_logs", overwrite)
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    store.erase(LONG, offset=5)
    assert store.wait_scrubbed(60)
    assert fails == [-1]
    assert traces_in(tmp_path, LONG) == {}
    # The failures have not stopped the writer.
    fill(store, 6, 1)
    store.close()


def test_closing_does_not_wait_for_the_next_attempt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    failing = threading.Event()

    def overwrite(path: Path, users: list[bytes]) -> None:
        del path, users
        failing.set()
        raise OSError("Input/output error")

    with monkeypatch.context() as patching:
        patching.setattr(erasure, "_overwrite_logs", overwrite)
        store = open_store(tmp_path, SHAPE)
        fill(store, 0, 2, LONG)
        store.erase(LONG, offset=5)
        assert failing.wait(20)
        assert not store.wait_scrubbed(0.05)
        began = time.monotonic()
        store.close()
        assert time.monotonic() - began < 10
    again = open_store(tmp_path, SHAPE)
    assert again.wait_scrubbed(60)
    assert traces_in(tmp_path, LONG) == {}
    again.close()


def test_what_shows_a_user_is_only_overwritten_where_it_stands_alone(tmp_path: Path) -> None:
    # RocksDB's own log stays readable: hexadecimal digits inside a longer number are no user's id.
    log = tmp_path / "LOG"
    line = b"2026/01/01-65FF00 %s 7A65FF 6600 from '%s' seq:1 .. '%s' seq:0; will stop at '%s'\n"
    log.write_bytes(line % (b"65FF", b"65FF", b"6600", b"65FF0080AB") + line % (b"65FF", b"7A65FF", b"6601", b"66"))
    (tmp_path / "LOG.old.123").write_bytes(b"'65FF'")
    (tmp_path / "LOCK").write_bytes(b"'65FF'")
    erasure._overwrite_logs(tmp_path, [b"e"])
    assert log.read_bytes() == line % (b"65FF", b"----", b"----", b"----------") + line % (
        b"65FF",
        b"7A65FF",
        b"6601",
        b"66",
    )
    assert (tmp_path / "LOG.old.123").read_bytes() == b"'----'"
    assert (tmp_path / "LOCK").read_bytes() == b"'65FF'"
    erasure._overwrite_logs(tmp_path, [])


def test_the_end_of_a_store_ends_its_threads(tmp_path: Path) -> None:
    store = open_store(tmp_path, StoreSettings(**SHAPE.model_dump()))
    store.apply(batch_of(BOB), offset=0)
    store.erase(b"bob", offset=1)
    assert store.wait_scrubbed(60)
    deadline = time.monotonic() + 20
    while any(thread.name == "scrub-3" for thread in threading.enumerate()):
        # The thread lives while it has work.
        assert time.monotonic() < deadline
        time.sleep(0.001)
    store.close()
    assert sys.getrefcount(store) >= 2
