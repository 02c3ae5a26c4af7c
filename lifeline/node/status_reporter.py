"""The status reporter: it passes a node's health to the gRPC server, and logs readiness and progress."""

import asyncio
import time
from contextlib import suppress

import structlog

from lifeline.node.group import GroupPart
from lifeline.node.health import Health, all_ok
from lifeline.rpc.server import NodeServer
from lifeline.store.fingerprint import as_text
from lifeline.stream.observer import NoObserver
from lifeline.stream.partition import PartitionState

_INTERVAL_S = 0.5

_log = structlog.get_logger(__name__)


class StateSignal(NoObserver):
    """Sets an event after each change of the partitions' states."""

    def __init__(self, changed: asyncio.Event) -> None:
        self._changed = changed

    def on_state(self, partition: int, state: PartitionState) -> None:  # noqa: ARG002 - any change counts
        """Set the event."""
        self._changed.set()

    def on_closed(self, partition: int) -> None:  # noqa: ARG002
        """Set the event: the partition no longer counts."""
        self._changed.set()


class StatusReporter:
    """Reads health and partitions; `seconds` in the log are counted from its creation."""

    def __init__(self, health: Health, group: GroupPart, server: NodeServer, changed: asyncio.Event) -> None:
        """Look at once whenever `changed` is set: a check may have another result."""
        self._health, self._group, self._server, self._changed = health, group, server, changed
        self._started = time.monotonic()

    async def run(self) -> None:
        """Check the health when it may have changed, and twice a second; log progress at most twice a second."""
        was_ready, was_live = False, True
        logged_at, logged_records = time.monotonic(), 0
        while True:
            self._changed.clear()
            is_live = all_ok(self._health.live())
            if is_live is not was_live:
                was_live = is_live
                self._server.set_live(live=is_live)
            is_ready = all_ok(self._health.ready())
            partitions = self._group.stream.status()
            records, now = sum(status.records for status in partitions), time.monotonic()
            if records != logged_records and (now - logged_at >= _INTERVAL_S or is_ready > was_ready):
                rate = round((records - logged_records) / (now - logged_at))
                lag = sum(status.lag for status in partitions)
                _log.info("progress", applied=records, events_per_s=rate, lag=lag)
                logged_at, logged_records = now, records
            if is_ready is not was_ready:
                was_ready = is_ready
                self._server.set_ready(ready=is_ready)
                self._log_readiness(is_ready=is_ready)
            with suppress(TimeoutError):
                # Not asyncio.wait_for: in Python 3.11 it loses a cancellation that arrives with the event.
                async with asyncio.timeout(_INTERVAL_S):
                    await self._changed.wait()

    def _log_readiness(self, *, is_ready: bool) -> None:
        if not is_ready:
            failed = {check.name: check.detail for check in self._health.ready() if not check.ok}
            _log.warning("not ready", because=failed)
            return
        numbers = [status.partition for status in self._group.stream.status()]
        stores = {number: self._group.store_of(number) for number in numbers}
        states = {number: store.state for number, store in stores.items() if store is not None}
        _log.info(
            "ready",
            seconds=round(time.monotonic() - self._started, 3),
            events=sum(state.events for state in states.values()),
            applied={number: state.applied_offset for number, state in states.items()},
            fingerprint={number: as_text(state.fingerprint) for number, state in states.items()},
        )
