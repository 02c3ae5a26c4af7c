"""Segments: unsealed events of one sequence, in a record beside its head.

A segment is one byte for its form, and then::

    'R'  raw events of 14 bytes, little-endian, in order of arrival:
         timestamp_ms int64 · ordinal uint32 · code uint16
    'C'  a chunk (chunk.py): ascending events that several segments were merged into

For few events the headers of pco columns take more space than the compression saves, so small segments stay raw.
"""

import struct

import numpy as np
from numpy.typing import NDArray

from lifeline.store import chunk
from lifeline.store.chunk import Chunk, EventColumns, decode_all
from lifeline.store.errors import CorruptRecordError

EVENT = np.dtype([("timestamp_ms", "<i8"), ("ordinal", "<u4"), ("code", "<u2")])
EVENT_BYTES = EVENT.itemsize
ONE_EVENT = struct.Struct("<qIH")
RAW, RUN = b"R", b"C"
RUN_EVENTS = 64
"""Segments of at least so many ascending events are encoded as a chunk."""


def pack_events(events: EventColumns) -> bytes:
    """Return the events as 14 bytes each."""
    rows = np.empty(events.n, EVENT)
    rows["timestamp_ms"], rows["ordinal"], rows["code"] = events
    return rows.tobytes()


def unpack_events(data: bytes) -> EventColumns:
    """Read events of 14 bytes; raises CorruptRecordError if the last one is incomplete."""
    if len(data) % EVENT_BYTES:
        raise CorruptRecordError(f"{len(data)} bytes are not a whole number of events")
    rows: NDArray[np.void] = np.frombuffer(data, EVENT)
    return EventColumns(rows["timestamp_ms"].copy(), rows["ordinal"].copy(), rows["code"].copy())


def pack_segment(events: EventColumns) -> bytes:
    """Return a segment of ascending events, in the smaller form."""
    return RUN + chunk.encode(events) if events.n >= RUN_EVENTS else RAW + pack_events(events)


def split_segments(segments: list[bytes], inline: bytes) -> tuple[list[Chunk], EventColumns]:
    """Return the runs, still encoded, and the raw events of segments and of a head in order of arrival.

    Raises CorruptRecordError, FormatVersionError.
    """
    runs: list[Chunk] = []
    raw: list[bytes] = []
    for number, data in enumerate(segments):
        if data[:1] == RUN:
            try:
                runs.append(Chunk.open(data[1:]))
            except CorruptRecordError as error:
                raise CorruptRecordError(error.what, record=f"segment {number}") from error
        elif data[:1] == RAW and len(data) % EVENT_BYTES == 1:
            raw.append(data[1:])
        else:
            what = f"{len(data)} bytes that start with {data[:1]!r} are no segment"
            raise CorruptRecordError(what, record=f"segment {number}")
    return runs, unpack_events(b"".join([*raw, inline]))


def join_segments(runs: list[Chunk], raw: EventColumns) -> EventColumns:
    """Return all events: run by run, and then the raw ones. Raises CorruptRecordError."""
    if not runs:
        return raw
    at = sum(run.n for run in runs)
    events = EventColumns.empty(at + raw.n)
    decode_all(runs, events)
    events.timestamp_ms[at:], events.ordinal[at:], events.code[at:] = raw
    return events


def unpack_segments(segments: list[bytes], inline: bytes) -> EventColumns:
    """Return the events of segments and of a head, unordered; raises as `split_segments` does."""
    return join_segments(*split_segments(segments, inline))
