"""A best-effort producer for side topics (selected tokens, exposures). It never delays the node.

`offer` never blocks; a thread publishes. When the queue is full, or the cluster rejects a record or is unreachable for
too long, the record is dropped and counted. A missing topic is created. Its records expire after
`kafka.side_retention_days`, because they contain user data and erasures do not reach them.
"""

import queue
import threading
from typing import Any

import structlog
from kafka import KafkaProducer
from kafka.errors import KafkaError

from lifeline.core.kafka_errors import StreamError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.topics import MAX_RECORD_BYTES, ensure_side_topic
from lifeline.producer.producer import KeyPartitioner

_RETRY_S = 5.0
_POLL_S = 0.2

_log = structlog.get_logger(__name__)


class BestEffortProducer:
    """Publishes to one topic. `offer` may be called from any thread."""

    def __init__(self, settings: KafkaSettings, topic: str, *, max_waiting: int = 256) -> None:
        """Connect in the background; an unreachable cluster is no error. `max_waiting` is the size of the queue."""
        self._settings, self.topic = settings, topic
        self._waiting: queue.Queue[tuple[bytes, bytes]] = queue.Queue(max_waiting)
        self._stopping = threading.Event()
        self._count_lock = threading.Lock()
        self.published = 0
        """Records that all replicas have acknowledged."""
        self.dropped = 0
        """Records that were not published: the queue was full, or the cluster refused them."""
        self._thread = threading.Thread(target=self._run, name=f"lifeline-{topic}", daemon=True)
        self._thread.start()

    def offer(self, key: bytes, value: bytes) -> bool:
        """Queue a record; False when it is dropped at once."""
        if len(value) >= MAX_RECORD_BYTES or self._stopping.is_set():
            self._drop()
            return False
        try:
            self._waiting.put_nowait((key, value))
        except queue.Full:
            self._drop()
            return False
        return True

    def close(self, timeout_s: float) -> None:
        """Publish the queued records within `timeout_s`, and disconnect. Idempotent."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        producer = None
        while producer is None:
            producer = self._connect()
            if producer is None and self._stopping.wait(_RETRY_S):
                return
        try:
            while not (self._stopping.is_set() and self._waiting.empty()):
                try:
                    key, value = self._waiting.get(timeout=_POLL_S)
                except queue.Empty:
                    continue
                self._send(producer, key, value)
            producer.flush()
        finally:
            producer.close()

    def _connect(self) -> Any:  # noqa: ANN401 - the library ships no types
        try:
            ensure_side_topic(self._settings, self.topic)
            return KafkaProducer(
                **self._settings.client_options(),
                acks="all",
                enable_idempotence=True,
                partitioner=KeyPartitioner(),
                linger_ms=50,
                # The records, columns of numbers, compress to a third; gzip needs no further package.
                compression_type="gzip",
                max_request_size=MAX_RECORD_BYTES,
                request_timeout_ms=self._settings.request_timeout_ms,
                max_block_ms=self._settings.request_timeout_ms,
                bootstrap_timeout_ms=self._settings.request_timeout_ms,
                allow_auto_create_topics=False,
                metrics_enabled=False,
            )
        except (KafkaError, OSError, StreamError) as error:
            _log.warning("a side topic cannot be written now: trying again", topic=self.topic, why=str(error))
            return None

    def _send(self, producer: Any, key: bytes, value: bytes) -> None:  # noqa: ANN401
        try:
            future = producer.send(self.topic, key=key, value=value)
        except KafkaError as error:
            _log.warning("a record of a side topic was dropped", topic=self.topic, why=str(error))
            self._drop()
            return
        future.add_callback(self._count)
        future.add_errback(lambda _error: self._drop())

    def _count(self, _metadata: object) -> None:
        with self._count_lock:
            self.published += 1

    def _drop(self) -> None:
        with self._count_lock:
            self.dropped += 1
