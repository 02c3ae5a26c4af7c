"""Follows the whole items topic on every node, so that each node has an embedding for every item.

There is no consumer group: each node reads all partitions, from the offset after the last one in its embedding table. A
null value removes the item's embedding (the row becomes zeros). An invalid record is counted, logged and skipped, and
the item keeps its earlier embedding. There are no dead letters, because the topic is compacted: the producer corrects
the item and publishes it again.
"""

import asyncio
import re
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple, Protocol

import numpy as np
import structlog
from aiokafka import TopicPartition
from aiokafka.errors import KafkaError, OffsetOutOfRangeError
from google.protobuf.message import DecodeError
from numpy.typing import NDArray

from lifeline.core.kafka_cluster import check_reachable, cluster_error
from lifeline.core.kafka_errors import PartitionLostError, TopicMismatchError, TransportError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.store.errors import DiskFullError
from lifeline.stream.aio import end_within, run_to_end
from lifeline.stream.log_consumer import LogConsumer, partitions_of
from lifeline.stream.open_transaction import NOT_HELD, Held, held_now
from lifeline.stream.record import Record, UnreadableRecords
from lifeline.v1.item_pb2 import Item

_BATCH = 8_192
_POLL_MS = 500
_PROGRESS_S = 1.0
_HELD_S = 30.0
_FULL_DISK_S = 10.0
_DECIMAL = re.compile(rb"0|[1-9][0-9]{0,19}")
_NO_EMBEDDING = bytes(EMBEDDING_DIM)

_log = structlog.get_logger(__name__)


class ItemProblem(StrEnum):
    """Why a record of the items topic was skipped."""

    UNREADABLE = "unreadable"
    """The bytes in the log are no valid record."""
    INVALID_KEY = "invalid_key"
    """The key is not an item id in decimal digits."""
    UNDECODABLE = "undecodable"
    """The value is not an Item."""
    KEY_MISMATCH = "key_mismatch"
    """The key is not the item's id."""
    INVALID_EMBEDDING = "invalid_embedding"
    """The embedding does not have 32 bytes."""
    TOO_MANY = "too_many"
    """The item is new, and the node already has ``store.max_items`` items."""


class EmbeddingSink(Protocol):
    """What the follower needs of an embedding table; `store.embeddings.EmbeddingTable` implements it."""

    def applied_offset(self, partition: int) -> int:
        """Return the last offset of an items partition that is part of the table; -1 before the first."""

    def apply(
        self,
        item_id: NDArray[np.uint64],
        embedding: NDArray[np.int8],
        version: NDArray[np.uint32],
        *,
        partition: int,
        offset: int,
    ) -> int:
        """Set the embeddings of n items, and the partition's applied offset.

        item_id is uint64[n], embedding int8[n, 32] and version uint32[n]. The last row of an item counts; a row of
        zeros removes the embedding. Returns how many new items were skipped because the table is full.
        """


class ItemBatch(NamedTuple):
    """Items as columns, and the records that were skipped."""

    item_id: NDArray[np.uint64]
    """uint64[n]."""
    embedding: NDArray[np.int8]
    """int8[n, 32]; a row of zeros removes the embedding."""
    version: NDArray[np.uint32]
    """uint32[n]."""
    problems: list[tuple[Record, ItemProblem]]
    """Ascending by offset."""


def decode_items(records: Sequence[Record]) -> ItemBatch:
    """Decode records of one partition of the items topic."""
    ids, rows, versions = [], [], []
    problems: list[tuple[Record, ItemProblem]] = []
    for record in records:
        is_unreadable = isinstance(record, UnreadableRecords)
        item = ItemProblem.UNREADABLE if is_unreadable else _decode_item(record.key or b"", record.value)
        if isinstance(item, ItemProblem):
            problems.append((record, item))
        else:
            item_id, row, version = item
            ids.append(item_id)
            rows.append(row)
            versions.append(version)
    embedding = np.frombuffer(b"".join(rows), np.int8).reshape(-1, EMBEDDING_DIM)
    return ItemBatch(np.array(ids, np.uint64), embedding, np.array(versions, np.uint32), problems)


def _decode_item(key: bytes, value: bytes | None) -> tuple[int, bytes, int] | ItemProblem:
    """Return item id, embedding and version, or the problem."""
    if not _DECIMAL.fullmatch(key) or (item_id := int(key)) >= 1 << 64:
        return ItemProblem.INVALID_KEY
    if value is None:
        return item_id, _NO_EMBEDDING, 0
    try:
        item = Item.FromString(value)
    except DecodeError:
        return ItemProblem.UNDECODABLE
    if item.item_id != item_id:
        return ItemProblem.KEY_MISMATCH
    if len(item.embedding) != EMBEDDING_DIM:
        return ItemProblem.INVALID_EMBEDDING
    return item_id, item.embedding, item.embedding_version


class ItemFollower:
    """Applies the items topic to an embedding table. It belongs to the running event loop."""

    def __init__(self, kafka: KafkaSettings, table: EmbeddingSink) -> None:
        self._kafka, self._table = kafka, table
        self._consumer: LogConsumer | None = None
        self._task: asyncio.Task[None] | None = None
        self._starts: dict[TopicPartition, int] = {}
        self._ends: dict[TopicPartition, int] = {}
        self._started_at = self._logged_at = time.monotonic()
        self.caught_up = asyncio.Event()
        """Set once the table has every record that was in the topic at the start."""
        self._held: dict[TopicPartition, Held] = {}
        self._held_logged: dict[TopicPartition, int] = {}
        self.records = 0
        self.problems: Counter[ItemProblem] = Counter()

    async def start(self) -> None:
        """Connect, and follow the topic in the background; wait for `caught_up` before the items are used.

        Raises ClusterUnreachableError, TopicMismatchError when the topic is missing, and PartitionLostError when the
        topic was deleted and created again since the table was built.
        """
        await asyncio.to_thread(check_reachable, self._kafka)
        try:
            self._consumer = LogConsumer(
                **self._kafka.consumer_options(), auto_offset_reset="none", fetch_max_wait_ms=_POLL_MS
            )
            await self._consumer.start()
            await self._position(self._consumer)
        except (KafkaError, OSError) as error:
            raise cluster_error(self._kafka, error) from error
        self._task = asyncio.create_task(self._follow(self._consumer))

    async def _position(self, consumer: LogConsumer) -> None:
        topic = self._kafka.items_topic
        partitions = await partitions_of(consumer, topic)
        if not partitions:
            raise TopicMismatchError(f"topic {topic} does not exist: create it with `lifeline topics create`")
        ends = await consumer.end_offsets(partitions)
        starts = {partition: self._table.applied_offset(partition.partition) + 1 for partition in partitions}
        for partition, start in starts.items():
            if start > ends[partition]:
                raise PartitionLostError(
                    f"{topic} {partition.partition} ends at {ends[partition]}, and offset {start - 1} is "
                    "applied: the topic was created again, so set <node.data_dir>/items aside and start again"
                )
        self._starts, self._ends = starts, ends
        # No await between the assignment and the last seek: the client would look for positions of its own.
        consumer.assign(partitions)
        for partition, start in starts.items():
            consumer.seek(partition, start)
        self._started_at = self._logged_at = time.monotonic()

    async def _follow(self, consumer: LogConsumer) -> None:
        await self._check_caught_up(consumer)
        while True:
            if len(consumer.partitions_for_topic(self._kafka.items_topic) or ()) > len(self._ends):
                _log.info("the items topic has more partitions", before=len(self._ends))
                await self._position(consumer)
            fetched = await consumer.getmany(timeout_ms=_POLL_MS, max_records=_BATCH)
            for partition, records in fetched.items():
                batch, too_many = await self._apply_when_there_is_room(partition.partition, records)
                self.records += len(records)
                if too_many:
                    self.problems[ItemProblem.TOO_MANY] += too_many
                    _log.warning(
                        "items skipped",
                        why=(
                            f"{too_many} are new, and store.max_items is reached: find out who publishes them, or "
                            "raise it"
                        ),
                        partition=partition.partition,
                        up_to_offset=records[-1].offset,
                    )
                for record, problem in batch.problems:
                    self.problems[problem] += 1
                    _log.warning("item skipped", why=problem.value, partition=record.partition, offset=record.offset)
            await self._check_caught_up(consumer)
            self._check_transactions(consumer)

    def _check_transactions(self, consumer: LogConsumer) -> None:
        """Note which partitions have an open transaction, and log a warning for one that stays open."""
        for tp in self._ends:
            stable, end = consumer.last_stable_offset(tp), consumer.highwater(tp)
            if stable is None or end is None or stable < 0:
                continue
            held = self._held[tp] = held_now(self._held.get(tp, NOT_HELD), stable, end)
            if held.open_s > _HELD_S and self._held_logged.get(tp) != held.offset:
                self._held_logged[tp] = held.offset
                _log.warning("items are held back", why=held.reason(tp.partition, tp.topic))

    @property
    def open_transaction_s(self) -> float:
        """How long an open transaction has held back items, seconds; 0 when none does. Callable from any thread."""
        return max((held.open_s for held in list(self._held.values())), default=0.0)

    async def _apply_when_there_is_room(self, partition: int, records: Sequence[Record]) -> tuple[ItemBatch, int]:
        while True:
            try:
                return await run_to_end(self._apply, partition, records)
            except DiskFullError as error:
                _log.error("items wait", why=str(error), partition=partition, up_to_offset=records[-1].offset)
                await asyncio.sleep(_FULL_DISK_S)

    def _apply(self, partition: int, records: Sequence[Record]) -> tuple[ItemBatch, int]:
        batch = decode_items(records)
        last = records[-1].offset
        return batch, self._table.apply(batch.item_id, batch.embedding, batch.version, partition=partition, offset=last)

    async def _check_caught_up(self, consumer: LogConsumer) -> None:
        if self.caught_up.is_set():
            return
        # The position also moves past control records and compacted records, which no fetch returns.
        positions = {tp: await consumer.position(tp) for tp in self._ends}
        if all(positions[tp] >= end for tp, end in self._ends.items()):
            self.caught_up.set()
        self._log_progress(positions)

    def _log_progress(self, positions: Mapping[TopicPartition, int]) -> None:
        """Log the progress of catching up, once a second and at the end."""
        total = sum(end - self._starts[tp] for tp, end in self._ends.items())
        done = sum(min(positions[tp], end) - self._starts[tp] for tp, end in self._ends.items())
        now, is_caught_up = time.monotonic(), self.caught_up.is_set()
        if total == 0 or not (is_caught_up or now - self._logged_at >= _PROGRESS_S):
            return
        self._logged_at = now
        seconds = now - self._started_at
        rate = done / seconds if seconds > 0 else 0.0
        remaining = {} if is_caught_up else {"remaining_s": round((total - done) / rate) if rate else None}
        _log.info("items", read=done, of=total, per_s=round(rate), seconds=round(seconds, 1), **remaining)

    async def wait(self) -> None:
        """Wait until the follower ends, and raise the error that ended it."""
        if self._task is None:
            raise TransportError("the items follower is not running: start it first")
        try:
            await asyncio.shield(self._task)
        except OffsetOutOfRangeError as error:
            raise PartitionLostError(
                f"{self._kafka.items_topic} no longer has the records that this node reads next ({error}): the topic "
                "was deleted and created again. Start the node again: it then says what to set aside"
            ) from error
        except KafkaError as error:
            raise TransportError(f"the items topic cannot be read ({error}): start the node again") from error

    async def stop(self, timeout_s: float) -> None:
        """Let the current write end, stop, and disconnect within `timeout_s`. Idempotent.

        An unreachable cluster is no error.
        """
        deadline = time.monotonic() + timeout_s
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        consumer, self._consumer = self._consumer, None
        if consumer is not None and not await end_within(consumer.stop(), deadline - time.monotonic()):
            _log.warning(
                "the items consumer did not disconnect in time, and was abandoned",
                timeout_s=timeout_s,
            )
