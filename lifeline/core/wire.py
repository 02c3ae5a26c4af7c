"""Mapping between the enums of the wire contract and those of `lifeline.core`, for server and client."""

from lifeline.core.actions import Kind
from lifeline.core.sequence import Column
from lifeline.v1 import sequence_pb2

WIRE_KINDS: dict[Kind, sequence_pb2.Kind.ValueType] = {
    Kind.EXPLICIT: sequence_pb2.KIND_EXPLICIT,
    Kind.IMPRESSION: sequence_pb2.KIND_IMPRESSION,
}
KINDS: dict[int, Kind] = {wire: kind for kind, wire in WIRE_KINDS.items()}

WIRE_COLUMNS: dict[Column, sequence_pb2.Column.ValueType] = {
    Column.TIMESTAMP_MS: sequence_pb2.COLUMN_TIMESTAMP_MS,
    Column.ITEM_ID: sequence_pb2.COLUMN_ITEM_ID,
    Column.ACTION_TYPE: sequence_pb2.COLUMN_ACTION_TYPE,
    Column.SURFACE: sequence_pb2.COLUMN_SURFACE,
    Column.EMBEDDING: sequence_pb2.COLUMN_EMBEDDING,
}
COLUMNS: dict[int, Column] = {wire: column for column, wire in WIRE_COLUMNS.items()}
