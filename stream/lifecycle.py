"""Opens and closes the stores of partitions, and compares their positions with the log."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from typing import Generic

import structlog
from aiokafka.errors import KafkaError, KafkaTimeoutError

from lifeline.stream.aio import run_to_end
from lifeline.stream.fingerprint_log import FingerprintLog
from lifeline.stream.log import Bounds, LogReader, PartitionGoneError
from lifeline.stream.partition import HeldPartition, PartitionState
from lifeline.stream.settings import UpdaterSettings
from lifeline.stream.stores import StoreAccess, StoreT

_RETRY_S = 0.1
_RETRY_MAX_S = 2.0
_LOG_END_S = 1.0
_FOLLOW_END_S = 5.0

_log = structlog.get_logger(__name__)


class PartitionLifecycle(Generic[StoreT]):
    """Takes partitions from an assignment to the first fetch, and closes them after a revocation.

    A method with an `epoch` argument does nothing once the partition's epoch has changed.
    """

    def __init__(
        self,
        settings: UpdaterSettings,
        stores: StoreAccess[StoreT],
        fingerprints: FingerprintLog,
        take_over: Callable[[int], Awaitable[StoreT | None]],
    ) -> None:
        self._settings, self._stores = settings, stores
        self._fingerprints, self._take_over = fingerprints, take_over
        self._stopping = False
        self._suspension = ""

    def stop(self) -> None:
        """Send no more requests to the cluster."""
        self._stopping = True

    async def open(self, partition: HeldPartition[StoreT], epoch: int, reader: LogReader) -> bool:
        """Open the store and start to consume after its applied offset; return whether it consumes now."""
        async with partition.lifecycle:
            if epoch != partition.epoch:
                return False
            store = partition.store if partition.store is not None else await self._open_store(partition)
            if epoch != partition.epoch:
                return False
            with suppress(PartitionGoneError):
                bounds = await self._bounds(partition, epoch, reader)
                if bounds is None:
                    return False
                position = store.applied_offset + 1
                if position == 0 and bounds.start > 0:
                    position = bounds.start
                    _log.warning("a new store starts where the log does", partition=partition.number, offset=position)
                is_within = self._is_within(partition, position, bounds)
                if is_within and self._suspension:
                    partition.suspend(self._suspension)
                if self._suspension or not is_within:
                    return False
                if self._settings.serve == "stale":
                    partition.open_to_readers()
                else:
                    partition.announce()
                partition.catch_up(position)
                await self._resume_at(partition, reader, position)
                return True
            return False

    async def reopen(self, partition: HeldPartition[StoreT], epoch: int, reader: LogReader) -> None:
        """Consume again after a pause."""
        with suppress(PartitionGoneError):
            position = partition.retry_position
            bounds = await self._bounds(partition, epoch, reader)
            if bounds is not None and self._is_within(partition, position, bounds):
                partition.retry()
                await self._resume_at(partition, reader, position)

    def suspend(self, partitions: Iterable[HeldPartition[StoreT]], why: str) -> None:
        """Let these partitions, and those that are opened later, consume nothing more."""
        self._suspension = why
        for partition in partitions:
            # One that is being opened is suspended by `open`, and one that refuses consumes nothing.
            if partition.reader is not None and (partition.is_consuming or partition.state is PartitionState.PAUSED):
                with suppress(PartitionGoneError):
                    partition.reader.pause(partition.number)
                    partition.suspend(why)

    async def follow_ends(self, partitions: Callable[[], Iterable[HeldPartition[StoreT]]]) -> None:
        """Keep the lag of suspended partitions up to date, of which nothing is fetched; runs until the stop."""
        while not self._stopping:
            await asyncio.sleep(_FOLLOW_END_S)
            for partition in partitions():
                if partition.is_blocked and not partition.is_consuming and partition.reader is not None:
                    with suppress(KafkaError, PartitionGoneError):
                        end = (await partition.reader.bounds(partition.number)).end
                        partition.end_offset = max(partition.end_offset, end)

    async def close(self, partition: HeldPartition[StoreT]) -> bool:
        """Close the store of a partition that has left this node; False if the partition came back meanwhile."""
        epoch = partition.epoch
        async with partition.lifecycle, partition.applying:
            if epoch != partition.epoch:
                return False
            partition.revoke()
            epoch = partition.epoch
            partition.close_to_readers()
            store, partition.store = partition.store, None
            self._fingerprints.forget(partition.number)
            if store is not None:
                await run_to_end(self._stores.close, store)
            # A partition that came back during the close finds no store, and opens one.
            return epoch == partition.epoch

    async def is_continuous(self, partition: HeldPartition[StoreT], first: int) -> bool:
        """Return whether to take records that start at `first` instead of at the next offset.

        Control records leave such gaps, but so do records that retention has removed. So the cluster is asked for the
        bounds of the log, and a gap counts as control records only after it was fetched twice.
        """
        epoch, reader = partition.epoch, partition.reader
        if reader is None:
            return False
        with suppress(PartitionGoneError):
            bounds = await self._bounds(partition, epoch, reader)
            if bounds is None or not self._is_within(partition, partition.next_offset, bounds):
                return False
            if first > partition.next_offset and partition.gap_offset != first:
                partition.gap_offset = first
                await self._resume_at(partition, reader, partition.next_offset)
                return False
            return epoch == partition.epoch
        return False

    async def check_log_end(self, partition: HeldPartition[StoreT]) -> bool:
        """Return whether the rest of the log consists of control records, which no fetch returns.

        As with a gap, this is accepted only after the log was fetched twice.
        """
        reader, now = partition.reader, time.monotonic()
        is_idle = partition.is_consuming and not partition.pending.records and not partition.applying.locked()
        if reader is None or not is_idle or partition.readable_lag == 0 or now - partition.progress_at < _LOG_END_S:
            return False
        if (reader.position(partition.number) or 0) < partition.stable_offset:
            return False
        end, since = partition.idle_end
        if end != partition.stable_offset:
            partition.idle_end = (partition.stable_offset, now)
            with suppress(PartitionGoneError):
                await self._resume_at(partition, reader, partition.next_offset)
        elif now - since >= _LOG_END_S:
            partition.control_offset = partition.stable_offset
            return True
        return False

    async def _resume_at(self, partition: HeldPartition[StoreT], reader: LogReader, position: int) -> None:
        epoch = partition.epoch
        await reader.resume_at(partition.number, position)
        if epoch != partition.epoch:
            # It was suspended meanwhile.
            reader.pause(partition.number)

    async def _open_store(self, partition: HeldPartition[StoreT]) -> StoreT:
        partition.restore()
        partition.store = await self._take_over(partition.number)
        if partition.store is not None:
            return partition.store

        def open_store() -> StoreT:
            # Set in the thread, so that the store is closed even when this task was cancelled while it opened.
            partition.store = self._stores.open(partition.number)
            return partition.store

        return await run_to_end(open_store)

    async def _bounds(self, partition: HeldPartition[StoreT], epoch: int, reader: LogReader) -> Bounds | None:
        """Return the bounds of the log; retry until the cluster answers, or return None when the epoch has ended."""
        pause_s = _RETRY_S
        while epoch == partition.epoch and not self._stopping:
            try:
                bounds = await reader.bounds(partition.number)
            except KafkaError as error:
                if not (error.retriable or isinstance(error, KafkaTimeoutError)):
                    raise
                if epoch == partition.epoch:
                    why = f"the cluster does not say what the log holds ({type(error).__name__}): check it"
                    partition.explain(why)
                await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, _RETRY_MAX_S)
            else:
                if epoch != partition.epoch:
                    return None
                if pause_s > _RETRY_S:
                    partition.explain("")
                return bounds
        return None

    def _is_within(self, partition: HeldPartition[StoreT], position: int, bounds: Bounds) -> bool:
        """Return whether the log still has the records that follow the store; if not, let the partition refuse."""
        start, end = bounds
        known = None if partition.reader is None else partition.reader.known_end(partition.number)
        partition.stable_offset, partition.end_offset = end, end if known is None else max(end, known.end)
        if start <= position <= end:
            return True
        if position < start:
            why = f"the log starts at {start}, and {position} to {start - 1} were never applied: restore a snapshot"
        else:
            why = (
                f"the log ends at {end}, before the applied offset ({position - 1}): the topic was created again, so "
                "replay it"
            )
        refuse(partition, why)
        return False


def refuse(partition: HeldPartition[StoreT], why: str) -> None:
    """Stop fetching a partition, and let it refuse. Raises PartitionGoneError."""
    if partition.reader is not None:
        partition.reader.pause(partition.number)
    partition.refuse(why)
