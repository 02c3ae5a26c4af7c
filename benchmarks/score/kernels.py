"""Selection and encoder alone, beside the same work of others."""

import os
from collections.abc import Mapping
from functools import partial

import numpy as np
import torch

from benchmarks.report import Bar, Row
from benchmarks.score.timing import median_ms
from benchmarks.score.world import CANDIDATES, World
from lifeline.scorer.cpu_backend import CpuEncoder
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.int8 import calibrate
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import cosines, select

_REPEATS, _SLOW_REPEATS = 101, 7


def selection(world: World, peers: Mapping[str, float], notes: list[str]) -> list[Row]:
    """Select for 256 candidates from three pools; peers search the one that holds them all, and give no order."""
    del notes
    config = world.model.config
    every = np.concatenate([world.history.explicit.embedding, world.history.impressions.embedding])
    rows, tokens = (torch.from_numpy(side).float() for side in (world.embedding, every))

    def by_torch() -> None:
        (rows @ tokens.T).topk(config.lifelong_selected, dim=1)

    def by_numpy() -> None:
        np.argpartition(cosines(world.embedding, every), -config.lifelong_selected, axis=1)

    others = {
        "torch mm + topk ms": median_ms(by_torch, _SLOW_REPEATS),
        "numpy argpartition ms": median_ms(by_numpy, _SLOW_REPEATS),
        **{name: ms for name, ms in peers.items() if name.startswith("faiss")},
    }
    ms = median_ms(lambda: select(world.history, world.embedding, config, threads=os.cpu_count()), _REPEATS)
    return [Row("selection_ms", ms, "ms", Bar("<=", 1.5), others)]


def encoder(world: World, peers: Mapping[str, float], notes: list[str]) -> list[Row]:
    """Encode 256 x 192 tokens; ours gathers them itself, to the others they are given."""
    request, selected = FeatureSnapshot.of(
        world.history, world.candidates, world.embedding, world.context, world.model.config
    )
    own = request.selection(selected.similarity)
    inputs = request.inputs(own)
    notes.append(f"encoder: {CANDIDATES} candidates x {own.index.shape[1]} tokens")
    with torch.inference_mode():
        eager = median_ms(lambda: _sequence(world.model, inputs), _SLOW_REPEATS)
    others = {"eager SDPA fp32 ms": eager, **{name: ms for name, ms in peers.items() if not name.startswith("faiss")}}
    rows = [Row("encoder_eager_sdpa_fp32_ms", eager, "ms")]
    for name, needed, precision, most, ratio in (
        ("fp32", InstructionSet.AVX512, Precision.FLOAT32, 25.0, 4.0),
        ("bf16", InstructionSet.AVX512_BF16, Precision.BFLOAT16, 12.5, 7.5),
    ):
        native = CpuEncoder.of(world.model, best(), precision, os.cpu_count()) if needed <= best() else None
        if native is None:
            continue
        work = partial(native.parts, request.tokens, own, world.embedding, world.context.timestamp_ms)
        ms = median_ms(work, _REPEATS)
        rows.append(Row(f"encoder_{name}_ms", ms, "ms", Bar("<=", most), others))
        rows.append(Row(f"encoder_{name}_x_sdpa", eager / ms, "x", Bar(">=", ratio)))
        if name == "bf16" and "compiled bf16 ms" in peers:
            rows.append(Row("encoder_bf16_x_compiled", peers["compiled bf16 ms"] / ms, "x", Bar(">=", 4.0)))
    if best() >= InstructionSet.AVX512_BF16:
        calibration = calibrate(world.model, [inputs])
        small = CpuEncoder.of(world.model, best(), Precision.INT8, os.cpu_count(), calibration)
        if small is not None:
            work = partial(small.parts, request.tokens, own, world.embedding, world.context.timestamp_ms)
            rows.append(Row("encoder_int8_ms", median_ms(work, _REPEATS), "ms", Bar("<=", 9.5), others))
    return rows


def _sequence(model: TransAct, inputs: Inputs) -> None:
    model.sequence(inputs, model.encode(inputs))
