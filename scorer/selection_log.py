"""The selected-token log: a selected request as a record of a topic, and back."""

from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import DTypeLike, NDArray

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.scorer.config import ModelConfig, Selecting
from lifeline.scorer.errors import SelectionRecordError
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import RequestContext, Tokens
from lifeline.v1 import selection_pb2


class LoggedRequest(NamedTuple):
    """What one record holds."""

    user_id: str
    model: str
    model_version: str
    selecting: Selecting
    selected: FeatureSnapshot
    probability: NDArray[np.float32]
    """float32[c, heads]: what the model answered."""


def encode(logged: LoggedRequest) -> bytes:
    """Return the value of a record."""
    selected, tokens = logged.selected, logged.selected.tokens
    return selection_pb2.SelectionRecord(
        user_id=logged.user_id,
        timestamp_ms=selected.context.timestamp_ms,
        surface=selected.context.surface,
        model=logged.model,
        model_version=logged.model_version,
        config=selection_pb2.SelectionConfig(**logged.selecting._asdict()),
        candidates=selection_pb2.SelectedCandidates(
            item_id=_pack(selected.item_id, "<u8"),
            embedding=_pack(selected.embedding, "i1"),
            features=_pack(selected.features, "<f4"),
            index=_pack(selected.index, "<i4"),
            source=_pack(selected.source, "u1"),
            probability=_pack(logged.probability, "<f4"),
        ),
        tokens=selection_pb2.SelectedTokens(
            timestamp_ms=_pack(tokens.timestamp_ms, "<i8"),
            item_id=_pack(tokens.item_id, "<u8"),
            action_types=_pack(tokens.action_types, "<u8"),
            surface=_pack(tokens.surface, "u1"),
            embedding=_pack(tokens.embedding, "i1"),
            impressions=selected.impressions,
        ),
    ).SerializeToString()


def decode(value: bytes) -> LoggedRequest:
    """Read the value of a record; raises SelectionRecordError where its parts do not fit together."""
    try:
        record = selection_pb2.SelectionRecord.FromString(value)
    except DecodeError as error:
        raise SelectionRecordError("it is no lifeline.v1.SelectionRecord: see what publishes to this topic") from error
    selecting = Selecting(
        **{name: getattr(record.config, name) for name in Selecting._fields},
    )
    candidates, tokens = record.candidates, record.tokens
    try:
        item_id = _unpack(candidates.item_id, "<u8", -1)
        count = len(item_id)
        timestamp_ms = _unpack(tokens.timestamp_ms, "<i8", -1)
        held = len(timestamp_ms)
        selected = FeatureSnapshot(
            RequestContext(record.timestamp_ms, record.surface),
            item_id,
            _unpack(candidates.embedding, "i1", count, EMBEDDING_DIM),
            _unpack(candidates.features, "<f4", count, -1),
            Tokens(
                timestamp_ms,
                _unpack(tokens.item_id, "<u8", held),
                _unpack(tokens.action_types, "<u8", held),
                _unpack(tokens.surface, "u1", held),
                _unpack(tokens.embedding, "i1", held, EMBEDDING_DIM),
            ),
            tokens.impressions,
            _unpack(candidates.index, "<i4", count, -1),
            _unpack(candidates.source, "u1", count, -1),
        )
        probability = _unpack(candidates.probability, "<f4", count, -1)
    except ValueError as error:
        raise SelectionRecordError(f"its columns do not fit together ({error}): see what published it") from error
    index, length = selected.index, selected.index.shape[1] if count else 0
    if not count or not length or selected.source.shape != index.shape or tokens.impressions > held:
        raise SelectionRecordError("its columns do not fit together: see what published it")
    if index.min() < -1 or index.max() >= held:
        raise SelectionRecordError("it points at tokens that it does not hold: see what published it")
    return LoggedRequest(record.user_id, record.model, record.model_version, selecting, selected, probability)


def check_selecting(logged: LoggedRequest, config: ModelConfig) -> None:
    """Raise SelectionRecordError where a model selects otherwise than what was logged."""
    ours = config.selecting
    differing = [name for name in ours._fields if getattr(ours, name) != getattr(logged.selecting, name)]
    if differing:
        name = differing[0]
        raise SelectionRecordError(
            f"it was selected with {name} {getattr(logged.selecting, name)}, and the model to be trained has "
            f"{getattr(ours, name)}: train one that selects alike, or from a store"
        )


def _pack(column: NDArray[Any], dtype: DTypeLike) -> bytes:
    return np.ascontiguousarray(column, dtype).tobytes()


def _unpack(content: bytes, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
    column = np.frombuffer(content, dtype).astype(np.dtype(dtype).newbyteorder("="))
    if 0 in shape and -1 in shape:
        # Of no row there is no telling how wide they are.
        return column.reshape(*(0 if size in {0, -1} else size for size in shape))
    return column.reshape(shape)
