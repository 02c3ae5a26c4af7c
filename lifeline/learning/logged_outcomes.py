"""Logged requests and their outcomes: the selections topic joined with what users did next."""

import zlib
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import structlog

from lifeline.config import Settings
from lifeline.core.action_types import bit_column
from lifeline.core.sequence import Column, SequenceQuery
from lifeline.ops.offline import open_user_readers
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import SelectionRecordError
from lifeline.scorer.selection_log import LoggedRequest, check_selection_settings, decode
from lifeline.scorer.train.examples import Outcome
from lifeline.store.reader import SequenceReader
from lifeline.stream.record import Record
from lifeline.stream.topic_reader import read_topic

_COLUMNS = Column.TIMESTAMP_MS | Column.ITEM_ID | Column.ACTION_TYPE

_log = structlog.get_logger(__name__)


def logged_outcomes(settings: Settings, config: ModelConfig, window_ms: int) -> list[Outcome]:
    """Return every logged request whose outcome is known by now, for a model with the same selection settings.

    A request's outcome is what its user did to each candidate within `window_ms`, as the data directory has it; it is
    known once the user's partition has seen events that are later. Raises StreamError, StoreError, and
    SelectionRecordError if the model selects in another way.
    """
    topic = settings.kafka.selections_topic
    advice = "nodes make it once scorer.log_share is above 0"
    with open_user_readers(settings) as reader_of:
        return list(join(_decoded(read_topic(settings.kafka, topic, advice=advice)), reader_of, config, window_ms))


def join(
    requests: Iterable[LoggedRequest],
    reader_of: Callable[[str], SequenceReader | None],
    config: ModelConfig,
    window_ms: int,
) -> Iterator[Outcome]:
    """Yield the requests whose outcome is known; skip those of users who are stored elsewhere."""
    for logged in requests:
        check_selection_settings(logged, config)
        reader = reader_of(logged.user_id)
        if reader is None:
            continue
        asked_ms = logged.snapshot.context.timestamp_ms
        query = SequenceQuery(columns=_COLUMNS, from_timestamp_ms=asked_ms, to_timestamp_ms=asked_ms + window_ms)
        found = reader.read(logged.user_id, query)
        if found.as_of.watermark_ms < asked_ms + window_ms:
            continue
        (events,) = found.sequences.values()
        done = np.zeros(len(logged.snapshot.item_id), np.uint64)
        if events.item_id is not None and events.action_type is not None and len(events.item_id):
            bits = bit_column(events.action_type)
            for place, item in enumerate(logged.snapshot.item_id.tolist()):
                done[place] = np.bitwise_or.reduce(bits[events.item_id == np.uint64(item)], initial=np.uint64(0))
        yield Outcome(zlib.crc32(logged.user_id.encode()), logged.snapshot, done, {})


def _decoded(records: Iterable[Record]) -> Iterator[LoggedRequest]:
    """Yield what can be read; log and skip what cannot."""
    for record in records:
        try:
            yield decode(record.value or b"")
        except SelectionRecordError as error:
            _log.warning(
                "a logged request cannot be read", partition=record.partition, offset=record.offset, why=str(error)
            )
