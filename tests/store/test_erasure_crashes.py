"""A scrub that is interrupted at any step, by a kill, a close or another erasure, and finished later."""

import random
import threading
import time
from pathlib import Path

import pytest

from tests.support.erasure import LONG, SHAPE, SHORT, fill, traces_in
from tests.support.factories import Model, open_store
from tests.support.layout import check_layout
from tests.support.processes import child, said
from tests.support.scrub_steps import ScrubSteps

# Forks a process for each step of the scrub; it dies before that step.
DEATHS = """
import os, sys, threading
from pathlib import Path
from tests.support.scrub_steps import die_at
for stop in range(int(sys.argv[2]), 1_000):
    process = os.fork()
    if not process:
        die_at(Path(sys.argv[1]) / str(stop), stop)
        os._exit(0)
    if os.waitpid(process, 0)[1] == 0:
        print("steps", stop, flush=True)
        break
sys.stdin.read()
"""


@pytest.mark.slow
def test_a_kill_at_any_step_leaves_a_scrub_that_is_finished_later(tmp_path: Path) -> None:
    model = Model(SHAPE)
    fill(model, 0, 4)
    fill(model, 6, 2)
    with child(DEATHS, tmp_path, 0) as process:
        steps = int(said(process, "steps"))
    assert steps > 15
    for stop in range(steps + 1):
        path = tmp_path / str(stop)
        store = open_store(path, SHAPE)
        # If the process died before the second erasure was written, replay the rest of the log.
        fill(store, 6, 2, LONG)
        if store.applied_offset < 9:
            store.erase(LONG, offset=9)
        assert store.wait_scrubbed(60), stop
        for user in (LONG, SHORT):
            assert traces_in(path, user) == {}, stop
        model.check(store)
        check_layout(store, SHAPE)
        store.close()
        # The scrub is not repeated.
        again = open_store(path, SHAPE)
        assert not again.scrubbing
        again.close()


def test_closing_at_any_step_leaves_a_scrub_that_is_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, has_more = 0, True
    while has_more:
        path = tmp_path / str(stop)
        store = open_store(path, SHAPE)
        reached, scrubber = threading.Event(), store._scrubber

        def wait_for_close() -> None:
            reached.set()  # noqa: B023 - the thread ends within the round
            deadline = time.monotonic() + 20
            while not scrubber._closing and time.monotonic() < deadline:  # noqa: B023
                time.sleep(0.001)

        steps = ScrubSteps(stop, wait_for_close)
        with monkeypatch.context() as patching:
            for owner, name in steps.functions():
                patching.setattr(owner, name, steps.wrap(getattr(owner, name)))
            steps.wrap_writes(store)
            fill(store, 0, 2, LONG)
            store.erase(LONG, offset=5)
            deadline = time.monotonic() + 60
            while not reached.is_set() and store.scrubbing:
                assert time.monotonic() < deadline
                time.sleep(0.001)
            has_more = reached.is_set()
            began = time.monotonic()
            store.close()
            assert time.monotonic() - began < 10
        again = open_store(path, SHAPE)
        assert again.wait_scrubbed(60)
        assert traces_in(path, LONG) == {}, stop
        again.close()
        stop += 1
    assert stop > 10


def test_a_user_that_is_erased_again_at_any_step_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stop, has_more = 0, True
    while has_more:
        path = tmp_path / str(stop)
        store = open_store(path, SHAPE)
        again: list[int] = []

        def once_more() -> None:
            fill(store, 10, 2, LONG)  # noqa: B023 - the thread ends within the round
            store.compact()  # noqa: B023
            again.append(store.erase(LONG, offset=19))  # noqa: B023

        steps = ScrubSteps(stop, once_more)
        with monkeypatch.context() as patching:
            for owner, name in steps.functions():
                patching.setattr(owner, name, steps.wrap(getattr(owner, name)))
            steps.wrap_writes(store)
            fill(store, 0, 2, LONG)
            store.erase(LONG, offset=5)
            # The first scrub, and then those that were requested during it.
            assert store.wait_scrubbed(60)
            assert store.wait_scrubbed(60)
        has_more = bool(again)
        assert traces_in(path, LONG) == {}, stop
        store.close()
        stop += 1
    assert stop > 10


WRITER = """
import sys
from pathlib import Path
from tests.support.erasure import LONG, SHAPE, SHORT, fill
from tests.support.factories import open_store
store = open_store(Path(sys.argv[1]), SHAPE)
print("ready", store.applied_offset, flush=True)
at = store.applied_offset + 1
while True:
    if at % 5 == 4:
        store.erase((LONG, SHORT)[at % 2], offset=at)
    else:
        fill(store, at, 1, LONG, SHORT)
    print("applied", at, flush=True)
    at += 1
"""


@pytest.mark.slow
def test_kills_at_random_moments_leave_scrubs_that_are_finished_later(tmp_path: Path) -> None:
    rng = random.Random(3)
    for _ in range(5):
        with child(WRITER, tmp_path) as process:
            said(process, "ready")
            for _ in range(rng.randrange(5, 40)):
                said(process, "applied")
            time.sleep(rng.uniform(0.0, 0.02))
    store = open_store(tmp_path, SHAPE)
    last, model = store.applied_offset, Model(SHAPE)
    assert last > 20
    for at in range(last + 1):
        if at % 5 == 4:
            model.erase((LONG, SHORT)[at % 2])
        else:
            fill(model, at, 1, LONG, SHORT)
    model.check(store)
    for offset, user in enumerate([LONG, SHORT], last + 1):
        assert store.erase(user, offset=offset) == model.erase(user)
    assert store.wait_scrubbed(60)
    for user in (LONG, SHORT):
        assert traces_in(tmp_path, user) == {}
    model.check(store)
    store.close()
