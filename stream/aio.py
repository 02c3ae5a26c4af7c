"""Blocking calls in threads, and the end of a client library's work under a deadline."""

import asyncio
import threading
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any, ParamSpec, TypeVar, cast

from aiokafka.errors import KafkaError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_GRACE_S = 0.5


async def run_to_end(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a blocking function in a thread; a cancellation is raised only once the function has returned."""
    work = asyncio.create_task(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        await asyncio.wait({work})
        raise


async def run_abandonable(function: Callable[_P, _R], *args: _P.args, **kwargs: _P.kwargs) -> _R:
    """Run a blocking function in a thread that neither a cancellation nor the end of the process waits for.

    For questions to a cluster that may never answer, and that hold nothing which must be closed in order.
    """
    loop = asyncio.get_running_loop()
    answer: asyncio.Future[_R] = loop.create_future()

    def settle(result: _R | None, error: BaseException | None) -> None:
        if answer.cancelled():
            return
        if error is not None:
            answer.set_exception(error)
        else:
            answer.set_result(cast("_R", result))

    def work() -> None:
        result, failure = None, None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - it is raised where the answer is awaited
            failure = error
        # The loop may have ended meanwhile: then nobody wants to know.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(settle, result, failure)

    threading.Thread(target=work, name="lifeline-ask", daemon=True).start()
    return await answer


async def end_within(work: Coroutine[Any, Any, Any], timeout_s: float) -> bool:
    """Run `work`, the last thing asked of a client; True when it ended within `timeout_s`, else it is cancelled.

    A cluster that is away is no error here, and a cancellation inside of `work` is not ours: CancelledError is
    raised only when the caller is cancelled. Whatever else `work` raises, is raised.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=max(timeout_s, 0.0))
    except asyncio.CancelledError:
        task.cancel()
        raise
    ended = task.done()
    if not ended:
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE_S)
    if task.done() and not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, KafkaError | OSError):
            raise error
    return ended
