"""The GPU's kernels give the numbers of everywhere else: in Triton's interpreter where there is no GPU."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import KernelsError
from lifeline.scorer.features import History
from lifeline.scorer.gpu.backend import GpuBackend, gpu_backend
from lifeline.scorer.gpu.encoder import GpuEncoder
from lifeline.scorer.gpu.graphs import capacity
from lifeline.scorer.gpu.selection import GpuSelector
from lifeline.scorer.kernels.instruction_set import InstructionSet
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection, select
from lifeline.scorer.variants import variant
from tests.support.scorer_factories import HEADS, SMALL, assert_same_selection, embeddings, encoding, history

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
PUBLISHED = ModelConfig(heads=HEADS)


@pytest.fixture(autouse=True)
def _few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make no room for candidates that are not there: the interpreter is slow."""
    monkeypatch.setattr("lifeline.scorer.gpu.graphs._MIN_CANDIDATES", 1)
    monkeypatch.setattr("lifeline.scorer.gpu.graphs._MIN_TOKENS", 16)


def by_torch(made: History, candidates: NDArray[np.int8], config: ModelConfig) -> Selection:
    return select(made, candidates, config, instruction_set=InstructionSet.NONE)


def selected(made: History, candidates: NDArray[np.int8], config: ModelConfig) -> Selection:
    return GpuSelector(config, DEVICE).select(made, candidates)


@pytest.mark.parametrize(("explicit", "impressions"), [(0, 0), (1, 0), (6, 3), (40, 128), (129, 0), (700, 5)])
@pytest.mark.parametrize("config", [SMALL, PUBLISHED], ids=["small", "published"])
def test_selection_is_exact(explicit: int, impressions: int, config: ModelConfig) -> None:
    rng = np.random.default_rng([explicit, impressions])
    made, candidates = history(rng, explicit, impressions, config), embeddings(rng, 3)
    candidates[1] = 0
    assert_same_selection(selected(made, candidates, config), by_torch(made, candidates, config))


def test_of_equal_cosines_the_newer_are_selected() -> None:
    rng = np.random.default_rng(0)
    made = history(rng, 300, 60, PUBLISHED)
    few = embeddings(rng, 5)
    for side in (made.explicit, made.impressions):
        side.embedding[:] = few[rng.integers(0, 5, len(side))]
    candidates = np.concatenate([few[:2], embeddings(rng, 1)])
    assert_same_selection(selected(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


def test_one_selector_serves_requests_of_any_size() -> None:
    rng = np.random.default_rng(1)
    selector = GpuSelector(SMALL, DEVICE)
    for explicit, count in ((40, 3), (3, 1), (40, 2), (0, 3)):
        made, candidates = history(rng, explicit, 5), embeddings(rng, count)
        assert_same_selection(selector.select(made, candidates), by_torch(made, candidates, SMALL))


def sequences(
    config: ModelConfig, explicit: int, impressions: int, precision: Precision = Precision.FLOAT32
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what PyTorch and what the device gives the cross."""
    made = encoding(config, explicit, impressions, 2)
    return made.by(made.model), made.parts(GpuEncoder.of(made.model, DEVICE, precision))


@pytest.mark.parametrize("name", ["v1", "v2", "best", "small"])
@pytest.mark.parametrize(("explicit", "impressions"), [(0, 0), (1, 0), (5, 3), (65, 0), (150, 100)])
def test_the_encoder_gives_what_pytorch_gives(name: str, explicit: int, impressions: int) -> None:
    config = SMALL if name == "small" else variant(name, HEADS)
    wanted, found = sequences(config, explicit, impressions)
    assert len(found) == len(wanted)
    for actual, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, other, rtol=0, atol=1e-5)


def test_a_wide_layer_of_any_size_is_padded() -> None:
    wanted, found = sequences(SMALL.model_copy(update={"ffn": 40}), 30, 5)
    torch.testing.assert_close(found[0], wanted[0], rtol=0, atol=1e-5)


@pytest.mark.skipif(DEVICE.type == "cpu", reason="the interpreter has no products of bfloat16")
def test_products_of_bfloat16_come_close() -> None:
    wanted, found = sequences(PUBLISHED, 150, 100, Precision.BFLOAT16)
    off = (found[0] - wanted[0]).abs()
    assert 0 < off.max() < 0.05


def test_one_sequence_module_serves_requests_of_any_size() -> None:
    torch.manual_seed(0)
    model = TransAct(SMALL).eval()
    device = GpuEncoder.of(model, DEVICE, Precision.FLOAT32)
    assert device is not None
    for explicit, count in ((40, 3), (2, 1), (40, 2), (0, 3)):
        made = encoding(SMALL, explicit, 5, count, model=model)
        (wanted,), (found,) = made.by(model), made.parts(device)
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


def test_other_models_are_left_to_pytorch() -> None:
    for config in (variant("none", HEADS), variant("bst", HEADS), PUBLISHED.model_copy(update={"read_out": 65})):
        assert GpuEncoder.of(TransAct(config), DEVICE, Precision.FLOAT32) is None


def test_a_gpu_is_taken_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TransAct(SMALL).eval()
    assert (gpu_backend(model, "auto", Precision.FLOAT32) is None) == (DEVICE.type == "cpu")
    assert gpu_backend(model, "cpu", Precision.FLOAT32) is None
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_backend(model, "auto", Precision.FLOAT32) is None
    with pytest.raises(KernelsError, match=r"set it to auto, or install .*'lifeline-store\[gpu\]'"):
        gpu_backend(model, "cuda", Precision.FLOAT32)


def test_there_is_room_for_a_power_of_two() -> None:
    assert [capacity(count, 4) for count in (0, 1, 4, 5, 8, 9, 16_384, 16_385)] == [4, 4, 4, 8, 8, 16, 16_384, 32_768]


def test_triton_keeps_its_kernels_in_the_users_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    for name in ("TRITON_HOME", "TRITON_CACHE_DIR"):
        # What is set here is what the test's end restores.
        monkeypatch.setenv(name, "before")
        monkeypatch.delenv(name)
    model = TransAct(SMALL)
    GpuBackend(model, torch.device("cpu"))
    assert os.environ["TRITON_HOME"] == str(tmp_path / "lifeline")
    monkeypatch.setenv("TRITON_HOME", "/of/the/operator")
    GpuBackend(model, torch.device("cpu"))
    assert os.environ["TRITON_HOME"] == "/of/the/operator"
