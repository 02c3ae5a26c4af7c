"""Token tables: what becomes of a user's events once they are read, kept for as long as the user does nothing.

A table is good while the records of the user's sequences are those that it was made of (`store.records`), which takes
one look at them and no clock: whatever else the partition applies, it stays. Embeddings are items', and change apart
from users: where any has, those of the table are looked up again.
"""

import threading
from collections import OrderedDict
from dataclasses import replace
from typing import NamedTuple

from lifeline.core.actions import Kind
from lifeline.core.sequence import AsOf, Column, SequenceQuery
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History, Tokens, tokenise
from lifeline.store.embeddings import Embeddings
from lifeline.store.reader import SequenceReader

QUERY = SequenceQuery(kinds=(Kind.EXPLICIT, Kind.IMPRESSION), columns=Column.ALL)
"""What scoring reads of a user."""
_ENTRY_BYTES = 2_048


class TokenTableStatistics(NamedTuple):
    """Counts since the start, but for what is kept now."""

    tables: int
    bytes: int
    found: int
    """Requests whose user's table was there."""
    made: int
    """Requests whose user's events were read and made into one."""


class _Table(NamedTuple):
    stamp: tuple[object, ...]
    """Of the open partition, and of the records that it was made of."""
    embeddings: object
    """The stamp of the embeddings that it has."""
    explicit: Tokens
    impressions: Tokens

    @property
    def bytes(self) -> int:
        return _ENTRY_BYTES + self.explicit.nbytes + self.impressions.nbytes

    def renewed(self, embeddings: Embeddings, stamp: object) -> "_Table":
        """Return the table with the embeddings of its items as they are now."""
        explicit, impressions = (
            replace(tokens, embedding=embeddings.gather(embeddings.rows_of(tokens.item_id)))
            for tokens in (self.explicit, self.impressions)
        )
        return self._replace(embeddings=stamp, explicit=explicit, impressions=impressions)


class HistoryCache:
    """The tables of the users that were scored last, in so many bytes. May be used from any thread."""

    def __init__(self, budget_bytes: int) -> None:
        """Keep as many tables as the budget takes; 0: none."""
        self._budget = budget_bytes
        self._tables: OrderedDict[tuple[str, int], _Table] = OrderedDict()
        self._bytes = self._found = self._made = 0
        self._lock = threading.Lock()

    def history(self, reader: SequenceReader, user_id: str, config: ModelConfig) -> tuple[AsOf, History]:
        """Return a user's history as it is now, and what it stands on. Raises as `SequenceReader.read` does."""
        records = reader.records(user_id, QUERY)
        stamp = (reader.store.number, records.stamp)
        embeddings = reader.embeddings
        # Looked at before any embedding is: what changes meanwhile is seen by the next request.
        embeddings_stamp = None if embeddings is None else embeddings.stamp()
        key = (user_id, config.visit_gap_ms)
        table = self._find(key, stamp)
        if table is None:
            sequences = reader.decode(records, QUERY).sequences
            table = _Table(stamp, embeddings_stamp, *tokenise(sequences, config.visit_gap_ms))
            self._keep(key, table)
        elif embeddings is not None and table.embeddings != embeddings_stamp:
            table = table.renewed(embeddings, embeddings_stamp)
            self._keep(key, table)
        return records.as_of, History.of(table.explicit, table.impressions, config)

    def statistics(self) -> TokenTableStatistics:
        """Return the counts of this moment."""
        with self._lock:
            return TokenTableStatistics(len(self._tables), self._bytes, self._found, self._made)

    def _find(self, key: tuple[str, int], stamp: tuple[object, ...]) -> _Table | None:
        with self._lock:
            table = self._tables.get(key)
            if table is None or table.stamp != stamp:
                self._made += 1
                return None
            self._found += 1
            self._tables.move_to_end(key)
            return table

    def _keep(self, key: tuple[str, int], table: _Table) -> None:
        """Keep a table in the place of its user's last one, and let go of those that nobody asked for longest."""
        with self._lock:
            before = self._tables.pop(key, None)
            self._bytes -= 0 if before is None else before.bytes
            if table.bytes > self._budget:
                return
            self._tables[key] = table
            self._bytes += table.bytes
            while self._bytes > self._budget:
                _, oldest = self._tables.popitem(last=False)
                self._bytes -= oldest.bytes
