"""The status reporter: it passes a node's health to the gRPC server, and logs readiness and progress."""

import asyncio
import time

import structlog

from lifeline.node.group import GroupPart
from lifeline.node.health import Health, all_ok
from lifeline.rpc.server import NodeServer
from lifeline.store.fingerprint import as_text

_INTERVAL_S = 0.05
_PROGRESS_S = 0.5

_log = structlog.get_logger(__name__)


class StatusReporter:
    """Reads health and partitions; `seconds` in the log are counted from its creation."""

    def __init__(self, health: Health, group: GroupPart, server: NodeServer) -> None:
        self._health, self._group, self._server = health, group, server
        self._started = time.monotonic()

    async def run(self) -> None:
        """Check the health many times a second, and log progress at most twice a second."""
        was_ready, was_live = False, True
        logged_at, logged_records = time.monotonic(), 0
        while True:
            is_live = all_ok(self._health.live())
            if is_live is not was_live:
                was_live = is_live
                self._server.set_live(live=is_live)
            is_ready = all_ok(self._health.ready())
            partitions = self._group.stream.status()
            records, now = sum(status.records for status in partitions), time.monotonic()
            if records != logged_records and (now - logged_at >= _PROGRESS_S or is_ready > was_ready):
                rate = round((records - logged_records) / (now - logged_at))
                lag = sum(status.lag for status in partitions)
                _log.info("progress", applied=records, events_per_s=rate, lag=lag)
                logged_at, logged_records = now, records
            if is_ready is not was_ready:
                was_ready = is_ready
                self._server.set_ready(ready=is_ready)
                self._log_readiness(is_ready=is_ready)
            await asyncio.sleep(_INTERVAL_S)

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
