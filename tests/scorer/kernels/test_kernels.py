"""The contract of the kernels: every implementation does what PyTorch does."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer import selection
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import KernelsError
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.features import History, RequestContext
from lifeline.scorer.int8 import calibrate, of_kernels, quantized
from lifeline.scorer.kernels import library
from lifeline.scorer.kernels.build import SOURCES, build
from lifeline.scorer.kernels.library import Level, best_level, chosen_level
from lifeline.scorer.model import TransAct
from lifeline.scorer.native import NativeHeads, NativeSequence
from lifeline.scorer.selection import Selection, select
from lifeline.scorer.variants import variant
from tests.support.sanitizers import Sanitised
from tests.support.scorer_factories import DAY, HEADS, SMALL, embeddings, encoding, history

LEVELS = [
    pytest.param(
        level,
        marks=pytest.mark.skipif(level > best_level(), reason="not built, or the processor lacks it"),
        id=level.name.lower(),
    )
    for level in Level
    if level not in (Level.TORCH, Level.INT8)
]
every_level = pytest.mark.usefixtures("level")
PUBLISHED = ModelConfig(heads=HEADS)


@pytest.fixture(params=LEVELS)
def level(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Level:
    """Force one implementation."""
    found: Level = request.param
    monkeypatch.setenv(library.VARIABLE, found.name.lower())
    return found


def by_torch(made: History, candidates: NDArray[np.int8], config: ModelConfig) -> Selection:
    return selection._select_by_torch(made, candidates, config)


def assert_equal(found: Selection, wanted: Selection) -> None:
    np.testing.assert_array_equal(found.index, wanted.index)
    np.testing.assert_array_equal(found.valid, wanted.valid)
    np.testing.assert_array_equal(found.source, wanted.source)
    # To the bit: minus zero is no zero.
    np.testing.assert_array_equal(found.similarity.view(np.uint32), wanted.similarity.view(np.uint32))
    for name in ("index", "valid", "source", "similarity"):
        assert getattr(found, name).dtype == getattr(wanted, name).dtype


@every_level
@pytest.mark.parametrize("explicit", [0, 1, 6, 40, 127, 129, 700, 2_500, 9_000])
@pytest.mark.parametrize("impressions", [0, 3, 128])
def test_histories_of_every_length(explicit: int, impressions: int) -> None:
    rng = np.random.default_rng([explicit, impressions])
    for config in (SMALL, PUBLISHED):
        made = history(rng, explicit, impressions, config)
        candidates = embeddings(rng, 13)
        candidates[4] = 0
        assert_equal(select(made, candidates, config), by_torch(made, candidates, config))


@every_level
@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 255, 2_048])
def test_any_number_of_candidates(count: int) -> None:
    rng = np.random.default_rng(count)
    made = history(rng, 300, 60, SMALL)
    candidates = embeddings(rng, count)
    assert_equal(select(made, candidates, SMALL), by_torch(made, candidates, SMALL))


@every_level
@pytest.mark.parametrize("length", [1, 2, 15, 16, 17, 100, 192])
def test_any_length(length: int) -> None:
    rng = np.random.default_rng(length)
    wanted = {"lifelong_selected": length, "recent_kept": 0, "real_time_selected": 0, "impressions_selected": 0}
    config = PUBLISHED.model_copy(update=wanted)
    made, candidates = history(rng, 4_000, 20, config), embeddings(rng, 5)
    assert_equal(select(made, candidates, config), by_torch(made, candidates, config))


@every_level
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
        assert_equal(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


@every_level
def test_zero_vectors_are_never_near() -> None:
    rng = np.random.default_rng(4)
    made = history(rng, 5_000, 100, PUBLISHED)
    made.explicit.embedding[rng.random(5_000) < 0.995] = 0
    made.impressions.embedding[:] = 0
    candidates = embeddings(rng, 10)
    candidates[[2, 9]] = 0
    found = select(made, candidates, PUBLISHED)
    assert_equal(found, by_torch(made, candidates, PUBLISHED))
    near = np.isin(found.source, [selection.Source.LIFELONG, selection.Source.REAL_TIME])
    assert made.explicit.embedding[found.index[near]].any(axis=1).all()


@every_level
def test_the_ends_of_the_range_are_exact() -> None:
    rng = np.random.default_rng(5)
    made = history(rng, 3_000, 128, PUBLISHED)
    for rows in (made.explicit.embedding, made.impressions.embedding):
        rows[:] = rng.choice(np.array([-128, -127, 127], np.int8), rows.shape)
    candidates = rng.choice(np.array([-128, 127], np.int8), (9, 32))
    assert_equal(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


@every_level
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
    assert_equal(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))


@every_level
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_any_number_of_threads(threads: int) -> None:
    rng = np.random.default_rng(7)
    made, candidates = history(rng, 2_200, 90, PUBLISHED), embeddings(rng, 67)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        assert_equal(select(made, candidates, PUBLISHED), by_torch(made, candidates, PUBLISHED))
    finally:
        torch.set_num_threads(before)


@every_level
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
    assert_equal(select(made, moved(candidates), PUBLISHED), wanted)
    # Rows that do not stand side by side are put so first.
    assert_equal(select(made, np.repeat(candidates, 2, axis=0)[::2], PUBLISHED), wanted)


ENCODERS = [param for param in LEVELS if param.values[0] is not Level.TORCH]
FLOAT32 = 1e-5
BFLOAT16 = 5e-2
"""What an output, of a length about 8, may be off by."""


def encoded(
    name: str, explicit: int, impressions: int, count: int, level: Level, *, seed: int = 0
) -> tuple[list[Tensor], list[Tensor]]:
    """Return what PyTorch and what a level gives the cross of a model with random weights."""
    made = encoding(SMALL if name == "small" else variant(name, HEADS), explicit, impressions, count, seed=seed)
    return made.by(made.model), made.parts(NativeSequence.of(made.model, level))


def assert_close(level: Level, found: list[Tensor], wanted: list[Tensor]) -> None:
    assert len(found) == len(wanted)
    for one, other in zip(found, wanted, strict=True):
        assert one.shape == other.shape
        torch.testing.assert_close(one, other, rtol=0, atol=BFLOAT16 if level is Level.BF16 else FLOAT32)


@pytest.mark.parametrize("implementation", ENCODERS)
@pytest.mark.parametrize("name", ["v1", "v1_matching", "v2", "best", "small"])
@pytest.mark.parametrize(
    ("explicit", "impressions"), [(0, 0), (1, 0), (5, 3), (17, 40), (65, 0), (150, 100), (900, 128)]
)
def test_the_encoder_gives_what_pytorch_gives(
    implementation: Level, name: str, explicit: int, impressions: int
) -> None:
    wanted, found = encoded(name, explicit, impressions, 5, implementation)
    assert_close(implementation, found, wanted)


@pytest.mark.parametrize("implementation", ENCODERS)
def test_the_encoder_at_every_length(implementation: Level) -> None:
    for explicit in [*range(1, 34), *range(34, 200, 5)]:
        wanted, found = encoded("v1", explicit, 0, 2, implementation, seed=1)
        assert_close(implementation, found, wanted)


@pytest.mark.parametrize("implementation", ENCODERS)
@pytest.mark.parametrize("count", [1, 2, 37, 300])
def test_the_encoder_with_any_number_of_candidates(implementation: Level, count: int) -> None:
    wanted, found = encoded("small", 30, 10, count, implementation)
    assert_close(implementation, found, wanted)


@pytest.mark.parametrize("implementation", ENCODERS)
def test_a_sharp_attention_neither_overflows_nor_loses_its_place(implementation: Level) -> None:
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
    native = NativeSequence.of(model, implementation)
    assert native is not None
    with torch.inference_mode():
        (wanted,) = model.sequence(inputs, model.encode(inputs))
        (given,) = native.parts(request.tokens, own, candidates, 1_001 * DAY)
    assert given.isfinite().all()
    # Where two keys vie, a rounding decides; the logits here are of the order of 100.
    off = (given - wanted).abs()
    assert off.mean() < (0.2 if implementation is Level.BF16 else 1e-3)


@pytest.mark.skipif(best_level() < Level.BF16, reason="not built, or the processor lacks it")
@pytest.mark.parametrize("name", ["v1", "v2", "best", "small"])
@pytest.mark.parametrize(("explicit", "impressions"), [(0, 0), (1, 0), (5, 3), (65, 0), (150, 100), (900, 128)])
def test_int8_is_as_far_off_as_its_rounding_makes_it(name: str, explicit: int, impressions: int) -> None:
    made = encoding(SMALL if name == "small" else variant(name, HEADS), explicit, impressions, 7)
    calibration = calibrate(made.model, [made.inputs])
    exact, wanted = made.by(made.model), made.by(quantized(made.model, of_kernels(made.model), calibration))
    given = made.parts(NativeSequence.of(made.model, Level.INT8, 2, calibration))
    for one, other, whole in zip(given, wanted, exact, strict=True):
        assert one.isfinite().all()
        loss = (other - whole).abs().mean()
        assert (one - whole).abs().mean() < 1.5 * loss + 1e-3
        assert (one - other).abs().max() < 0.3


@every_level
@pytest.mark.parametrize("name", ["v2", "best", "v1", "none"])
@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 255, 2_048])
def test_cross_and_heads_give_what_pytorch_gives(level: Level, name: str, count: int) -> None:
    torch.manual_seed(0)
    model = TransAct(variant(name, HEADS)).eval()
    for parameter in model.parameters():
        if parameter.dim() == 1:
            torch.nn.init.normal_(parameter)
    with torch.inference_mode():
        for threads in (1, 2, 3):
            native = NativeHeads.of(model, level, threads)
            assert native is not None
            joined = torch.randn(count, native.kernel.width)
            wanted = model.heads(joined)
            torch.testing.assert_close(native.logits(joined), wanted, rtol=1e-5, atol=1e-5)


@every_level
@pytest.mark.parametrize(("cross", "mlp"), [(0, (64,)), (3, ()), (1, (1, 200, 17))])
def test_heads_of_any_shape(level: Level, cross: int, mlp: tuple[int, ...]) -> None:
    torch.manual_seed(0)
    model = TransAct(PUBLISHED.model_copy(update={"cross_layers": cross, "mlp": mlp})).eval()
    native = NativeHeads.of(model, level)
    assert native is not None
    joined = torch.randn(9, native.kernel.width)
    with torch.inference_mode():
        torch.testing.assert_close(native.logits(joined), model.heads(joined), rtol=1e-5, atol=1e-5)


def test_other_models_are_left_to_pytorch() -> None:
    for config in (
        variant("none", HEADS),
        variant("bst", HEADS),
        variant("v2", HEADS).model_copy(update={"read_out": 65}),
    ):
        assert NativeSequence.of(TransAct(config), Level.AVX2) is None
    assert NativeSequence.of(TransAct(variant("v2", HEADS)), Level.TORCH) is None


def test_an_implementation_can_be_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(library.VARIABLE, raising=False)
    assert chosen_level() == best_level()
    monkeypatch.setenv(library.VARIABLE, "torch")
    assert chosen_level() == Level.TORCH
    monkeypatch.setenv(library.VARIABLE, "neon")
    with pytest.raises(KernelsError, match="set it to one of torch, avx2, avx512, bf16, or not at all"):
        chosen_level()


def test_what_cannot_be_had_is_not_forced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "best_level", lambda: Level.TORCH)
    monkeypatch.setenv(library.VARIABLE, "bf16")
    with pytest.raises(KernelsError, match=r"'bf16', and this installation .*: set it to torch, or not at all"):
        chosen_level()


def test_without_a_compiler_nothing_is_built_and_the_reason_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    told = build(tmp_path / "kernels.so")
    assert told is not None
    assert "apt-get install g++" in told
    monkeypatch.setenv("CXX", "false")
    told = build(tmp_path / "kernels.so")
    assert told is not None
    assert "failed" in told
    assert not list(tmp_path.iterdir())


def test_every_source_is_built() -> None:
    directory = Path(library.__file__).parent / "src"
    assert {path.name for path in directory.glob("*.cpp")} == set(SOURCES)


_CROWDED = """
import resource
import numpy as np
from lifeline.scorer.kernels import library, selection
rng = np.random.default_rng(0)
rows = [rng.integers(-127, 128, (n, 32)).astype(np.int8) for n in (500, 20, 40)]
def call(threads):
    return selection.select(*rows, 372, (64, 64, 32, 32), level=library.best_level(), threads=threads)
alone = call(1)
pages = int(open("/proc/self/statm").read().split()[0])
# Less than the stack of one thread.
resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + (4 << 20), resource.RLIM_INFINITY))
crowded = call(4)
for name in ("index", "similarity", "source", "valid"):
    assert (getattr(alone, name) == getattr(crowded, name)).all()
print("same")
"""


@pytest.mark.skipif(best_level() is Level.TORCH, reason="not built")
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
    levels = list(map(library.Level, range(1, library.best_level() + 1)))
    if library.Level.BF16 in levels:
        levels.append(library.Level.INT8)
    for level in levels:
        of_selection = min(level, library.Level.BF16)
        found = selection.select(*rows, max(0, explicit - 128), counts, level=of_selection, threads=2)
        assert found.valid[:, 0].all()
        made = encoder.Encoder(weights | calibration, input_scale=5.0, age_span=21.0, level=level)
        read_out, outputs = made.encode(columns, 10**12, rows[2], found, outputs=True, threads=2)
        assert np.isfinite(read_out).all() and np.isfinite(outputs).all()
        # No number at all between two knots is between two knots as well.
        found.similarity[:] = rng.choice(np.array([np.nan, np.inf, -np.inf, 1e30], np.float32), found.similarity.shape)
        made.encode(columns, 10**12, rows[2], found, outputs=True, threads=2)
        del made
for level in (library.Level.AVX2, library.Level.AVX512):
    if level > library.best_level():
        continue
    for width, sizes, count in ((1, (1,), 1), (111, (128, 64, 4), 19), (17, (33, 5), 6), (16, (16,), 0)):
        shapes = [(width, width)] * 2 + list(zip((width, *sizes), sizes))
        layers = [heads.Linear(np.ones(shape, np.float32), np.ones(shape[1], np.float32)) for shape in shapes]
        made = heads.Heads(layers[:2], layers[2:], level)
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


@pytest.mark.skipif(best_level() is Level.TORCH, reason="not built")
def test_no_byte_out_of_bounds_is_touched(sanitised: Sanitised) -> None:
    assert sanitised.run(_SANITISED) == "clean"
