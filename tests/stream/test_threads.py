import asyncio
import threading

import pytest

from lifeline.stream.threads import run_abandonable, run_to_end


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
