"""The transport: Faust does group membership, assignment and fetch, and passes whole fetched lists to the handler.

This is the only module that imports Faust. It relies on these private parts of faust-streaming's aiokafka driver, and
``tests/stream/test_transport.py`` pins each of them:

- ``Consumer._drain_messages(fetcher)`` is the loop that fetches records. It is replaced here.
- ``Consumer._wait_next_records(timeout)`` returns ``{TP: [record]}`` of the active partitions.
- ``Consumer.seek_to_committed()`` is awaited after every assignment that is not empty, while the flow is stopped and
  all partitions are resumed. It is replaced here: all partitions are paused, and each is resumed once its store is open
  and its position is set.
- ``Consumer.on_partitions_revoked`` and ``on_partitions_assigned`` run in the application's event loop.
- ``AIOKafkaConsumerThread._create_worker_consumer(transport)`` creates the client, here with other options.
- ``AIOKafkaConsumerThread.call_thread(function, *args)`` runs a coroutine function in the client's thread.
- ``AIOKafkaConsumerThread.on_thread_stop()`` stops the client, here within a time limit.
- ``TableManager.on_start`` registers tables (there are none), and then lets the application subscribe.

Agents, tables, changelogs, the producer, the web views and the leader's topic are off.
"""

import asyncio
from collections.abc import Mapping
from typing import Any

import faust
import structlog
from aiokafka import TopicPartition
from aiokafka.client import ConnectionGroup
from aiokafka.errors import IllegalStateError, KafkaError
from aiokafka.structs import OffsetAndMetadata
from faust.app.base import BootStrategy
from faust.tables import TableManager
from faust.transport.drivers import aiokafka as driver
from faust.types import TP

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.stream.aio import end_within
from lifeline.stream.assignor import LifelineAssignor
from lifeline.stream.group_errors import check_placed_by_broker
from lifeline.stream.log import Bounds, Handler, LogEnd, PartitionGoneError
from lifeline.stream.log_consumer import LogConsumer
from lifeline.stream.membership import Membership
from lifeline.stream.settings import UpdaterSettings

_IDLE_S = 0.02
_POLL_S = 1.0
_COMMIT_S = 5.0
_CLIENT_STOP_S = 3.0
# How soon partitions that were added to the topic are noticed.
_METADATA_AGE_MS = 3_000

_log = structlog.get_logger(__name__)


class _ConsumerThread(driver.AIOKafkaConsumerThread):  # type: ignore[misc, unused-ignore]
    """The client's thread; it creates a client with Lifeline's options."""

    async def on_thread_stop(self) -> None:
        # Without a cluster the client's stop takes long, and ends in a cancellation that would end the thread.
        await end_within(super().on_thread_stop(), _CLIENT_STOP_S)

    def _create_worker_consumer(self, transport: Any) -> LogConsumer:  # noqa: ANN401, ARG002 - Faust's signature
        app: FaustApp = self.app
        kafka, updater = app.kafka, app.updater
        return LogConsumer(
            **kafka.consumer_options(),
            group_id=kafka.group_id,
            group_instance_id=kafka.group_instance_id,
            partition_assignment_strategy=[app.placement_assignor],
            # It has an effect only before the first seek. The updater examines every gap in the offsets.
            auto_offset_reset="earliest",
            max_poll_records=updater.batch_max_records,
            max_partition_fetch_bytes=updater.fetch_max_bytes,
            # A fetch that waits for records delays other requests to the same broker, such as that for a log's start.
            fetch_max_wait_ms=100,
            session_timeout_ms=kafka.session_timeout_ms,
            # The client learns of a rebalance from the response to a heartbeat.
            heartbeat_interval_ms=min(1_000, kafka.session_timeout_ms // 3),
            rebalance_timeout_ms=kafka.rebalance_timeout_ms,
            max_poll_interval_ms=kafka.max_poll_interval_ms,
            metadata_max_age_ms=_METADATA_AGE_MS,
        )


class _Consumer(driver.Consumer):  # type: ignore[misc, unused-ignore]
    """Passes fetched records to the handler, which also sets the positions."""

    _epoch = 0
    """Incremented by every revocation and assignment; a `_Reader` of an earlier epoch raises PartitionGoneError."""

    def _new_consumer_thread(self) -> _ConsumerThread:
        return _ConsumerThread(self, loop=self.loop, beacon=self.beacon)

    async def on_partitions_revoked(self, revoked: set[TP]) -> None:
        self._epoch += 1
        await super().on_partitions_revoked(revoked)
        try:
            await self.app.handler.on_revoked(self._numbers(revoked))
        except Exception as error:
            await self.crash(error)
            raise

    async def on_partitions_assigned(self, assigned: set[TP], generation_id: int = 0) -> None:
        await super().on_partitions_assigned(assigned, generation_id)
        if not assigned:
            # Faust does not call `seek_to_committed` for an empty assignment.
            await self._notify_assigned(assigned)

    async def seek_to_committed(self) -> Mapping[TP, int]:
        assigned = self.assignment()
        self.pause_partitions(assigned)
        await self._notify_assigned(assigned)
        return {}

    async def _notify_assigned(self, assigned: set[TP]) -> None:
        self._epoch += 1
        try:
            if not self.app.placement_assignor.is_placed_by_leader:
                await asyncio.to_thread(check_placed_by_broker, self.app.kafka)
            await self.app.handler.on_assigned(self._numbers(assigned), _Reader(self, self._epoch))
            self.app.membership.on_placement(self.app.placement_assignor.placement)
        except Exception as error:
            await self.crash(error)
            raise

    def _numbers(self, partitions: set[TP]) -> frozenset[int]:
        kafka = self.app.kafka
        # A leader that was built with more partitions may assign some that no user of this node belongs to.
        return frozenset(
            tp.partition for tp in partitions if tp.topic == kafka.actions_topic and tp.partition < kafka.partitions
        )

    async def _drain_messages(self, fetcher: Any) -> None:  # noqa: ANN401 - a mode.Service
        handler: Handler = self.app.handler
        try:
            while not (self.should_stop or fetcher.should_stop):
                if self.flow_active and not self._get_active_partitions():
                    await self.sleep(_IDLE_S)
                    continue
                fetched, _ = await self._wait_next_records(_POLL_S)
                # Drop nothing, even after a rebalance: a fetch that began before it may return records from a position
                # that was set after it. The handler decides by the offsets.
                for tp, records in (fetched or {}).items():
                    await handler.wait_for_room()
                    await handler.on_records(tp.partition, records)
        except self.consumer_stopped_errors:
            if not self.app.should_stop:
                raise
        except asyncio.CancelledError:
            if not (self.app.should_stop or fetcher.should_stop):
                raise

    def verify_event_path(self, now: float, tp: TP) -> None:
        """Do nothing: the updater detects stalls, and Faust's check counts records that agents have read."""


class _Reader:
    """The `LogReader` of one assignment."""

    def __init__(self, consumer: _Consumer, epoch: int) -> None:
        self._consumer = consumer
        self._epoch = epoch
        self._topic: str = consumer.app.kafka.actions_topic

    def _check(self, partition: int, cause: BaseException | None = None) -> None:
        if self._epoch != self._consumer._epoch:  # noqa: SLF001 - the other half of this class
            raise PartitionGoneError(f"partition {partition} was revoked: nothing to do") from cause

    def _client(self) -> LogConsumer:
        return self._consumer._thread._ensure_consumer()  # noqa: SLF001 - pinned by a test

    async def bounds(self, partition: int) -> Bounds:
        tp = TP(self._topic, partition)
        self._check(partition)
        try:
            start = (await self._consumer.earliest_offsets(tp))[tp]
            end = (await self._consumer.highwaters(tp))[tp]
        except (KafkaError, IllegalStateError) as error:
            self._check(partition, error)
            raise
        return Bounds(start, end)

    async def resume_at(self, partition: int, offset: int) -> None:
        tp = TP(self._topic, partition)
        self._check(partition)
        self._consumer.pause_partitions({tp})
        try:
            await self._consumer.seek_wait({tp: offset})
        except (KafkaError, IllegalStateError, AssertionError) as error:
            self._check(partition, error)
            raise
        self._check(partition)
        self._consumer.resume_partitions({tp})

    def pause(self, partition: int) -> None:
        self._check(partition)
        self._consumer.pause_partitions({TP(self._topic, partition)})

    def known_end(self, partition: int) -> LogEnd | None:
        state = self._state(partition)
        if state is None or state.highwater is None:
            return None
        stable = state.highwater if state.lso in {None, -1} else state.lso
        return LogEnd(stable, state.highwater)

    def partition_count(self) -> int | None:
        if self._epoch != self._consumer._epoch:  # noqa: SLF001 - the other half of this class
            return None
        client = self._client()._client  # noqa: SLF001 - aiokafka has no public way
        return len(client.cluster.partitions_for_topic(self._topic) or ()) or None

    def position(self, partition: int) -> int | None:
        state = self._state(partition)
        return state.position if state is not None and state.has_valid_position else None

    def _state(self, partition: int) -> Any:  # noqa: ANN401 - aiokafka's
        if self._epoch != self._consumer._epoch:  # noqa: SLF001 - the other half of this class
            return None
        subscription = self._client()._subscription.subscription  # noqa: SLF001 - as Faust does
        assignment = None if subscription is None else subscription.assignment
        tp = TopicPartition(self._topic, partition)
        return None if assignment is None or tp not in assignment.tps else assignment.state_value(tp)

    def connected(self, partition: int) -> bool:
        if self._epoch != self._consumer._epoch:  # noqa: SLF001 - the other half of this class
            return False
        client = self._client()._client  # noqa: SLF001 - aiokafka has no public way
        leader = client.cluster.leader_for_partition(TopicPartition(self._topic, partition))
        connection = client._conns.get((leader, ConnectionGroup.DEFAULT))  # noqa: SLF001
        return connection is not None and bool(connection.connected())

    async def commit(self, offsets: Mapping[int, int]) -> bool:
        client = self._client()

        async def commit() -> None:
            # The limit is set in the client's thread: without a coordinator the client retries forever and blocks it.
            async with asyncio.timeout(_COMMIT_S):
                await client.commit(positions)

        positions = {
            TopicPartition(self._topic, partition): OffsetAndMetadata(offset, "")
            for partition, offset in offsets.items()
        }
        try:
            await self._consumer._thread.call_thread(commit)  # noqa: SLF001 - pinned by a test
        except (KafkaError, IllegalStateError, TimeoutError) as error:
            _log.warning("the group's commit failed", why=str(error) or type(error).__name__)
            return False
        return True


class _Transport(driver.Transport):  # type: ignore[misc, unused-ignore]
    Consumer = _Consumer


class _Tables(TableManager):  # type: ignore[misc, unused-ignore]
    """A table manager without tables, which does not wait a second before the application subscribes."""

    async def on_start(self) -> None:
        await self._update_channels()
        await self.recovery.start()


class _Boot(BootStrategy):  # type: ignore[misc, unused-ignore]
    enable_kafka_producer = False
    enable_web = False


class FaustApp(faust.App):  # type: ignore[misc, unused-ignore]
    """The Faust application: one topic, one group, and a handler instead of agents. It belongs to one event loop."""

    BootStrategy = _Boot

    def __init__(
        self, kafka: KafkaSettings, updater: UpdaterSettings, handler: Handler, membership: Membership
    ) -> None:
        self.kafka, self.updater, self.handler, self.membership = kafka, updater, handler, membership
        self.placement_assignor = LifelineAssignor(
            kafka.actions_topic, kafka.partitions, updater.standby_replicas, membership.member
        )
        request_s = kafka.request_timeout_ms / 1000
        super().__init__(
            kafka.group_id,
            # `_create_worker_consumer` sets the real servers; Faust uses this URL only to choose its driver.
            broker=f"kafka://{kafka.servers[0]}",
            broker_request_timeout=max(request_s, kafka.session_timeout_ms / 1000),
            broker_session_timeout=kafka.session_timeout_ms / 1000,
            broker_commit_interval=updater.commit_interval_ms / 1000,
            stream_wait_empty=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            web_enabled=False,
            store="memory://",
            TableManager=_Tables,
        )
        self.topics.add(self.topic(kafka.actions_topic, acks=False))

    @property
    def refusal(self) -> BaseException | None:
        """The error with which the group's coordinator keeps this member out; Faust would wait for ever."""
        client = self.consumer._thread._consumer  # noqa: SLF001 - pinned by a test
        coordinator = None if client is None else client._coordinator  # noqa: SLF001 - aiokafka has no public way
        error: BaseException | None = None if coordinator is None else coordinator._pending_exception  # noqa: SLF001
        return error

    def _new_transport(self) -> _Transport:
        return _Transport(self.conf.broker_consumer, self)

    def _create_directories(self) -> None:
        """Create none: Faust stores nothing here."""
