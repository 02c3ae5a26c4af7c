"""The process of a node: signals, and the graceful stop."""

import asyncio
import signal
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any, TypeVar

import structlog

from lifeline.config import LoadedSettings
from lifeline.node.deadline import Deadline
from lifeline.node.node import Node
from lifeline.node.security_watch import SecurityWatch
from lifeline.scorer.allocator import share_heaps

_T = TypeVar("_T")

_log = structlog.get_logger(__name__)


async def run_node(loaded: LoadedSettings) -> None:
    """Run a node until SIGTERM or SIGINT, and stop it gracefully; raises the error of a part that fails."""
    settings = loaded.settings
    # Check first that the address is not open to untrusted callers.
    settings.security.listening_addresses(settings.node.grpc_address)
    share_heaps()
    loop = asyncio.get_running_loop()
    stop_requested = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop_requested.set)
    watch = SecurityWatch(loaded)
    loop.add_signal_handler(signal.SIGHUP, watch.ask)
    deadline = Deadline(settings.node.stop_deadline_s)
    async with AsyncExitStack() as stack:
        node = await _until(stop_requested, Node.start(settings, watch, stack, deadline))
        if node is not None:
            await _until(stop_requested, node.run())
        deadline.begin()
        _log.info("stopping", deadline_s=settings.node.stop_deadline_s)
        if node is not None:
            await node.drain(min(settings.node.drain_s, deadline.left()))
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        # Ignore further signals: otherwise one would end the process with the exit status of a crash.
        loop.remove_signal_handler(number)
        signal.signal(number, signal.SIG_IGN)
    _log.info("stopped")


async def _until(stop_requested: asyncio.Event, work: Coroutine[Any, Any, _T]) -> _T | None:
    """Return the result of `work`; cancel it and return None if a stop is requested first."""
    work_task, stop_task = asyncio.create_task(work), asyncio.create_task(stop_requested.wait())
    try:
        await asyncio.wait({work_task, stop_task}, return_when=asyncio.FIRST_COMPLETED)
        return work_task.result() if work_task.done() else None
    finally:
        work_task.cancel()
        stop_task.cancel()
        await asyncio.gather(work_task, stop_task, return_exceptions=True)
