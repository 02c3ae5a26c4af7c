import asyncio
import threading

import pytest
from aiokafka.errors import KafkaConnectionError

from lifeline.stream.aio import end_within, run_abandonable, run_to_end


def test_it_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    async def run() -> None:
        assert await run_to_end(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await run_to_end(divmod, 7, 0)

    asyncio.run(run())


def test_a_cancellation_waits_for_the_thread() -> None:
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(20)
        ended.set()

    async def run() -> None:
        task = asyncio.create_task(run_to_end(work))
        await asyncio.to_thread(begun.wait, 20)
        task.cancel()
        await asyncio.sleep(0)
        assert not task.done()
        gate.set()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert ended.is_set()

    asyncio.run(run())


def test_an_abandonable_run_gives_what_the_function_gives_and_raises_what_it_raises() -> None:
    async def check() -> None:
        assert await run_abandonable(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await run_abandonable(divmod, 7, 0)

    asyncio.run(check())


def test_an_abandoned_thread_holds_up_neither_the_caller_nor_the_end_of_the_loop() -> None:
    never = threading.Event()

    async def ask() -> None:
        await asyncio.wait_for(run_abandonable(never.wait), 0.05)

    with pytest.raises(TimeoutError):
        asyncio.run(ask())
    never.set()


async def cancelled() -> None:
    raise asyncio.CancelledError


async def fails(error: Exception) -> None:
    raise error


def test_cancellations_and_a_cluster_that_is_away_stay_inside() -> None:
    async def run() -> None:
        assert await end_within(cancelled(), 5)
        assert await end_within(fails(KafkaConnectionError()), 5)
        with pytest.raises(ValueError, match="bug"):
            await end_within(fails(ValueError("bug")), 5)

    asyncio.run(run())


def test_what_does_not_end_is_cancelled_and_our_own_cancellation_passes() -> None:
    async def run() -> None:
        assert not await end_within(asyncio.Event().wait(), 0)
        ours = asyncio.create_task(end_within(asyncio.Event().wait(), 60))
        await asyncio.sleep(0)
        ours.cancel()
        with pytest.raises(asyncio.CancelledError):
            await ours

    asyncio.run(run())
