"""The stream of actions: transport, updater and standby as one service that a node starts, watches and stops."""

import asyncio
import time
from typing import Generic

import structlog
from aiokafka.errors import KafkaError

from lifeline.core.kafka_cluster import check_reachable
from lifeline.core.kafka_errors import ClusterUnreachableError, StreamError, TransportError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.stream.aio import end_within
from lifeline.stream.membership import Membership
from lifeline.stream.partition import PartitionStatus
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.standby import StandbyFollower, StandbyStatus
from lifeline.stream.stores import StoreT
from lifeline.stream.transport import FaustApp
from lifeline.stream.updater import Updater

_LEAVE_S = 4.0
_STANDBY_STOP_S = 1.0

_log = structlog.get_logger(__name__)


class ActionStream(Generic[StoreT]):
    """Joins the group, and keeps the updater's stores up with the log. It lives in the running event loop."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: UpdaterSettings,
        updater: Updater[StoreT],
        *,
        standby: StandbyFollower[StoreT] | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Without a `standby` nothing is followed, whatever the group's leader says."""
        self._kafka, self._settings, self._updater, self._standby = kafka, settings, updater, standby
        self._membership = membership or Membership([updater])
        self._app: FaustApp | None = None

    async def start(self) -> None:
        """Return once the group has assigned partitions (none, perhaps); they open in the background.

        Raises ClusterUnreachableError, or TransportError when the group cannot be joined.
        """
        await asyncio.to_thread(check_reachable, self._kafka)
        self._updater.start()
        if self._standby is not None:
            self._standby.start()
        self._app = FaustApp(self._kafka, self._settings, self._updater, self._membership)
        try:
            await self._app.start()
        except (KafkaError, OSError) as error:
            raise ClusterUnreachableError(self._kafka.bootstrap_servers, error) from error
        if self._app.crashed:
            raise self._crash()

    async def wait(self) -> None:
        """Wait for as long as all is well; raises what ended the updater, or TransportError."""
        app = self._running()
        tasks = [asyncio.create_task(self._updater.wait()), asyncio.create_task(app.wait_until_stopped())]
        if self._standby is not None:
            tasks.append(asyncio.create_task(self._standby.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for ours in (tasks[0], *tasks[2:]):
                if ours.done():
                    ours.result()
            if app.crashed:
                raise self._crash()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> list[PartitionStatus]:
        """Return every partition that is held, by number."""
        return self._updater.status()

    def standbys(self) -> list[StandbyStatus]:
        """Return every partition that is followed for another node, by number."""
        return [] if self._standby is None else self._standby.status()

    async def stop(self, timeout_s: float) -> None:
        """Stop the intake, apply what waits, let the commit follow, leave the group, and close the stores.

        All of it within `timeout_s`, of which a part is kept for the group; only a write that is under way always
        ends. What is not applied by then comes again from the log. Raises nothing for a cluster that is away, and
        nothing that `wait` would have raised. Idempotent.
        """
        deadline = time.monotonic() + timeout_s
        app, self._app = self._app, None
        try:
            if app is not None:
                if not app.crashed:
                    await self._updater.drain(timeout_s - min(_LEAVE_S, timeout_s / 2))
                if not await end_within(app.stop(), deadline - time.monotonic()):
                    _log.warning("the group was not left in time: it will notice", timeout_s=timeout_s)
        finally:
            try:
                if self._standby is not None:
                    await self._standby.stop(max(_STANDBY_STOP_S, deadline - time.monotonic()))
            finally:
                await self._updater.close()

    def _running(self) -> FaustApp:
        if self._app is None:
            raise TransportError("the stream is not running: start it first")
        return self._app

    def _crash(self) -> BaseException:
        reason = None if self._app is None else self._app.crash_reason
        if isinstance(reason, StreamError):
            return reason
        error = TransportError(f"the transport crashed ({reason!r}): start the node again")
        error.__cause__ = reason
        return error
