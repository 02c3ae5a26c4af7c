"""The contract of the kernels: every implementation does what PyTorch does."""

import os
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer import selection
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.cpu_backend import CpuEncoder, CpuHeads
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import History, RequestContext
from lifeline.scorer.int8 import calibrate, kernel_mix, quantize_model
from lifeline.scorer.kernels.instruction_set import InstructionSet, best, override
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection, select
from lifeline.scorer.variants import variant
from tests.support.sanitizers import Sanitised
from tests.support.scorer_factories import DAY, HEADS, SMALL, assert_same_selection, embeddings, encoding, history

INSTRUCTION_SETS = [
    pytest.param(
        instruction_set,
        marks=pytest.mark.skipif(instruction_set > best(), reason="not built, or the processor lacks it"),
        id=instruction_set.label,
    )
    for instruction_set in InstructionSet
    if instruction_set is not InstructionSet.NONE
]
every_instruction_set = pytest.mark.usefixtures("instruction_set")
PUBLISHED = ModelConfig(heads=HEADS)


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> Iterator[InstructionSet]:
    """Use one instruction set."""
    with override(request.param):
        yield request.param


def by_torch(made: History, candidates: NDArray[np.int8], config: ModelConfig) -> Selection:
    return select(made, candidates, config, instruction_set=InstructionSet.NONE)


@every_instruction_set
@pytest.mark.parametrize("explicit", [0, 1, 6, 40, 127, 129, 700, 2_500, 9_000])
@pytest.mark.parametrize("impressions", [0, 3, 128])
def test_histories_of_every_length(explicit: int, impressions: int) -> None:
    rng = np.random.default_rng([explicit, impressions])
    for config in (SMALL, PUBLISHED):
        made = history(rng, explicit, impressions, config)
        candidates = embeddings(rng, 13)
        candidates[4] = 0
        assert_same_selection(select(made, candidates, config), by_torch(made, candidates, config))


@every_instruction_set
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 2_048])
def test_any_number_of_candidates(count: int) -> None:
    rng = np.random.default_rng(count)
    made = history(rng, 300, 60, SMALL)
    candidates = embeddings(rng, count)
    assert_same_selection(select(made, candidates, SMALL), by_torch(made, candidates, SMALL))


@every_instruction_set
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 192])
def test_any_length(length: int) -> None:
    rng = np.random.default_rng(length)
    wanted = {"lifelong_selected": length, "recent_kept": 0, "real_time_selected": 0, "impressions_selected": 0}
    config = PUBLISHED.model_copy(update=wanted)
    made, candidates = history(rng, 4_000, 20, config), embeddings(rng, 5)
    assert_same_selection(select(made, candidates, config), by_torch(made, candidates, config))


@every_instruction_set
def test_equal_cosines_go_to_the_newer() -> None:
    rng = np.random.default_rng(3)
    for explicit in (200, 6_000):
        made = history(rng, explicit, 100, PUBLISHED)
        few = embeddings(rng, 5)
        made.explicit.embedding[:] = few[rng.integers(0, 5, explicit)]
        # One direction in two lengths: the cosines are equal or one rounding apart.
        made.explicit.embedding[::3] = few[0] // 2 * 2
        made.explicit.embedding[1::3] = few[0] // 2
        candidates = np.concatenate([few, few // 2, embeddings(rng, 3)])
        assert_same_selection(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


@every_instruction_set
def test_zero_vectors_are_never_near() -> None:
    rng = np.random.default_rng(4)
    made = history(rng, 5_000, 100, PUBLISHED)
    made.explicit.embedding[rng.random(5_000) < 0.995] = 0
    made.impressions.embedding[:] = 0
    candidates = embeddings(rng, 10)
    candidates[[2, 9]] = 0
    found = select(made, candidates, PUBLISHED)
    assert_same_selection(found, by_torch(made, candidates, PUBLISHED))
    near = np.isin(found.source, [selection.Source.LIFELONG, selection.Source.REAL_TIME])
    assert made.explicit.embedding[found.index[near]].any(axis=1).all()


@every_instruction_set
def test_the_ends_of_the_range_are_exact() -> None:
    rng = np.random.default_rng(5)
    made = history(rng, 3_000, 128, PUBLISHED)
    for rows in (made.explicit.embedding, made.impressions.embedding):
        rows[:] = rng.choice(np.array([-128, -127, 127], np.int8), rows.shape)
    candidates = rng.choice(np.array([-128, 127], np.int8), (9, 32))
    assert_same_selection(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


@every_instruction_set
@pytest.mark.parametrize("near", ["sampled", "not sampled", "in one place"])
def test_a_sample_that_misleads_changes_nothing(near: str) -> None:
    rng = np.random.default_rng(6)
    made = history(rng, 8_192 + PUBLISHED.real_time_length, 0, PUBLISHED)
    candidates = embeddings(rng, 8)
    close = np.clip(candidates[0] + rng.integers(-9, 10, (8_192, 32)), -127, 127).astype(np.int8)
    # Every eighth token is in the sample: it says that all are near, that none is, or nothing of the kind.
    place = np.arange(8_192)
    chosen = {"sampled": place % 8 == 0, "not sampled": place % 8 != 0, "in one place": place < 50}[near]
    made.explicit.embedding[:8_192][chosen] = close[chosen]
    assert_same_selection(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


@every_instruction_set
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    rng = np.random.default_rng(7)
    made, candidates = history(rng, 2_200, 90, PUBLISHED), embeddings(rng, 67)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_same_selection(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))
    finally:
        torch.set_num_threads(before)


@every_instruction_set
def test_addresses_may_be_odd() -> None:
    rng = np.random.default_rng(8)
    made, candidates = history(rng, 2_500, 77, PUBLISHED), embeddings(rng, 11)

    def moved(rows: NDArray[np.int8]) -> NDArray[np.int8]:
        room = np.empty(rows.size + 1, np.int8)
        room[1:] = rows.ravel()
        return room[1:].reshape(rows.shape)

    wanted = by_torch(made, candidates, PUBLISHED)
    for part in (made.explicit, made.impressions):
        object.__setattr__(part, "embedding", moved(part.embedding))
    assert_same_selection(select(made, moved(candidates), PUBLISHED), wanted)
    # Rows that do not stand side by side are put so first.
    assert_same_selection(select(made, np.repeat(candidates, 2, axis=0)[::2], PUBLISHED), wanted)


ENCODERS = [
    pytest.param(
        (instruction_set, precision),
        marks=pytest.mark.skipif(instruction_set > best(), reason="not built, or the processor lacks it"),
        id=f"{instruction_set.label}-{precision}",
    )
    for instruction_set, precision in (
        (InstructionSet.AVX2, Precision.FLOAT32),
        (InstructionSet.AVX512, Precision.FLOAT32),
        (InstructionSet.AVX512_BF16, Precision.FLOAT32),
        (InstructionSet.AVX512_BF16, Precision.BFLOAT16),
    )
]
Form = tuple[InstructionSet, Precision]
FLOAT32 = 1e-5
BFLOAT16 = 5e-2
"""What an output, of a length about 8, may be off by."""


def encoded(name: str, explicit: int, impressions: int, count: int, form: Form) -> tuple[list[Tensor], list[Tensor]]:
    """Return what PyTorch and what the kernels give the cross of a model with random weights."""
    made = encoding(SMALL if name == "small" else variant(name, HEADS), explicit, impressions, count)
    return made.by(made.model), made.parts(CpuEncoder.of(made.model, *form, 2))


def assert_close(form: Form, found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for part, expected in zip(found, wanted, strict=True):
        assert part.shape == expected.shape
        torch.testing.assert_close(part, expected, rtol=0, atol=BFLOAT16 if form[1] is Precision.BFLOAT16 else FLOAT32)


@pytest.mark.parametrize("form", ENCODERS)
@pytest.mark.parametrize("name", ["v1", "v1_matching", "v2", "best", "small"])
@pytest.mark.parametrize(
    ("explicit", "impressions"), [(0, 0), (1, 0), (5, 3), (17, 40), (65, 0), (150, 100), (900, 128)]
)
def test_the_encoder_gives_what_pytorch_gives(form: Form, name: str, explicit: int, impressions: int) -> None:
    wanted, found = encoded(name, explicit, impressions, 5, form)
    assert_close(form, found, wanted)


@pytest.mark.parametrize("form", ENCODERS)
def test_the_encoder_at_every_length(form: Form) -> None:
    config = variant("v1", HEADS)
    torch.manual_seed(1)
    model = TransAct(config).eval()
    native = CpuEncoder.of(model, *form, 2)
    for explicit in [*range(1, 34), *range(34, 200, 5)]:
        made = encoding(config, explicit, 0, 2, model=model, seed=1)
        assert_close(form, made.parts(native), made.by(model))


@pytest.mark.parametrize("form", ENCODERS)
@pytest.mark.parametrize("count", [1, 2, 37, 300])
def test_the_encoder_with_any_number_of_candidates(form: Form, count: int) -> None:
    wanted, found = encoded("small", 30, 10, count, form)
    assert_close(form, found, wanted)


@pytest.mark.parametrize("form", ENCODERS)
def test_a_sharp_attention_neither_overflows_nor_loses_its_place(form: Form) -> None:
    torch.manual_seed(0)
    config = variant("v2", HEADS)
    model = TransAct(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("query.weight", "key.weight")):
                parameter.mul_(12)
    rng = np.random.default_rng(0)
    made, candidates = history(rng, 400, 100, config), embeddings(rng, 6)
    request, found = FeatureSnapshot.of(
        made, np.arange(6, dtype=np.uint64), candidates, RequestContext(1_001 * DAY), config
    )
    own = request.selection(found.similarity)
    inputs = request.inputs(own)
    native = CpuEncoder.of(model, *form)
    assert native is not None
    with torch.inference_mode():
        (wanted,) = model.sequence(inputs, model.encode(inputs))
        (given,) = native.parts(request.tokens, own, candidates, 1_001 * DAY)
    assert given.isfinite().all()
    # Where two keys vie, a rounding decides; the logits here are of the order of 100.
    off = (given - wanted).abs()
    assert off.mean() < (0.2 if form[1] is Precision.BFLOAT16 else 1e-3)


@pytest.mark.skipif(best() < InstructionSet.AVX512_BF16, reason="not built, or the processor lacks it")
@pytest.mark.parametrize("name", ["v1", "v2", "best", "small"])
@pytest.mark.parametrize(("explicit", "impressions"), [(0, 0), (1, 0), (5, 3), (65, 0), (150, 100), (900, 128)])
def test_int8_is_as_far_off_as_its_rounding_makes_it(name: str, explicit: int, impressions: int) -> None:
    made = encoding(SMALL if name == "small" else variant(name, HEADS), explicit, impressions, 7)
    calibration = calibrate(made.model, [made.inputs])
    exact, wanted = made.by(made.model), made.by(quantize_model(made.model, kernel_mix(made.model), calibration))
    given = made.parts(CpuEncoder.of(made.model, best(), Precision.INT8, 2, calibration))
    for actual, other, whole in zip(given, wanted, exact, strict=True):
        assert actual.isfinite().all()
        loss = (other - whole).abs().mean()
        assert (actual - whole).abs().mean() < 1.5 * loss + 1e-3
        assert (actual - other).abs().max() < 0.3


@every_instruction_set
@pytest.mark.parametrize("name", ["v2", "best", "v1", "none"])
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 255, 2_048])
def test_cross_and_heads_give_what_pytorch_gives(instruction_set: InstructionSet, name: str, count: int) -> None:
    torch.manual_seed(0)
    model = TransAct(variant(name, HEADS)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    with torch.inference_mode():
        for threads in (1, 2, 3):
            native = CpuHeads.of(model, instruction_set, threads)
            joined = torch.randn(count, native.kernel.width)
            wanted = model.heads(joined)
            torch.testing.assert_close(native.logits(joined), wanted, rtol=1e-5, atol=1e-5)


@every_instruction_set
@pytest.mark.parametrize(("cross", "mlp"), [(0, (64,)), (3, ()), (1, (1, 200, 17))])
def test_heads_of_any_shape(instruction_set: InstructionSet, cross: int, mlp: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = TransAct(PUBLISHED.model_copy(update={"cross_layers": cross, "mlp": mlp})).eval()
    native = CpuHeads.of(model, instruction_set)
    joined = torch.randn(9, native.kernel.width)
    with torch.inference_mode():
        torch.testing.assert_close(native.logits(joined), model.heads(joined), rtol=1e-5, atol=1e-5)


def test_other_models_are_left_to_pytorch() -> None:
    for config in (
        variant("none", HEADS),
        variant("bst", HEADS),
        variant("v2", HEADS).model_copy(update={"read_out": 65}),
    ):
        assert CpuEncoder.of(TransAct(config), InstructionSet.AVX2, Precision.FLOAT32) is None


_CROWDED = """
import resource
import numpy as np
from lifeline.scorer.kernels import instruction_set, selection
rng = np.random.default_rng(0)
rows = [rng.integers(-127, 128, (n, 32)).astype(np.int8) for n in (500, 20, 40)]
def call(threads):
    return selection.select(*rows, 372, (64, 64, 32, 32), instruction_set=instruction_set.best(), threads=threads)
alone = call(1)
pages = int(open("/proc/self/statm").read().split()[0])
# Less than the stack of one thread.
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20), resource.RLIM_INFINITY))
crowded = call(4)
for name in ("index", "similarity", "source", "valid"):
    assert (getattr(alone, name) == getattr(crowded, name)).all()
print("same")
"""


@pytest.mark.skipif(best() is InstructionSet.NONE, reason="not built")
def test_where_the_system_gives_no_thread_the_others_do_its_work() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("LIFELINE_")}
    done = subprocess.run(
        [sys.executable, "-c", _CROWDED], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert done.stdout.strip() == "same"


_SANITISED = """
import sys
from pathlib import Path
import numpy as np
from lifeline.scorer.kernels import encoder, heads, library, selection, tokens
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.precision import Precision
library.PATH = Path(sys.argv[1])
rng = np.random.default_rng(0)
shapes = {
    "action": (64, 64), "surface": (256, 64), "position": (200, 64), "similarity": (3, 64), "age": (2, 64),
    "match": (2, 64, 64), "value": (2, 64, 64), "widen": (2, 64, 32), "narrow": (2, 32, 64),
    "read_out": (64, 64), "read_out_bias": (64,),
}
scales = {"inputs": (2,), "middles": (2,), "values": (2, 64), "wides": (2, 32)}
calibration = {name: np.ones(shape, np.float32) for name, shape in scales.items()}
weights = {name: rng.normal(size=shape).astype(np.float32) / 8 for name, shape in shapes.items()}
for explicit, candidates, counts in (
    (0, 1, (64, 64, 32, 32)), (1, 1, (64, 64, 32, 32)), (130, 9, (64, 64, 32, 32)), (200, 8, (1, 0, 0, 0)),
    (5000, 19, (64, 64, 32, 32)), (50, 3, (0, 13, 4, 0)),
):
    rows = [rng.integers(-127, 128, (n, 32)).astype(np.int8) for n in (explicit, 0, candidates)]
    columns = encoder.TokenColumns(
        rows[0], rng.integers(0, 32, explicit).astype(np.uint64), rng.integers(0, 256, explicit).astype(np.uint8),
        np.sort(rng.integers(0, 10**12, explicit)),
    )
    forms = [(InstructionSet(number), Precision.FLOAT32) for number in range(1, best() + 1)]
    if best() is InstructionSet.AVX512_BF16:
        forms += [(best(), Precision.BFLOAT16), (best(), Precision.INT8)]
    for instruction_set, precision in forms:
        found = selection.select(
            *rows, max(0, explicit - 128), counts, instruction_set=instruction_set, threads=2
        )
        assert found.valid[:, 0].all()
        made = encoder.Encoder(
            weights | calibration,
            input_scale=5.0, age_span=21.0, instruction_set=instruction_set, precision=precision,
        )
        read_out, outputs = made.encode(columns, 10**12, rows[2], found, outputs=True, threads=2)
        assert np.isfinite(read_out).all() and np.isfinite(outputs).all()
        # No number at all between two knots is between two knots as well.
        found.similarity[:] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), found.similarity.shape)
        made.encode(columns, 10**12, rows[2], found, outputs=True, threads=2)
        del made
for instruction_set in (InstructionSet.AVX2, InstructionSet.AVX512):
    if instruction_set > best():
        continue
    for width, sizes, count in ((1, (1,), 1), (111, (128, 64, 4), 19), (17, (33, 5), 6), (16, (16,), 0)):
        shapes = [(width, width)] * 2 + list(zip((width, *sizes), sizes))
        layers = [heads.Linear(np.ones(shape, np.float32), np.ones(shape[1], np.float32)) for shape in shapes]
        made = heads.Heads(layers[:2], layers[2:], instruction_set)
        assert made.logits(np.zeros((count, width), np.float32), threads=2).shape == (count, sizes[-1])
        del made
for acted, shown in ((0, 0), (1, 0), (0, 1), (3000, 500), (10, 4000)):
    sides = [
        tokens.EventColumns(
            np.sort(rng.integers(0, 10**6, count)), rng.integers(0, 50, count).astype(np.uint64),
            rng.integers(1, 65, count).astype(np.uint8),
        )
        for count in (acted, shown)
    ]
    assert len(tokens.merge(sides[0], 1000)[0]) <= acted
    assert tokens.engaged(*sides, 1000).shape == (acted,)
    assert tokens.last_touch(sides[0].item_id, sides[1].item_id).shape == (shown,)
print("clean")
"""


@pytest.mark.skipif(best() is InstructionSet.NONE, reason="not built")
def test_no_byte_out_of_bounds_is_touched(sanitised: Sanitised) -> None:
    assert sanitised.run(_SANITISED) == "clean"
