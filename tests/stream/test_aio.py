import asyncio
import threading

import pytest
from aiokafka.errors import KafkaConnectionError

from lifeline.stream.aio import end_within, run_abandonable, run_to_end


async def test_it_returns_what_the_function_returns_and_raises_what_it_raises() -> None:
    assert await run_to_end(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_to_end(divmod, 7, 0)


async def test_a_cancellation_waits_for_the_thread() -> None:
    begun, gate, ended = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        begun.set()
        gate.wait(20)
        ended.set()

    task = asyncio.create_task(run_to_end(work))
    await asyncio.to_thread(begun.wait, 20)
    task.cancel()
    await asyncio.sleep(0)
    assert not task.done()
    gate.set()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert ended.is_set()


async def test_an_abandonable_run_gives_what_the_function_gives_and_raises_what_it_raises() -> None:
    assert await run_abandonable(divmod, 7, 2) == (3, 1)
    with pytest.raises(ZeroDivisionError):
        await run_abandonable(divmod, 7, 0)


def test_an_abandoned_thread_holds_up_neither_the_caller_nor_the_end_of_the_loop() -> None:
    never = threading.Event()

    async def abandon() -> None:
        async with asyncio.timeout(0.05):
            await run_abandonable(never.wait)

    # A loop of the test's own, because the end of the loop is tested too.
    with pytest.raises(TimeoutError):
        asyncio.run(abandon())
    never.set()


async def cancelled() -> None:
    raise asyncio.CancelledError


async def fails(error: Exception) -> None:
    raise error


async def test_cancellations_and_a_cluster_that_is_away_stay_inside() -> None:
    assert await end_within(cancelled(), 5)
    assert await end_within(fails(KafkaConnectionError()), 5)
    with pytest.raises(ValueError, match="bug"):
        await end_within(fails(ValueError("bug")), 5)


async def test_what_does_not_end_is_cancelled_and_our_own_cancellation_passes() -> None:
    assert not await end_within(asyncio.Event().wait(), 0)
    task = asyncio.create_task(end_within(asyncio.Event().wait(), 60))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
