"""Blocking calls in threads, and the shutdown of a client library within a time limit."""

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

    For calls to a cluster that may never answer, if they hold nothing that must be closed in order.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[_R] = loop.create_future()

    def complete(result: _R | None, error: BaseException | None) -> None:
        if future.cancelled():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(cast("_R", result))

    def work() -> None:
        result, failure = None, None
        try:
            result = function(*args, **kwargs)
        except BaseException as error:  # noqa: BLE001 - raised where the future is awaited
            failure = error
        # The loop may be closed by now; then nothing waits for the result.
        with suppress(RuntimeError):
            loop.call_soon_threadsafe(complete, result, failure)

    threading.Thread(target=work, name="lifeline-ask", daemon=True).start()
    return await future


async def end_within(work: Coroutine[Any, Any, Any], timeout_s: float) -> bool:
    """Run `work`, the shutdown of a client, and cancel it after `timeout_s`; return whether it ended in time.

    An unreachable cluster is no error. CancelledError is raised only when the caller is cancelled, not when something
    inside `work` is. All other errors of `work` are raised.
    """
    task = asyncio.create_task(work)
    try:
        await asyncio.wait({task}, timeout=max(timeout_s, 0.0))
    except asyncio.CancelledError:
        task.cancel()
        raise
    is_in_time = task.done()
    if not is_in_time:
        task.cancel()
        await asyncio.wait({task}, timeout=_GRACE_S)
    if task.done() and not task.cancelled():
        error = task.exception()
        if error is not None and not isinstance(error, KafkaError | OSError):
            raise error
    return is_in_time
