"""Safetensors files, checked against the expected shapes before tensors are created.

Layout: the size of the header (uint64, little-endian), the header (JSON: name to dtype, shape and offsets), the data.
"""

from collections.abc import Mapping
from typing import Annotated

import torch
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from lifeline.scorer.shapes import Shapes, element_count

_SIZE_BYTES = 8
_MAX_HEADER_BYTES = 1 << 18
_ITEM_BYTES = 4


class _Entry(BaseModel):
    model_config = ConfigDict(extra="forbid")

    dtype: str
    shape: tuple[Annotated[int, Field(ge=0, lt=1 << 32)], ...]
    data_offsets: tuple[int, int]


_HEADER = TypeAdapter(dict[str, _Entry])


def max_bytes(shapes: Shapes) -> int:
    """Return the greatest size of a file of tensors with these shapes."""
    return _SIZE_BYTES + _MAX_HEADER_BYTES + _ITEM_BYTES * element_count(shapes)


def read_tensors(content: bytes, shapes: Shapes) -> dict[str, Tensor]:
    """Return finite float32 tensors of exactly these names and shapes; raises ValueError otherwise."""
    header_bytes = int.from_bytes(content[:_SIZE_BYTES], "little")
    if len(content) < _SIZE_BYTES or header_bytes > min(_MAX_HEADER_BYTES, len(content) - _SIZE_BYTES):
        raise ValueError("it is not a safetensors file")
    start = _SIZE_BYTES + header_bytes
    try:
        header = _HEADER.validate_json(content[_SIZE_BYTES:start])
    except ValidationError as error:
        raise ValueError("it is not a safetensors file: its header is damaged") from error
    _compare({name: (entry.dtype, entry.shape) for name, entry in header.items()}, shapes, "F32")
    if len(content) != start + _ITEM_BYTES * element_count(shapes):
        raise ValueError("it is cut short, or too long")
    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError("it is not a safetensors file: its offsets are damaged") from error
    # Again, because a header may contain a name twice.
    _compare({name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}, shapes, torch.float32)
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"{name} holds numbers that are not finite")
    return tensors


def _compare(found: Mapping[str, tuple[object, tuple[int, ...]]], shapes: Shapes, dtype: object) -> None:
    for name in sorted(found.keys() | shapes.keys()):
        if name not in shapes:
            raise ValueError("it does not fit its manifest's config: it holds a tensor that the model does not have")
        if found.get(name) != (dtype, shapes[name]):
            raise ValueError(f"it does not fit its manifest's config: {name} should be float32{list(shapes[name])}")
