"""The places of calls that wait."""

import threading
from contextlib import ExitStack
from contextvars import copy_context
from pathlib import Path
from unittest.mock import Mock

import grpc
import pytest

from lifeline.core.actions import ActionBatch
from lifeline.core.reasons import Reason
from lifeline.rpc.status import Refusal
from lifeline.rpc.waits import CALLER, RETRY_AFTER_S, SLOT, Slot, Waits, resume
from tests.support.factories import open_store, tiny


def call(host: str = "10.0.0.1") -> Mock:
    context = Mock(grpc.ServicerContext)
    context.peer.return_value = f"ipv4:{host}:{id(context) % 60_000}"
    return context


def refusal_of(waits: Waits, context: Mock) -> Refusal:
    with pytest.raises(Refusal) as caught, waits.place(context):
        raise AssertionError("there was a place")
    assert (caught.value.code, caught.value.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.WAITS_FULL)
    assert caught.value.retry_after_s == RETRY_AFTER_S
    return caught.value


@pytest.mark.parametrize(("most", "share"), [(1, 1), (2, 1), (3, 2), (32, 16)])
def test_one_caller_has_half_of_the_places(most: int, share: int) -> None:
    waits = Waits(most)
    assert waits.capacity_per_caller == share
    with ExitStack() as stack:
        for _ in range(share):
            stack.enter_context(waits.place(call("10.0.0.1")))
        assert refusal_of(waits, call("10.0.0.1")).metadata == {"limit": str(share)}
        for _ in range(most - share):
            stack.enter_context(waits.place(call("10.0.0.2")))
        refused = refusal_of(waits, call("10.0.0.3"))
        assert refused.metadata == {"limit": str(most)}
        assert waits.statistics() == (most, 2)
    assert waits.statistics() == (0, 2)
    with waits.place(call("10.0.0.1")):
        assert waits.statistics().waiting == 1


def test_a_caller_with_a_name_is_known_by_it() -> None:
    waits = Waits(2)

    def named() -> None:
        CALLER.set("feed")
        with waits.place(call("10.0.0.1")):
            assert "1 calls of feed wait for an offset: retry" in str(refusal_of(waits, call("10.0.0.2")))

    copy_context().run(named)


def test_a_call_that_waits_gives_its_slot_back_and_takes_one_again() -> None:
    free, full = threading.Semaphore(1), Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, Reason.OVERLOADED, "later")

    def waiting() -> None:
        slot = Slot(free, lambda: full)
        slot.take()
        SLOT.set(slot)
        with Waits(1).place(call()):
            assert free.acquire(blocking=False)
            with pytest.raises(Refusal, match="later"):
                resume(0.01)
            slot.give_back()
            free.release()
            resume(0.01)
        assert not free.acquire(blocking=False)
        slot.give_back()
        slot.give_back()

    copy_context().run(waiting)
    assert free.acquire(blocking=False)
    assert not free.acquire(blocking=False)
    resume(0)


def test_a_read_that_ends_wakes_nobody_who_waits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_store(tmp_path / "p", tiny())
    wake = Mock(wraps=store.database.changed.notify_all)
    monkeypatch.setattr(store.database.changed, "notify_all", wake)
    with store.view():
        pass
    assert wake.call_count == 0
    store.apply(ActionBatch.empty(), offset=1)
    assert wake.call_count > 0
    store.close()
