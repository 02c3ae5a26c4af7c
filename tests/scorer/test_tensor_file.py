import json
import struct

import pytest
import torch
from safetensors.torch import save

from lifeline.scorer.tensor_file import max_bytes, read_tensors

SHAPES = {"a": (2, 3), "b": (4,)}


def made(**tensors: torch.Tensor) -> bytes:
    return save({"a": torch.ones(2, 3), "b": torch.arange(4.0)} | tensors)


def with_header(header: object, data: bytes = bytes(40)) -> bytes:
    content = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(content)) + content + data


def entry(shape: list[int], first: int, end: int, dtype: str = "F32") -> dict[str, object]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, end]}


GOOD = {"a": entry([2, 3], 0, 24), "b": entry([4], 24, 40)}


def test_what_is_saved_is_read() -> None:
    found = read_tensors(made(), SHAPES)
    assert found.keys() == SHAPES.keys()
    assert torch.equal(found["b"], torch.arange(4.0))
    assert len(made()) <= max_bytes(SHAPES)
    assert read_tensors(with_header(GOOD), SHAPES).keys() == SHAPES.keys()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file"),
        (bytes(7), "not a safetensors file"),
        (struct.pack("<Q", 1 << 63) + bytes(100), "not a safetensors file"),
        (with_header(b"[" * 100_000), "header is damaged"),
        (with_header(b'{"a":' * 10_000), "header is damaged"),
        (with_header(b"\xff\xfe"), "header is damaged"),
        (with_header([]), "header is damaged"),
        (with_header({"a": {}}), "header is damaged"),
        (with_header({"a": entry([-2, 3], 0, 24)}), "header is damaged"),
        (with_header({"a": entry([1 << 62], 0, 24)}), "header is damaged"),
        (with_header({"a": GOOD["a"]}), "does not fit its manifest's config: b should be"),
        (with_header(GOOD | {"c": entry([0], 40, 40)}), "holds a tensor that the model does not have"),
        (with_header(GOOD | {"a": entry([3, 2], 0, 24)}), r"config: a should be float32\[2, 3\]"),
        (with_header(GOOD | {"a": entry([2, 3], 0, 24, "I32")}), r"config: a should be float32\[2, 3\]"),
        (with_header(GOOD, bytes(39)), "cut short"),
        (with_header(GOOD, bytes(44)), "too long"),
        (with_header(GOOD | {"b": entry([4], 20, 36)}), "offsets are damaged"),
        (with_header(GOOD | {"b": entry([4], 1 << 60, (1 << 60) + 16)}), "offsets are damaged"),
        (made(a=torch.ones(2, 3, dtype=torch.float64)), "config: a should be"),
        (made(b=torch.tensor([0, torch.inf, 0, 0])), "b holds numbers that are not finite"),
        (made(b=torch.tensor([0, torch.nan, 0, 0])), "b holds numbers that are not finite"),
    ],
)
def test_anything_else_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        read_tensors(content, SHAPES)


def test_a_header_is_bounded() -> None:
    with pytest.raises(ValueError, match="not a safetensors file"):
        read_tensors(with_header(json.dumps(GOOD).encode() + b" " * (1 << 18)), SHAPES)
