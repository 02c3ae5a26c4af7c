"""The stream of actions: transport, updater and standby as one service that a node starts, watches and stops."""

import asyncio
import time
from typing import Generic

import structlog
from aiokafka.errors import KafkaError

from lifeline.core.kafka_cluster import check_reachable, cluster_error
from lifeline.core.kafka_errors import StreamError, TransportError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.stream.aio import end_within
from lifeline.stream.group_errors import group_error
from lifeline.stream.membership import Membership
from lifeline.stream.partition import PartitionStatus
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.standby import StandbyFollower
from lifeline.stream.standby_status import StandbyStatus
from lifeline.stream.stores import StoreT
from lifeline.stream.transport import FaustApp
from lifeline.stream.updater import Updater

_LEAVE_S = 4.0
_JOIN_POLL_S = 0.1
_STANDBY_STOP_S = 1.0

_log = structlog.get_logger(__name__)


class ActionStream(Generic[StoreT]):
    """Joins the group, and applies the log to the stores of this node. It belongs to the running event loop."""

    def __init__(
        self,
        kafka: KafkaSettings,
        settings: UpdaterSettings,
        updater: Updater[StoreT],
        *,
        standby: StandbyFollower[StoreT] | None = None,
        membership: Membership | None = None,
    ) -> None:
        """Without a `standby`, this node follows no partitions, even if the placement says so."""
        self._kafka, self._settings, self._updater, self._standby = kafka, settings, updater, standby
        self._membership = membership or Membership([updater])
        self._app: FaustApp | None = None

    async def start(self) -> None:
        """Return once the group has assigned partitions (possibly none); their stores open in the background.

        Raises ClusterUnreachableError, GroupConflictError when the group does not let this node in, or TransportError.
        """
        await asyncio.to_thread(check_reachable, self._kafka)
        self._updater.start()
        if self._standby is not None:
            self._standby.start()
        self._app = FaustApp(self._kafka, self._settings, self._updater, self._membership)
        try:
            await self._join(self._app)
        except (KafkaError, OSError) as error:
            refusal = await asyncio.to_thread(group_error, self._kafka, error)
            raise refusal or cluster_error(self._kafka, error) from error
        if self._app.crashed:
            raise await self._crash()

    async def _join(self, app: FaustApp) -> None:
        joining = asyncio.create_task(app.start())
        try:
            while not (await asyncio.wait({joining}, timeout=_JOIN_POLL_S))[0]:
                if (refusal := app.refusal) is not None:
                    raise refusal
            joining.result()
        finally:
            if not joining.done():
                joining.cancel()
                await asyncio.gather(joining, return_exceptions=True)

    async def wait(self) -> None:
        """Wait until a part ends, and raise its error, or TransportError when the transport has crashed."""
        app = self._running()
        tasks = [asyncio.create_task(self._updater.wait()), asyncio.create_task(app.wait_until_stopped())]
        if self._standby is not None:
            tasks.append(asyncio.create_task(self._standby.wait()))
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            # The transport's task only waits; its error is `app.crashed`.
            for task in (tasks[0], *tasks[2:]):
                if task.done():
                    task.result()
            if app.crashed:
                raise await self._crash()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def status(self) -> list[PartitionStatus]:
        """Return the status of every partition that this node owns, ascending by number."""
        return self._updater.status()

    def standbys(self) -> list[StandbyStatus]:
        """Return the status of every partition that this node follows, ascending by number."""
        return [] if self._standby is None else self._standby.status()

    async def leave(self, timeout_s: float) -> None:
        """Stop the intake, apply the waiting records, commit, hide the stores from new readers, and leave the group.

        Other nodes then get the partitions, while reads under way go on in the open stores, until `close`. It takes at
        most `timeout_s`, of which a part is reserved for leaving the group; but a write in progress always ends.
        Records that are not applied in time are read again after the next start. An unreachable cluster is no error,
        and errors that `wait` raises are not raised here. Idempotent.
        """
        deadline = time.monotonic() + timeout_s
        app, self._app = self._app, None
        if app is None:
            return
        if not app.crashed:
            await self._updater.drain(timeout_s - min(_LEAVE_S, timeout_s / 2))
        # Before the group knows: no reader may find a store that another node's is ahead of.
        self._updater.hide()
        if not await end_within(app.stop(), deadline - time.monotonic()):
            _log.warning(
                "the node did not leave the group in time: the group waits for its session to end",
                timeout_s=timeout_s,
            )

    async def close(self, timeout_s: float) -> None:
        """Stop what follows the log, within `timeout_s`, and close the stores; waits for reads under way. Idempotent.

        Call `leave` first.
        """
        try:
            if self._standby is not None:
                await self._standby.stop(max(_STANDBY_STOP_S, timeout_s))
        finally:
            await self._updater.close()

    async def stop(self, timeout_s: float) -> None:
        """Leave the group, and then close the stores; `timeout_s` is as for `leave`."""
        deadline = time.monotonic() + timeout_s
        try:
            await self.leave(timeout_s)
        finally:
            await self.close(max(0.0, deadline - time.monotonic()))

    def _running(self) -> FaustApp:
        if self._app is None:
            raise TransportError("the stream is not running: start it first")
        return self._app

    async def _crash(self) -> BaseException:
        reason = None if self._app is None else self._app.crash_reason
        if isinstance(reason, StreamError):
            return reason
        refusal = await asyncio.to_thread(group_error, self._kafka, reason)
        error = refusal or TransportError(f"the transport crashed ({reason!r}): start the node again")
        error.__cause__ = reason
        return error
