"""A recount: the number of events and the fingerprint, computed from the stored events, not the running sums."""

from typing import NamedTuple

import numpy as np

from lifeline.core.actions import Kind, pack_code
from lifeline.core.sequence import SequenceQuery
from lifeline.store.fingerprint import add, event_hashes, total, user_hash
from lifeline.store.readable_partition import ReadablePartition
from lifeline.store.reader import SequenceReader


class Recount(NamedTuple):
    """The sums over the stored events."""

    events: int
    fingerprint: int


def recount(store: ReadablePartition) -> Recount:
    """Read every sequence of a store and add up its events. Nothing may write to the store meanwhile.

    Raises CorruptRecordError, FormatVersionError.
    """
    reader, query = SequenceReader(store), SequenceQuery(kinds=tuple(Kind))
    events = fingerprint = 0
    for user in store.users():
        words = np.frombuffer(user_hash(user.encode()), np.uint64)
        for kind, sequence in reader.read(user, query).sequences.items():
            columns = sequence.timestamp_ms, sequence.item_id, sequence.action_type, sequence.surface
            timestamp_ms, item_id, action_type, surface = columns
            if timestamp_ms is None or item_id is None or action_type is None or surface is None:
                raise AssertionError("Column.EVENT has all four columns")
            n = sequence.length
            hashes = event_hashes(
                np.broadcast_to(words, (n, 2)),
                timestamp_ms,
                item_id,
                np.full(n, kind, np.uint8),
                pack_code(action_type, surface),
            )
            events += n
            fingerprint = add(fingerprint, total(*hashes))
    return Recount(events, fingerprint)
