"""Stopping: the end of what a client library does, under a deadline and without its own exceptions."""

import asyncio
from collections.abc import Coroutine
from typing import Any

from aiokafka.errors import KafkaError

_GRACE_S = 0.5


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
