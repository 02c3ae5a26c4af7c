"""The selection log: snapshots of requests as records of a topic."""

from typing import Any, NamedTuple

import numpy as np
from google.protobuf.message import DecodeError
from numpy.typing import DTypeLike, NDArray

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.scorer.config import ModelConfig, SelectionSettings
from lifeline.scorer.errors import SelectionRecordError
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import RequestContext, Tokens
from lifeline.v1 import selection_pb2


class LoggedRequest(NamedTuple):
    """The content of one record."""

    user_id: str
    model: str
    model_version: str
    selection_settings: SelectionSettings
    snapshot: FeatureSnapshot
    probability: NDArray[np.float32]
    """float32[c, heads]: the probabilities that the model returned."""


def encode(logged: LoggedRequest) -> bytes:
    """Return the value of a record."""
    snapshot, tokens = logged.snapshot, logged.snapshot.tokens
    return selection_pb2.SelectionRecord(
        user_id=logged.user_id,
        timestamp_ms=snapshot.context.timestamp_ms,
        surface=snapshot.context.surface,
        model=logged.model,
        model_version=logged.model_version,
        config=selection_pb2.SelectionConfig(**logged.selection_settings._asdict()),
        candidates=selection_pb2.SelectedCandidates(
            item_id=_pack(snapshot.item_id, "<u8"),
            embedding=_pack(snapshot.embedding, "i1"),
            features=_pack(snapshot.features, "<f4"),
            index=_pack(snapshot.index, "<i4"),
            source=_pack(snapshot.source, "u1"),
            probability=_pack(logged.probability, "<f4"),
        ),
        tokens=selection_pb2.SelectedTokens(
            timestamp_ms=_pack(tokens.timestamp_ms, "<i8"),
            item_id=_pack(tokens.item_id, "<u8"),
            action_types=_pack(tokens.action_types, "<u8"),
            surface=_pack(tokens.surface, "u1"),
            embedding=_pack(tokens.embedding, "i1"),
            impressions=snapshot.impressions,
        ),
    ).SerializeToString()


def decode(value: bytes) -> LoggedRequest:
    """Decode the value of a record; raises SelectionRecordError if it is damaged."""
    try:
        record = selection_pb2.SelectionRecord.FromString(value)
    except DecodeError as error:
        raise SelectionRecordError(
            "it is not a lifeline.v1.SelectionRecord: check what publishes to this topic"
        ) from error
    selection_settings = SelectionSettings(
        **{name: getattr(record.config, name) for name in SelectionSettings._fields},
    )
    candidates, tokens = record.candidates, record.tokens
    try:
        item_id = _unpack(candidates.item_id, "<u8", -1)
        count = len(item_id)
        timestamp_ms = _unpack(tokens.timestamp_ms, "<i8", -1)
        held = len(timestamp_ms)
        snapshot = FeatureSnapshot(
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
        raise SelectionRecordError(f"its columns do not fit together ({error}): check what published it") from error
    index, length = snapshot.index, snapshot.index.shape[1] if count else 0
    if not count or not length or snapshot.source.shape != index.shape or tokens.impressions > held:
        raise SelectionRecordError("its columns do not fit together: check what published it")
    if index.min() < -1 or index.max() >= held:
        raise SelectionRecordError("its index points outside its tokens: check what published it")
    return LoggedRequest(record.user_id, record.model, record.model_version, selection_settings, snapshot, probability)


def check_selection_settings(logged: LoggedRequest, config: ModelConfig) -> None:
    """Raise SelectionRecordError if a model has other selection settings than the logged one."""
    ours = config.selection_settings
    differing = [name for name in ours._fields if getattr(ours, name) != getattr(logged.selection_settings, name)]
    if differing:
        name = differing[0]
        raise SelectionRecordError(
            f"it was selected with {name} {getattr(logged.selection_settings, name)}, and the model to be trained has "
            f"{getattr(ours, name)}: train a model with the logged settings, or train from a store"
        )


def _pack(column: NDArray[Any], dtype: DTypeLike) -> bytes:
    return np.ascontiguousarray(column, dtype).tobytes()


def _unpack(content: bytes, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
    column = np.frombuffer(content, dtype).astype(np.dtype(dtype).newbyteorder("="))
    if 0 in shape and -1 in shape:
        # Without rows, the width cannot be inferred.
        return column.reshape(*(0 if size in {0, -1} else size for size in shape))
    return column.reshape(shape)
