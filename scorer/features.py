"""Features: a user's events as tokens, the three sequences of tokens, and the features of a request.

A **visit** is a run of a user's events without a pause longer than the visit gap. A **token** holds all that a user did
to one item in one visit: its action types are a set of bits (bit `id - 1`), its time and surface are those of its
newest event, and tokens are ordered by their newest events. Visits of explicit tokens are runs of explicit events
alone, so that a token does not change when impressions expire.

An impression was **engaged with** if the user also did something explicit to the item in the same visit, before or
after; here visits are runs of events of both kinds. S_imp holds the newest impressions that were not engaged with.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from lifeline.core.action_types import bit_column
from lifeline.core.actions import Kind
from lifeline.core.sequence import EMBEDDING_DIM, Sequence
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.kernels import tokens as kernels
from lifeline.scorer.kernels.instruction_set import InstructionSet, active

DAY_MS = 86_400_000

_T = TypeVar("_T", bound=np.generic)


@dataclass(frozen=True, slots=True)
class Tokens:
    """Columns of n tokens, oldest first.

    timestamp_ms int64[n], item_id uint64[n], action_types uint64[n] (bit id - 1), surface uint8[n],
    embedding int8[n, 32]: rows of zeros for items without an embedding.
    """

    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    action_types: NDArray[np.uint64]
    surface: NDArray[np.uint8]
    embedding: NDArray[np.int8]

    def __len__(self) -> int:
        return len(self.timestamp_ms)

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        columns = (self.timestamp_ms, self.item_id, self.action_types, self.surface, self.embedding)
        return sum(column.nbytes for column in columns)

    def take(self, rows: slice | NDArray[np.intp] | NDArray[np.bool_]) -> Self:
        """Return the tokens at `rows`: views for a slice, copies otherwise."""
        if not isinstance(rows, slice) and rows.dtype == np.bool_:
            rows = rows.nonzero()[0]
        return type(self)(
            _at(self.timestamp_ms, rows),
            _at(self.item_id, rows),
            _at(self.action_types, rows),
            _at(self.surface, rows),
            _at(self.embedding, rows),
        )

    @classmethod
    def concatenate(cls, parts: list[Self]) -> Self:
        """Return the tokens of all parts, one after the other; without parts, no tokens."""
        parts = [cls.empty(), *parts]
        return cls(
            np.concatenate([part.timestamp_ms for part in parts]),
            np.concatenate([part.item_id for part in parts]),
            np.concatenate([part.action_types for part in parts]),
            np.concatenate([part.surface for part in parts]),
            np.concatenate([part.embedding for part in parts]),
        )

    @classmethod
    def empty(cls) -> Self:
        """Return zero tokens."""
        return cls(
            np.empty(0, np.int64),
            np.empty(0, np.uint64),
            np.empty(0, np.uint64),
            np.empty(0, np.uint8),
            np.empty((0, EMBEDDING_DIM), np.int8),
        )


def _at(column: NDArray[_T], rows: slice | NDArray[Any]) -> NDArray[_T]:
    # `take` is three times as fast as indexing.
    return column[rows] if isinstance(rows, slice) else column.take(rows, axis=0)


@dataclass(frozen=True, slots=True)
class History:
    """A user's three sequences over one table of tokens: first the explicit tokens, then the impressions.

    S_LL is explicit[:real_time_from], S_RT is explicit[real_time_from:], S_imp is impressions.
    """

    explicit: Tokens
    impressions: Tokens
    real_time_from: int

    @classmethod
    def of(cls, explicit: Tokens, impressions: Tokens, config: ModelConfig) -> Self:
        """Split tokens into the three sequences; `impressions` are those that were not engaged with."""
        newest = slice(max(0, len(impressions) - config.impression_length), None)
        return cls(explicit, impressions.take(newest), max(0, len(explicit) - config.real_time_length))

    @property
    def tokens(self) -> Tokens:
        """The table that the indices of a selection refer to."""
        return Tokens.concatenate([self.explicit, self.impressions])


class RequestContext(NamedTuple):
    """When and where a request is made."""

    timestamp_ms: int
    """Time of the request, milliseconds since 1970."""
    surface: int = 0
    """Id of the surface where the candidates will be shown; 0 is unknown."""


def read_history(sequences: Mapping[Kind, Sequence], config: ModelConfig) -> History:
    """Return a user's history from sequences with all columns; a missing kind counts as empty.

    Raises ValueError if a column was not read.
    """
    return History.of(*tokenize(sequences, config.visit_gap_ms), config)


def tokenize(sequences: Mapping[Kind, Sequence], gap_ms: int) -> tuple[Tokens, Tokens]:
    """Return a user's explicit tokens, and the tokens of the impressions that were not engaged with.

    Uses the kernels if the process has them. Raises KernelsError if LIFELINE_KERNELS names an unavailable instruction
    set.
    """
    uses_numpy = active() is InstructionSet.NONE
    merge, engaged = (_merge, _engaged) if uses_numpy else (kernels.merge, kernels.engaged)
    explicit, impressions = (_events(sequences.get(kind)) for kind in (Kind.EXPLICIT, Kind.IMPRESSION))
    tokens = explicit.tokens(*merge(explicit.columns, gap_ms))
    newest, action_types = merge(impressions.columns, gap_ms)
    ignored = ~engaged(impressions.columns, explicit.columns, gap_ms)[newest]
    return tokens, impressions.tokens(newest[ignored], action_types[ignored])


def visits(timestamp_ms: NDArray[np.int64], gap_ms: int) -> NDArray[np.int64]:
    """Return the number of the visit of each of n events, which are oldest first: int64[n] from 0."""
    return np.cumsum(np.diff(timestamp_ms, prepend=timestamp_ms[:1]) > gap_ms, dtype=np.int64)


def context(
    explicit: Tokens, candidate_ids: NDArray[np.uint64], request: RequestContext, config: ModelConfig
) -> NDArray[np.float32]:
    """Return float32[c, config.context_features]: time of day and week (UTC), history length, last touch.

    With `config.last_touch`, the last two columns say whether the user ever touched the candidate, and how recently: 1
    for now, falling with the logarithm of the age to about 0 after forty years; 0 for never.
    """
    hour = request.timestamp_ms % DAY_MS / DAY_MS
    week = request.timestamp_ms % (7 * DAY_MS) / (7 * DAY_MS)
    angles = 2 * np.pi * np.array([hour, hour - 0.25, week, week - 0.25])
    columns = np.zeros((len(candidate_ids), config.context_features), np.float32)
    columns[:, :4] = np.cos(angles)
    columns[:, 4] = np.log1p(len(explicit)) / 10
    if config.last_touch:
        row = last_touch(explicit, candidate_ids)
        touched = np.flatnonzero(row >= 0)
        age_s = np.maximum(request.timestamp_ms - explicit.timestamp_ms[row[touched]], 0) / 1000
        columns[touched, 5] = 1
        columns[touched, 6] = 1 - np.log1p(age_s) / 21
    return columns


def last_touch(explicit: Tokens, candidate_ids: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the row of each candidate's newest explicit token, int64[c]; -1 if the user never touched it.

    Raises KernelsError as `tokenize` does.
    """
    find = _last_touch if active() is InstructionSet.NONE else kernels.last_touch
    return find(explicit.item_id, candidate_ids)


class _Events(NamedTuple):
    """The events of one sequence, oldest first."""

    columns: kernels.EventColumns
    surface: NDArray[np.uint8]
    embedding: NDArray[np.int8]

    def tokens(self, newest: NDArray[np.int64], action_types: NDArray[np.uint64]) -> Tokens:
        """Return the tokens whose newest events are these rows, ascending."""
        timestamp_ms, item_id, _ = self.columns
        if len(newest) == len(timestamp_ms):
            # Nothing was merged.
            return Tokens(timestamp_ms, item_id, action_types, self.surface, self.embedding)
        return Tokens(
            _at(timestamp_ms, newest),
            _at(item_id, newest),
            # A copy: the kernels return a view of an array as long as the events, and a cached token would keep it
            # alive.
            action_types.copy(),
            _at(self.surface, newest),
            _at(self.embedding, newest),
        )


def _events(sequence: Sequence | None) -> _Events:
    if sequence is None:
        nothing = Tokens.empty()
        columns = kernels.EventColumns(nothing.timestamp_ms, nothing.item_id, nothing.surface)
        return _Events(columns, nothing.surface, nothing.embedding)
    timestamp_ms, item_id, action_type = sequence.timestamp_ms, sequence.item_id, sequence.action_type
    surface, embedding = sequence.surface, sequence.embedding
    if timestamp_ms is None or item_id is None or action_type is None or surface is None or embedding is None:
        raise ValueError("a sequence lacks a column that tokens are made of: read it with Column.ALL")
    return _Events(kernels.EventColumns(timestamp_ms, item_id, action_type), surface, embedding)


def _merge(events: kernels.EventColumns, gap_ms: int) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Return the newest event of each token and its action types; a token merges a visit's events on one item."""
    timestamp_ms, item_id, action_type = events
    bits = bit_column(action_type)
    if len(bits) == 0:
        return np.empty(0, np.int64), bits
    visit = visits(timestamp_ms, gap_ms)
    # The sort is stable, so the newest event of a token is the last of its group.
    order = np.lexsort((item_id, visit))
    visit, item_id = visit[order], item_id[order]
    starts = np.flatnonzero(np.r_[True, (visit[1:] != visit[:-1]) | (item_id[1:] != item_id[:-1])])
    action_types = np.bitwise_or.reduceat(bits[order], starts)
    newest = order[np.r_[starts[1:], len(order)] - 1]
    by_newest = np.argsort(newest)
    return newest[by_newest], action_types[by_newest]


def _engaged(shown: kernels.EventColumns, acted: kernels.EventColumns, gap_ms: int) -> NDArray[np.bool_]:
    """Return which events of `shown` are in a visit with an event of `acted` on the same item."""
    timestamp_ms = np.concatenate([shown.timestamp_ms, acted.timestamp_ms])
    order = np.argsort(timestamp_ms, kind="stable")
    visit = np.empty(len(order), np.int64)
    visit[order] = visits(timestamp_ms[order], gap_ms)
    items, ordinal = np.unique(np.concatenate([shown.item_id, acted.item_id]), return_inverse=True)
    item_in_visit = visit * len(items) + ordinal
    return np.isin(item_in_visit[: len(shown.item_id)], item_in_visit[len(shown.item_id) :])


def _last_touch(tokens: NDArray[np.uint64], items: NDArray[np.uint64]) -> NDArray[np.int64]:
    distinct, inverse = np.unique(items, return_inverse=True)
    if len(distinct) == 0:
        return np.empty(0, np.int64)
    place = np.minimum(np.searchsorted(distinct, tokens), len(distinct) - 1)
    rows = np.flatnonzero(distinct[place] == tokens)
    newest = np.full(len(distinct), -1, np.int64)
    np.maximum.at(newest, place[rows], rows)
    return newest[inverse]
