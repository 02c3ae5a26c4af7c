"""What `lifeline bench score` is compared with: faiss, torch.compile, ONNX Runtime and torchao.

They run in a process of their own, with what `make peers` put into .peers-scoring over the torch of .venv. Selection
peers search 256 candidates among all 16,512 tokens in float32 and need not return them in any order; encoder peers get
the tokens ready-made, [256, 192], as tensors.
"""

import copy
import json
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.peers import ROOT
from benchmarks.score.timing import median_ms
from benchmarks.score.world import open_world
from lifeline.core.embedding_codec import normalize
from lifeline.scorer.config import WIDTH
from lifeline.scorer.feature_snapshot import FeatureSnapshot
from lifeline.scorer.model import TransAct

DIRECTORY = ROOT / ".peers-scoring"
_MAIN = "import sys; from pathlib import Path; from benchmarks.score.peers import main; main(Path(sys.argv[1]))"
_TIMEOUT_S = 900.0
_REPEATS = 9


def measure(notes: list[str]) -> dict[str, float]:
    """Return the milliseconds of each peer by name; a note names those that could not be measured."""
    with tempfile.TemporaryDirectory(prefix="lifeline-peers-") as place:
        file = Path(place) / "figures.json"
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(ROOT), str(DIRECTORY)))}
        done = subprocess.run(
            [sys.executable, "-c", _MAIN, str(file)],
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            timeout=_TIMEOUT_S,
            check=False,
        )
        if done.returncode:
            notes.append(f"peers were not measured: {done.stderr.strip()[-300:]}")
            return {}
        figures: dict[str, Any] = json.loads(file.read_text())
    notes.extend(figures["notes"])
    found: dict[str, float] = figures["ms"]
    return found


class Sequence(nn.Module):
    """The encoder and its read-out as a module of tensors."""

    def __init__(self, model: TransAct) -> None:
        super().__init__()
        self.model = model

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return float32[c, 64] from float32[c, L, 64] tokens and bool[c, L]."""
        encoder = self.model.encoder
        x = tokens
        for block in encoder.blocks:  # type: ignore[union-attr]
            x = block(x)
        return self._greatest(x, valid)

    def _greatest(self, x: Tensor, valid: Tensor) -> Tensor:
        read: Tensor = self.model.read_out(x)
        return read.masked_fill(~valid[:, :, None], -torch.inf).amax(dim=1)


class SequenceWithHeads(Sequence):
    """The same with an axis of one head, without which ONNX has no attention."""

    def forward(self, tokens: Tensor, valid: Tensor) -> Tensor:
        """Return float32[c, 64] from float32[c, L, 64] tokens and bool[c, L]."""
        x = tokens
        for block in self.model.encoder.blocks:  # type: ignore[union-attr]
            query, key, value = (made(x)[:, None] for made in (block.query, block.key, block.value))  # type: ignore[operator]
            attended = functional.scaled_dot_product_attention(query, key, value, is_causal=True)[:, 0]
            y = functional.layer_norm(x + attended, (WIDTH,))
            x = functional.layer_norm(y + block.narrow(functional.relu(block.widen(y))), (WIDTH,))  # type: ignore[operator]
        return self._greatest(x, valid)


def main(file: Path) -> None:
    """Measure each, and write the figures."""
    warnings.simplefilter("ignore")
    ms: dict[str, float] = {}
    notes: list[str] = []
    with open_world() as world:
        every = np.concatenate([world.history.explicit.embedding, world.history.impressions.embedding])
        request, selected = FeatureSnapshot.of(
            world.history, world.candidates, world.embedding, world.context, world.model.config
        )
        inputs = request.inputs(request.selection(selected.similarity))
        sequence = Sequence(world.model).eval()
        with torch.inference_mode():
            tokens = world.model.encoder.embed(inputs)  # type: ignore[union-attr, operator]
        given = (tokens.clone(), inputs.valid)
        peers: dict[str, Callable[[], Callable[[], object]]] = {
            "faiss flat ms": lambda: _faiss(normalize(world.embedding), normalize(every)),
            "compiled fp32 ms": lambda: _compiled(sequence, given),
            "compiled bf16 ms": lambda: _compiled_bf16(sequence, given),
            "onnxruntime fp32 ms": lambda: _onnx(sequence, given, quantized=False),
            "onnxruntime int8 ms": lambda: _onnx(sequence, given, quantized=True),
            "torchao int8 ms": lambda: _torchao(sequence, given),
        }
        for name, make in peers.items():
            try:
                with torch.inference_mode():
                    ms[name] = median_ms(make(), _REPEATS)
            except Exception as error:  # noqa: BLE001 - a peer that cannot run is said so, and no reason to stop
                first = str(error).strip().splitlines()[:1]
                notes.append(
                    f"{name.removesuffix(' ms')} was not measured: {type(error).__name__} {' '.join(first)[:160]}"
                )
    file.write_text(json.dumps({"ms": ms, "notes": notes}))


def _faiss(candidates: np.ndarray, tokens: np.ndarray) -> Callable[[], object]:
    import faiss  # noqa: PLC0415 - it is there in the peers' process alone

    index = faiss.IndexFlatIP(tokens.shape[1])
    index.add(tokens)
    return lambda: index.search(candidates, 64)


def _compiled(sequence: Sequence, given: tuple[Tensor, Tensor]) -> Callable[[], object]:
    compiled = torch.compile(sequence, mode="max-autotune")
    return lambda: compiled(*given)


def _compiled_bf16(sequence: Sequence, given: tuple[Tensor, Tensor]) -> Callable[[], object]:
    """Return the faster of what autocast makes of it, and of the model's own products in bfloat16."""
    cast = torch.compile(sequence, mode="max-autotune")
    reduced = copy.deepcopy(sequence)
    reduced.model.use_bfloat16(enabled=True)
    own = torch.compile(reduced, mode="max-autotune")

    def by_autocast() -> object:
        with torch.autocast("cpu", torch.bfloat16):
            return cast(*given)

    def by_model() -> object:
        return own(*given)

    return min((by_autocast, by_model), key=lambda work: median_ms(work, _REPEATS))


def _onnx(sequence: Sequence, given: tuple[Tensor, Tensor], *, quantized: bool) -> Callable[[], object]:
    import onnxruntime  # noqa: PLC0415
    from onnxruntime.quantization import quantize_dynamic  # noqa: PLC0415

    with tempfile.TemporaryDirectory(prefix="lifeline-onnx-") as place:
        path = Path(place) / "encoder.onnx"
        torch.onnx.export(
            SequenceWithHeads(sequence.model).eval(), given, str(path), dynamo=True, verbose=False, external_data=False
        )
        if quantized:
            whole, path = path, Path(place) / "encoder-int8.onnx"
            quantize_dynamic(whole, path)
        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    names = [model_input.name for model_input in session.get_inputs()]
    feed = dict(zip(names, (tensor.numpy() for tensor in given), strict=False))
    return lambda: session.run(None, feed)


def _torchao(sequence: Sequence, given: tuple[Tensor, Tensor]) -> Callable[[], object]:
    from torchao.quantization import Int8DynamicActivationInt8WeightConfig, quantize_  # noqa: PLC0415

    quantized = copy.deepcopy(sequence)
    quantize_(quantized, Int8DynamicActivationInt8WeightConfig())
    return _compiled(quantized, given)
