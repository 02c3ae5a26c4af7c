"""An erasure while the store is read and written: the scrub waits for the views that hold the user's tables."""

import threading
import time
from pathlib import Path

import pytest
from rocksdict import Rdict

from lifeline.store import erasure, keys
from lifeline.store.rocksdb import compact_range
from tests.support.erasure import LONG, SHAPE, SHORT, fill, traces_in
from tests.support.factories import Model, open_store
from tests.support.layout import check_layout


def test_an_open_view_is_waited_for(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    store.compact()
    fill(store, 2, 2, LONG)
    with store.view() as view:
        store.erase(LONG, offset=9)
        assert not store.wait_scrubbed(0.3)
        assert store.scrubbing
        # The view still shows the state at its opening.
        view.rows.seek(keys.user_prefix(LONG))
        assert view.rows.key().startswith(LONG)
        del view
    assert store.wait_scrubbed(60)
    assert traces_in(tmp_path, LONG) == {}
    store.close()


def test_a_view_that_is_opened_while_the_scrub_is_under_way_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Whenever the view was opened, it holds the tables from before the compaction.
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    store.compact()
    compacting, opened = threading.Event(), threading.Event()

    def compact_later(family: Rdict, start: bytes | None = None, end: bytes | None = None) -> None:
        compacting.set()
        opened.wait(20)
        compact_range(family, start, end)

    monkeypatch.setattr(erasure, "compact_range", compact_later)
    store.erase(LONG, offset=9)
    assert compacting.wait(20)
    with store.view() as view:
        opened.set()
        assert not store.wait_scrubbed(0.3)
        view.rows.seek_to_first()
        del view
    assert store.wait_scrubbed(60)
    assert traces_in(tmp_path, LONG) == {}
    store.close()


def test_views_that_are_opened_later_are_not_waited_for(tmp_path: Path) -> None:
    store = open_store(tmp_path, SHAPE)
    fill(store, 0, 2, LONG)
    done = threading.Event()

    def read() -> None:
        # At least one view is open at every moment.
        while not done.is_set():
            with store.view() as first:
                del first
                with store.view() as second:
                    second.rows.seek_to_first()
                    del second

    readers = [threading.Thread(target=read) for _ in range(2)]
    for thread in readers:
        thread.start()
    store.erase(LONG, offset=9)
    scrubbed = store.wait_scrubbed(60)
    done.set()
    for thread in readers:
        thread.join(20)
    assert scrubbed
    assert traces_in(tmp_path, LONG) == {}
    store.close()


def test_the_writer_goes_on_during_a_scrub(tmp_path: Path) -> None:
    store, model = open_store(tmp_path, SHAPE), Model(SHAPE)
    offset = 0
    for user in (LONG, SHORT):
        for target in (store, model):
            fill(target, offset, 4, user)
        offset += 4
        store.erase(user, offset=offset)
        model.erase(user)
        offset += 1
        deadline = time.monotonic() + 60
        while store.scrubbing:
            assert time.monotonic() < deadline
            fill(store, offset, 1)
            fill(model, offset, 1)
            offset += 1
        # The store is open: the write-ahead log holds what was applied since, and is searched too.
        assert traces_in(tmp_path, user) == {}
    model.check(store)
    check_layout(store, SHAPE)
    store.close()
