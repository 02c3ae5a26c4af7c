"""Scoring on a GPU: selection and encoder of our own beside PyTorch's, by length and batch. It needs a GPU.

Every figure is the median of a run with its copies to and from the device. The encoder's peers are PyTorch's attention
(memory-efficient and flash) in bfloat16, and torch.compile of the same; they get their tokens on the device.
"""

import time
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.report import Report, Row
from benchmarks.score.peers import Sequence as SequenceOfTensors
from benchmarks.score.timing import median_ms
from lifeline.cli.console import err
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import Vocabulary
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.features import History, Tokens
from lifeline.scorer.gpu.encoder import GpuEncoder
from lifeline.scorer.gpu.selection import GpuSelector
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection, select

TOKENS = 16_384
LENGTHS, BATCHES = (64, 192, 512, 1_024, 2_048), (16, 64, 256, 1_024, 2_048)
_REPEATS = 31
_MOST = 512 * 1_024
"""Tokens of a batch: beyond that the peers' attention needs more memory than most GPUs have."""


def run(bootstrap_servers: str | None) -> Report:
    """Run it all; no broker is needed."""
    del bootstrap_servers
    if not torch.cuda.is_available():
        return Report("gpu", [], ("there is no GPU that torch can use: nothing was measured",))
    notes = (torch.cuda.get_device_name(), f"torch {torch.__version__}, selection among {TOKENS:,} tokens")
    rows: list[Row] = []
    for count in BATCHES:
        _say(f"selection, {count} candidates")
        rows.append(_selection(count))
    for length in LENGTHS:
        for count in BATCHES:
            if length * count <= _MOST:
                _say(f"encoder, {count} x {length}")
                rows.append(_encoder(length, count))
    return Report("gpu", rows, notes)


def _selection(count: int) -> Row:
    config = _config(192)
    selector = GpuSelector(config, torch.device("cuda"))
    history, candidates = _history(np.random.default_rng(0)), _embeddings(np.random.default_rng(1), count)
    rows, tokens = (torch.from_numpy(side).float().cuda() for side in (candidates, history.tokens.embedding))

    def by_torch() -> None:
        (rows @ tokens.T).topk(config.lifelong_selected, dim=1)
        torch.cuda.synchronize()

    peers = {
        "torch mm + topk ms": median_ms(by_torch, _REPEATS),
        "CPU kernels ms": median_ms(lambda: select(history, candidates, config), _REPEATS),
    }
    ms = median_ms(lambda: selector.select(history, candidates), _REPEATS)
    return Row(f"gpu_selection_{count}_ms", ms, "ms", None, peers)


def _encoder(length: int, count: int) -> Row:
    torch.manual_seed(0)
    model = TransAct(_config(length)).eval()
    encoder = GpuEncoder.of(model, torch.device("cuda"), Precision.BFLOAT16)
    if encoder is None:
        raise RuntimeError("the GPU's encoder does not support the model: measure the published one")
    rng = np.random.default_rng(0)
    tokens = _tokens(rng, TOKENS)
    candidates = _embeddings(rng, count)
    index = np.sort(rng.integers(0, TOKENS, (count, length)), axis=1)
    selection = Selection(
        index,
        np.ones((count, length), np.bool_),
        np.ones((count, length), np.uint8),
        np.zeros((count, length), np.float32),
    )
    ours = median_ms(lambda: encoder.parts(tokens, selection, candidates, 0), _REPEATS)
    peers: dict[str, float] = {}
    given = torch.randn(count, length, 64, device="cuda"), torch.ones(count, length, dtype=torch.bool, device="cuda")
    theirs = SequenceOfTensors(model).cuda()
    for name, work in (
        ("memory-efficient ms", _with(theirs, given, SDPBackend.EFFICIENT_ATTENTION)),
        ("flash ms", _with(theirs, given, SDPBackend.FLASH_ATTENTION)),
        ("torch.compile ms", _with(torch.compile(theirs, mode="max-autotune"), given, SDPBackend.FLASH_ATTENTION)),
    ):
        peers[name] = median_ms(work, _REPEATS)
    return Row(f"gpu_encoder_{count}x{length}_ms", ours, "ms", None, peers)


def _with(module: Callable[..., Tensor], given: tuple[Tensor, Tensor], backend: SDPBackend) -> Callable[[], None]:
    def call() -> None:
        with torch.inference_mode(), torch.autocast("cuda", torch.bfloat16), sdpa_kernel(backend):
            module(*given)
        torch.cuda.synchronize()

    return call


def _config(length: int) -> ModelConfig:
    each = length // 4
    return ModelConfig(
        heads=default_heads(Vocabulary()),
        lifelong_selected=length - 3 * each,
        recent_kept=each,
        real_time_selected=each,
        impressions_selected=each,
        real_time_length=2 * each,
        impression_length=2 * each,
    )


def _history(rng: np.random.Generator) -> History:
    return History.of(_tokens(rng, TOKENS), _tokens(rng, 128), _config(192))


def _tokens(rng: np.random.Generator, count: int) -> Tokens:
    return Tokens(
        np.arange(count, dtype=np.int64),
        np.arange(count, dtype=np.uint64),
        np.ones(count, np.uint64),
        np.zeros(count, np.uint8),
        _embeddings(rng, count),
    )


def _embeddings(rng: np.random.Generator, count: int) -> np.ndarray:
    return rng.integers(-127, 128, (count, EMBEDDING_DIM)).astype(np.int8)


def _say(what: str) -> None:
    err.print(f"{time.strftime('%H:%M:%S')} {what}", highlight=False)
