"""The contract of the backends: the same inputs give the same answers, and the same errors, whatever computes them."""

from collections.abc import Callable
from dataclasses import replace
from typing import NamedTuple

import numpy as np
import pytest
import torch

from lifeline.scorer.backend import Backend, backend_of
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.cpu_backend import CpuBackend
from lifeline.scorer.errors import KernelInputError, KernelsError, PrecisionError
from lifeline.scorer.gpu.backend import GpuBackend
from lifeline.scorer.int8 import calibrate
from lifeline.scorer.kernels.instruction_set import InstructionSet, best, override
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.torch_backend import TorchBackend
from lifeline.scorer.variants import variant
from tests.support.scorer_factories import (
    HEADS,
    SMALL,
    Encoding,
    assert_same_selection,
    embeddings,
    encoding,
    history,
    loaded,
)

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
CONFIGS = {
    "small": SMALL,
    "best": variant("best", HEADS).model_copy(update={"selection_statistics": "all"}),
    "wide read-out": SMALL.model_copy(update={"read_out": 65}),
    "bst": variant("bst", HEADS),
    "none": variant("none", HEADS),
}


class Form(NamedTuple):
    """A backend to test."""

    build: Callable[[TransAct], Backend]
    tolerance: float
    """Of a logit."""


def cpu(instruction_set: InstructionSet, precision: Precision) -> Callable[[TransAct], Backend]:
    def build(model: TransAct) -> Backend:
        calibration = None
        if precision is Precision.INT8 and model.config.encoder == "transact":
            calibration = calibrate(model, [encoding(model.config, 40, 5, 8, model=model).inputs])
        return CpuBackend(model, instruction_set, precision, 2, calibration)

    return build


def form_of_cpu(instruction_set: InstructionSet, precision: Precision, tolerance: float) -> object:
    return pytest.param(
        Form(cpu(instruction_set, precision), tolerance),
        marks=pytest.mark.skipif(instruction_set > best(), reason="not built, or the processor lacks it"),
        id=f"cpu-{instruction_set.label}-{precision}",
    )


FORMS = [
    pytest.param(Form(TorchBackend, 0.0), id="torch"),
    form_of_cpu(InstructionSet.AVX2, Precision.FLOAT32, 1e-4),
    form_of_cpu(InstructionSet.AVX512, Precision.FLOAT32, 1e-4),
    form_of_cpu(InstructionSet.AVX512_BF16, Precision.FLOAT32, 1e-4),
    form_of_cpu(InstructionSet.AVX512_BF16, Precision.BFLOAT16, 0.3),
    form_of_cpu(InstructionSet.AVX512_BF16, Precision.INT8, 0.6),
    # In Triton's interpreter where there is no GPU.
    pytest.param(Form(lambda model: GpuBackend(model, DEVICE), 1e-4), id="gpu"),
]


@pytest.fixture(autouse=True)
def _small_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the graphs no spare capacity: the interpreter is slow."""
    monkeypatch.setattr("lifeline.scorer.gpu.graphs._MIN_CANDIDATES", 1)
    monkeypatch.setattr("lifeline.scorer.gpu.graphs._MIN_TOKENS", 16)


@pytest.mark.parametrize("form", FORMS)
class TestBackend:
    """Every backend against the formula in PyTorch."""

    @pytest.mark.parametrize(("explicit", "impressions"), [(0, 0), (1, 0), (6, 3), (60, 12)])
    def test_selections_are_equal_to_the_bit(self, form: Form, explicit: int, impressions: int) -> None:
        rng = np.random.default_rng([explicit, impressions])
        model = model_of(SMALL)
        user, candidates = history(rng, explicit, impressions, SMALL), embeddings(rng, 3)
        candidates[1] = 0
        found = form.build(model).select(user, candidates)
        assert_same_selection(found, TorchBackend(model).select(user, candidates))

    @pytest.mark.parametrize("name", CONFIGS)
    @pytest.mark.parametrize(("explicit", "impressions"), [(0, 0), (40, 5)])
    def test_logits_agree(self, form: Form, name: str, explicit: int, impressions: int) -> None:
        model = model_of(CONFIGS[name])
        request = encoding(CONFIGS[name], explicit, impressions, 3, model=model)
        with torch.inference_mode():
            expected = model(request.inputs)
            found = logits(form.build(model), request)
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected, rtol=0, atol=form.tolerance)

    def test_one_backend_answers_requests_of_any_size(self, form: Form) -> None:
        model = model_of(SMALL)
        backend = form.build(model)
        for explicit, count in ((40, 3), (2, 1), (40, 2), (0, 3)):
            request = encoding(SMALL, explicit, 5, count, model=model)
            with torch.inference_mode():
                torch.testing.assert_close(logits(backend, request), model(request.inputs), rtol=0, atol=form.tolerance)

    def test_candidates_of_another_form_are_refused(self, form: Form) -> None:
        backend, rng = form.build(model_of(SMALL)), np.random.default_rng(0)
        user, candidates = history(rng, 9, 2, SMALL), embeddings(rng, 2)
        for wrong in (candidates.astype(np.int16), candidates[:, :31], candidates[0]):
            with pytest.raises(KernelInputError, match="candidates"):
                backend.select(user, wrong)  # type: ignore[arg-type]

    @pytest.mark.parametrize("name", ["small", "bst"])
    def test_selections_of_other_tokens_are_refused(self, form: Form, name: str) -> None:
        model = model_of(CONFIGS[name])
        backend, request = form.build(model), encoding(CONFIGS[name], 9, 2, 2, model=model)
        beyond, nowhere = request.selection.index.copy(), request.selection.valid.copy()
        beyond[1, 0], nowhere[1, 0] = len(request.request.tokens), False
        with torch.inference_mode():
            for wrong in (replace(request.selection, index=beyond), replace(request.selection, valid=nowhere)):
                with pytest.raises(KernelInputError, match="or no valid place"):
                    logits(backend, replace(request, selection=wrong))


def model_of(config: ModelConfig) -> TransAct:
    torch.manual_seed(0)
    return TransAct(config).eval().requires_grad_(requires_grad=False)


def logits(backend: Backend, request: Encoding) -> torch.Tensor:
    return backend.logits(request.request.tokens, request.selection, request.request.pairs)


def test_the_fastest_backend_is_chosen() -> None:
    model = loaded(model_of(SMALL))
    assert isinstance(backend_of(model), TorchBackend if best() is InstructionSet.NONE else CpuBackend)
    with override(InstructionSet.NONE):
        assert isinstance(backend_of(model), TorchBackend)


@pytest.mark.skipif(best() < InstructionSet.AVX512_BF16, reason="not built, or the processor lacks it")
def test_a_backend_is_named_by_its_products() -> None:
    model = loaded(model_of(SMALL))
    calibration = calibrate(model.model, [encoding(SMALL, 9, 2, 2, model=model.model).inputs])
    names = {precision: backend_of(model._replace(calibration=calibration), precision).name for precision in Precision}
    assert names == {Precision.FLOAT32: "avx512", Precision.BFLOAT16: "bf16", Precision.INT8: "int8"}
    # Without such products they are float32.
    with override(InstructionSet.AVX2):
        assert backend_of(model, Precision.BFLOAT16).name == "avx2"
    assert backend_of(loaded(model_of(CONFIGS["bst"]))).name == "torch"


def test_what_is_not_available_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    model = loaded(model_of(SMALL))
    with pytest.raises(PrecisionError, match="is not accepted in int8: run lifeline quantize"):
        backend_of(model, Precision.INT8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(KernelsError, match=r"set it to auto, or install .*'lifeline-store\[gpu\]'"):
        backend_of(model, device="cuda")
    assert backend_of(model, device="auto").name != "cuda"
