"""History cache: the tokens of recently scored users, valid until the user acts again.

An entry is valid while the user's stored records are those that it was built from (`store.records`). The check reads
the records without decoding them, so actions of other users do not invalidate the entry. Embeddings belong to items and
change independently: after any change, an entry looks up its embeddings again.
"""

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

from lifeline.core.actions import Kind
from lifeline.core.sequence import AsOf, Column, SequenceQuery
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History, Tokens, tokenize
from lifeline.store.embeddings import Embeddings
from lifeline.store.reader import SequenceReader

QUERY = SequenceQuery(kinds=(Kind.EXPLICIT, Kind.IMPRESSION), columns=Column.ALL)
"""The query of scoring: both kinds, all columns."""
_ENTRY_BYTES = 2_048


class HistoryCacheStatistics(NamedTuple):
    """Size now, and counts since the start."""

    entries: int
    bytes: int
    hits: int
    """Requests whose user's entry was valid."""
    misses: int
    """Requests whose user's events were read and turned into tokens."""


class _Entry(NamedTuple):
    stamp: tuple[object, ...]
    """Identifies the open partition, and the records that the entry was built from."""
    embeddings: object
    """The version stamp of its embeddings."""
    explicit: Tokens
    impressions: Tokens

    @property
    def bytes(self) -> int:
        return _ENTRY_BYTES + self.explicit.nbytes + self.impressions.nbytes

    def with_embeddings(self, embeddings: Embeddings, stamp: object) -> "_Entry":
        """Return the entry with its items' current embeddings."""
        explicit, impressions = (
            replace(tokens, embedding=embeddings.gather(embeddings.rows_of(tokens.item_id)))
            for tokens in (self.explicit, self.impressions)
        )
        return self._replace(embeddings=stamp, explicit=explicit, impressions=impressions)


class HistoryCache:
    """A least-recently-used cache with a budget in bytes. Safe to use from any thread."""

    def __init__(self, budget_bytes: int) -> None:
        """Keep as many entries as the budget allows; 0 keeps none."""
        self._budget = budget_bytes
        self._entries: OrderedDict[tuple[str, int], _Entry] = OrderedDict()
        self._bytes = self._hits = self._misses = 0
        self._lock = threading.Lock()

    def history(self, reader: SequenceReader, user_id: str, config: ModelConfig) -> tuple[AsOf, History]:
        """Return the state and a user's history in it. Raises as `SequenceReader.read` does."""
        records = reader.records(user_id, QUERY)
        stamp = (reader.store.instance, records.stamp)
        embeddings = reader.embeddings
        # Read before the embeddings, so that the next request notices a change in between.
        embeddings_stamp = None if embeddings is None else embeddings.stamp()
        key = (user_id, config.visit_gap_ms)
        entry = self._find(key, stamp)
        if entry is None:
            sequences = reader.decode(records, QUERY).sequences
            entry = _Entry(stamp, embeddings_stamp, *tokenize(sequences, config.visit_gap_ms))
            self._put(key, entry)
        elif embeddings is not None and entry.embeddings != embeddings_stamp:
            entry = entry.with_embeddings(embeddings, embeddings_stamp)
            self._put(key, entry)
        return records.as_of, History.of(entry.explicit, entry.impressions, config)

    def statistics(self) -> HistoryCacheStatistics:
        """Return the current counts."""
        with self._lock:
            return HistoryCacheStatistics(len(self._entries), self._bytes, self._hits, self._misses)

    def _find(self, key: tuple[str, int], stamp: tuple[object, ...]) -> _Entry | None:
        with self._lock:
            entry = self._entries.get(key)
            if entry is None or entry.stamp != stamp:
                self._misses += 1
                return None
            self._hits += 1
            self._entries.move_to_end(key)
            return entry

    def _put(self, key: tuple[str, int], entry: _Entry) -> None:
        """Replace the user's entry, and evict the least recently used ones."""
        with self._lock:
            before = self._entries.pop(key, None)
            self._bytes -= 0 if before is None else before.bytes
            if entry.bytes > self._budget:
                return
            self._entries[key] = entry
            self._bytes += entry.bytes
            while self._bytes > self._budget:
                _, oldest = self._entries.popitem(last=False)
                self._bytes -= oldest.bytes
