"""The producer: it publishes actions, items and erasures to Kafka idempotently, with acknowledgement by all replicas.

It needs only the bare package. It checks every record before it sends it: what a node would dead-letter raises an error
here, where the caller can still correct it.
"""

import threading
from collections import deque
from collections.abc import Callable
from functools import lru_cache
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from kafka import KafkaProducer
from kafka.errors import KafkaError
from kafka.partitioner import Partitioner
from numpy.typing import NDArray

from lifeline.core.actions import MAX_TIMESTAMP_MS
from lifeline.core.embedding_codec import quantize
from lifeline.core.kafka_cluster import addresses_of, check_brokers, check_reachable, cluster_error
from lifeline.core.kafka_errors import InvalidActionError, InvalidItemError, PublishError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.topics import MAX_RECORD_BYTES
from lifeline.core.user_ids import InvalidUserIdError, encode_user_id
from lifeline.core.vocabulary import MAX_ACTION_TYPES, MAX_SURFACES, Vocabulary
from lifeline.producer.codecs import provide_codecs
from lifeline.v1.action_pb2 import Action
from lifeline.v1.item_pb2 import Item

_MAX_CACHED_ITEMS = 1 << 20
_CHECKPOINT_EVERY = 4_096
_CHECKPOINTS = 16


class RecordMetadata(NamedTuple):
    """The place of an acknowledged record in the log."""

    partition: int
    """The partition of its topic."""
    offset: int
    """Its offset. As `min_offset` of a read of the same user it gives read-your-writes consistency."""
    timestamp_ms: int
    """The record's time in the log, milliseconds since 1970."""


class Delivery:
    """A record on its way to the log. It is done when all replicas have acknowledged it, or when sending has failed."""

    __slots__ = ("_future",)

    def __init__(self, future: Any) -> None:  # noqa: ANN401 - the library ships no types
        self._future = future

    @property
    def done(self) -> bool:
        """Whether sending has succeeded or failed."""
        return bool(self._future.is_done)

    def result(self, timeout_s: float | None = None) -> RecordMetadata:
        """Block until it is done. Raises PublishError on failure, TimeoutError after `timeout_s`."""
        try:
            record = self._future.get(timeout_s)
        except KafkaError as error:
            if not self.done:
                raise TimeoutError(f"no acknowledgement within {timeout_s} s: wait longer") from error
            raise PublishError(
                f"a record was not acknowledged ({error}): publish it again once the cluster is available"
            ) from error
        return RecordMetadata(record.partition, record.offset, record.timestamp)

    def add_done_callback(self, callback: Callable[["Delivery"], None]) -> None:
        """Call `callback` with this delivery once it is done, in the sender's thread: it must be quick."""
        self._future.add_both(lambda _: callback(self))


class KeyPartitioner(Partitioner):  # type: ignore[misc, unused-ignore]
    """Kafka's default partitioner, with a cache of recent keys."""

    def __init__(self) -> None:
        self._of = lru_cache(maxsize=65_536)(partition_of)

    def partition(
        self,
        topic: str,
        key: object,  # noqa: ARG002
        serialized_key: bytes,
        value: object,  # noqa: ARG002
        serialized_value: object,  # noqa: ARG002
        cluster: Any,  # noqa: ANN401 - the library ships no types
    ) -> int:
        """Return the partition of a record; the client library calls it."""
        return self._of(serialized_key, len(cluster.partitions_for_topic(topic)))


class LifelineProducer:
    """Publishes actions, items and erasures. Every method may be called from any thread.

    A failure is never silent: the record's `Delivery` raises it, and so does the next `flush`. With a `vocabulary`, the
    producer also rejects action types and surfaces that are not in the vocabulary.
    """

    def __init__(self, settings: KafkaSettings, *, vocabulary: Vocabulary | None = None, linger_ms: int = 5) -> None:
        """Connect. Raises ClusterUnreachableError, BrokerAddressError, ClusterRequestError."""
        self._settings = settings
        self._vocabulary = vocabulary
        self._lock = threading.Lock()
        self._items: dict[int, None] = {}
        self._sent = 0
        self._checkpoints: deque[Any] = deque()
        self._failures = 0
        self._first_failure: BaseException | None = None
        check_reachable(settings)
        provide_codecs()
        try:
            self._producer = KafkaProducer(
                **settings.client_options(),
                acks="all",
                enable_idempotence=True,
                partitioner=KeyPartitioner(),
                linger_ms=linger_ms,
                batch_size=65_536,
                compression_type=None if settings.compression == "none" else settings.compression,
                max_request_size=MAX_RECORD_BYTES,
                request_timeout_ms=settings.request_timeout_ms,
                max_block_ms=settings.request_timeout_ms,
                bootstrap_timeout_ms=settings.request_timeout_ms,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except (KafkaError, OSError) as error:
            raise cluster_error(settings, error) from error
        try:
            check_brokers(settings, addresses_of(self._producer._metadata))  # noqa: SLF001 - there is no public way
        except BaseException:
            self._producer.close(0)
            raise

    def publish(
        self,
        action: Action,
        *,
        embedding: "bytes | NDArray[np.int8] | NDArray[np.floating[Any]] | None" = None,
        embedding_version: int = 0,
    ) -> Delivery:
        """Send one action, keyed by its user. With `embedding`, first send its item, unless it was sent recently.

        Blocks while too many records are unacknowledged. Raises InvalidActionError or InvalidItemError before anything
        is sent, and PublishError when the topic cannot be reached.
        """
        key = check_action(action, self._vocabulary)
        if embedding is not None and action.item_id not in self._items:
            self.publish_item(make_item(action.item_id, embedding, embedding_version))
        return self._send(self._settings.actions_topic, key, action.SerializeToString())

    def publish_item(self, item: Item) -> Delivery:
        """Send one item, keyed by its id in decimal digits. Raises InvalidItemError or PublishError."""
        _check_embedding(item.item_id, item.embedding)
        with self._lock:
            if len(self._items) >= _MAX_CACHED_ITEMS:
                del self._items[next(iter(self._items))]
            self._items[item.item_id] = None
        # After a failure the next action on the item must send the embedding again.
        return self._send(
            self._settings.items_topic,
            str(item.item_id).encode(),
            item.SerializeToString(),
            on_failure=lambda: self._forget_sent(item.item_id),
        )

    def forget_item(self, item_id: int) -> Delivery:
        """Send a null value for the item: nodes remove its embedding. Raises PublishError."""
        self._forget_sent(item_id)
        return self._send(self._settings.items_topic, str(item_id).encode(), None)

    def erase(self, user_id: str) -> Delivery:
        """Send a null value for the user: nodes erase all earlier events.

        Raises InvalidActionError or PublishError.
        """
        return self._send(self._settings.actions_topic, check_user_id(user_id), None)

    def flush(self, timeout_s: float | None = None) -> None:
        """Block until every record sent so far is done.

        Raises PublishError when any record failed since the last flush, TimeoutError after `timeout_s`.
        """
        try:
            self._producer.flush(timeout_s)
        except KafkaError as error:
            raise TimeoutError(f"not everything was acknowledged within {timeout_s} s: wait longer") from error
        self._raise_failures()

    def close(self, timeout_s: float | None = None) -> None:
        """Flush, and disconnect. Idempotent."""
        self._producer.close(timeout_s)
        self._raise_failures()

    def _forget_sent(self, item_id: int) -> None:
        with self._lock:
            self._items.pop(item_id, None)

    def _raise_failures(self) -> None:
        with self._lock:
            failures, first = self._failures, self._first_failure
            self._failures, self._first_failure = 0, None
        if failures:
            raise PublishError(
                f"{failures} records were not acknowledged (first: {first}): publish them again once the cluster is "
                "available; records that arrive twice change nothing"
            ) from first

    def _failed(self, error: BaseException) -> None:
        with self._lock:
            self._failures += 1
            self._first_failure = self._first_failure or error

    def _send(
        self, topic: str, key: bytes, value: bytes | None, *, on_failure: Callable[[], None] = lambda: None
    ) -> Delivery:
        try:
            future = self._producer.send(topic, value=value, key=key)
        except KafkaError as error:
            on_failure()
            raise PublishError(
                f"topic {topic} accepts no record ({error}): create it with `lifeline topics create`, or check "
                "the cluster"
            ) from error
        future.add_errback(lambda _: on_failure())
        future.add_errback(self._failed)
        self._sent += 1
        if self._sent % _CHECKPOINT_EVERY == 0:
            self._limit_unacknowledged(future)
        return Delivery(future)

    def _limit_unacknowledged(self, future: Any) -> None:  # noqa: ANN401 - the library ships no types
        """Wait for an older record, because the client library buffers without a bound."""
        with self._lock:
            self._checkpoints.append(future)
            oldest = self._checkpoints.popleft() if len(self._checkpoints) > _CHECKPOINTS else None
        if oldest is not None and not oldest.is_done:
            done = threading.Event()
            oldest.add_both(lambda _: done.set())
            done.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def check_user_id(user_id: str) -> bytes:
    """Return the record key of a user; raises InvalidActionError unless it is 1 to 256 bytes of UTF-8."""
    try:
        return encode_user_id(user_id)
    except InvalidUserIdError as error:
        raise InvalidActionError(f"user_id: {error}") from error


def check_action(action: Action, vocabulary: Vocabulary | None = None) -> bytes:
    """Return the record key of an action; raises InvalidActionError if a node would dead-letter it."""
    key = check_user_id(action.user_id)
    if action.timestamp_ms <= 0:
        raise InvalidActionError(
            f"timestamp_ms is {action.timestamp_ms}: give milliseconds since 1970, above 0 (0 means not set)"
        )
    if action.timestamp_ms > MAX_TIMESTAMP_MS:
        raise InvalidActionError(
            f"timestamp_ms is {action.timestamp_ms}, after the year 2099: give milliseconds since 1970"
        )
    if not 1 <= action.action_type <= MAX_ACTION_TYPES:
        raise InvalidActionError(f"action_type is {action.action_type}: give an id of 1 to {MAX_ACTION_TYPES}")
    if action.surface >= MAX_SURFACES:
        raise InvalidActionError(f"surface is {action.surface}: give an id below {MAX_SURFACES}, 0 for unknown")
    if vocabulary is not None:
        if action.action_type not in vocabulary.action_type_names:
            raise InvalidActionError(
                f"action_type {action.action_type} is not in the vocabulary: add it, or correct it"
            )
        if action.surface not in vocabulary.surface_names:
            raise InvalidActionError(f"surface {action.surface} is not in the vocabulary: add it, or correct it")
    return key


def make_item(
    item_id: int, embedding: "bytes | NDArray[np.int8] | NDArray[np.floating[Any]]", version: int = 0
) -> Item:
    """Return an Item with an embedding of int8[32] (bytes or array, used unchanged) or of float[32] (quantized).

    Floats become int8 by `lifeline.core.embedding_codec.quantize`. Raises InvalidItemError.
    """
    if isinstance(embedding, bytes):
        packed = embedding
    elif embedding.dtype == np.int8:
        packed = embedding.tobytes()
    else:
        try:
            packed = quantize(np.asarray(embedding, np.float64)).tobytes()
        except ValueError as error:
            raise InvalidItemError(f"item {item_id}: {error}") from error
    _check_embedding(item_id, packed)
    try:
        return Item(item_id=item_id, embedding=packed, embedding_version=version)
    except (ValueError, TypeError) as error:
        raise InvalidItemError(f"item {item_id} cannot be an Item ({error}): give unsigned ids and versions") from error


def _check_embedding(item_id: int, packed: bytes) -> None:
    if len(packed) != EMBEDDING_DIM:
        raise InvalidItemError(f"item {item_id} has an embedding of {len(packed)} numbers: give {EMBEDDING_DIM}")
    if not any(packed):
        raise InvalidItemError(
            f"item {item_id} has an embedding of zeros, which means that it has none: call forget_item if that is so, "
            "or give its embedding"
        )
