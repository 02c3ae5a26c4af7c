"""Files of a model version, damaged at random, loaded and scored: each is refused by name, or answers.

The hashes are made right again, as whoever can write a version can make them.
"""

import hashlib
import json
import shutil
import struct
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lifeline.scorer import weights
from lifeline.scorer.backend import backend_of
from lifeline.scorer.errors import ScorerError
from lifeline.scorer.features import RequestContext
from lifeline.scorer.int8 import calibrate
from lifeline.scorer.kernels.instruction_set import InstructionSet, best
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.scorer import Scorer
from lifeline.scorer.settings import ScorerSettings
from lifeline.scorer.versions import find
from tests.support.embedding_tables import Table
from tests.support.scorer_factories import DAY, SMALL, VOCABULARY, embeddings, encoding, history

CONFIG = SMALL.model_copy(
    update={"similarity_buckets": 3, "age_buckets": 4, "newest_outputs": 2, "selection_statistics": "all"}
)
NUMBERS = [0.0, -0.0, -1.0, 1e-45, 1e-38, 3e38, -3e38, np.nan, np.inf, -np.inf]
VALUES: list[Any] = [*(0, -1, 1, 2, 3, 63, 65, 4_096, 4_097, 2**31, 2**62, 10**30), 0.5, 1e308, "", None, [], {}, True]


class Fuzz:
    """A sound version, and copies of it that are not."""

    def __init__(self, directory: Path, seed: int) -> None:
        self._rng = np.random.default_rng(seed)
        torch.manual_seed(seed)
        self._settings = ScorerSettings(models_dir=directory, version="1")
        model = TransAct(CONFIG).eval()
        manifest = weights.save(directory, "transact", model, VOCABULARY, version="1")
        self._path = find(directory, "transact", "1").path
        calibration = calibrate(model, [encoding(CONFIG, 40, 9, 6, model=model).inputs])
        measured = weights.MeasuredPrecision(
            weights_sha256=manifest.weights_sha256,
            requests=1,
            bfloat16_accepted=True,
            int8_accepted=True,
            calibration_sha256="0" * 64,
            measures={},
        )
        weights.save_precision(self._path, measured, calibration)
        self._sound = {file.name: file.read_bytes() for file in self._path.iterdir()}
        self._table = Table()
        self._history = history(np.random.default_rng(0), 60, 9, CONFIG)
        self._history.explicit.embedding[:] = embeddings(np.random.default_rng(1), 60)

    def run(self, seconds: float, least: int) -> Counter[str]:
        """Damage files for so long, and so often at least; returns how many versions were refused, and answered."""
        outcomes: Counter[str] = Counter()
        assert self._outcome() == "answered"
        end, turn = time.monotonic() + seconds, 0
        while turn < least or time.monotonic() < end:
            self._damage(turn)
            outcomes[self._outcome()] += 1
            turn += 1
        return outcomes

    def _outcome(self) -> str:
        try:
            loaded = weights.load(self._settings, VOCABULARY)
        except ScorerError:
            return "refused"
        answered = "refused"
        has_bfloat16 = best() is InstructionSet.AVX512_BF16
        precisions = list(Precision) if has_bfloat16 else [Precision.FLOAT32]
        for precision in precisions:
            try:
                scorer = Scorer(loaded, VOCABULARY, self._table, backend_of(loaded, precision, threads=1))
            except ScorerError:
                continue
            scorer.score(self._history, np.arange(5, dtype=np.uint64), RequestContext(1_001 * DAY), explain=2)
            answered = "answered"
        return answered

    def _damage(self, turn: int) -> None:
        shutil.rmtree(self._path)
        self._path.mkdir()
        files = dict(self._sound)
        ways: list[tuple[str, Callable[[bytes], bytes]]] = [
            (weights.MANIFEST, self._other_value),
            (weights.WEIGHTS, self._other_numbers),
            (weights.CALIBRATION, self._other_numbers),
            (weights.WEIGHTS, self._other_header),
            (weights.CALIBRATION, self._other_header),
            (weights.PRECISION, self._other_value),
            *((name, self._other_bytes) for name in sorted(files)),
        ]
        name, way = ways[turn % len(ways)]
        files[name] = way(files[name])
        for file, content in signed(files).items():
            (self._path / file).write_bytes(content)

    def _any(self, values: list[Any]) -> Any:
        return values[int(self._rng.integers(len(values)))]

    def _other_bytes(self, content: bytes) -> bytes:
        data = bytearray(content)
        for _ in range(int(self._rng.integers(1, 4))):
            data[int(self._rng.integers(len(data)))] = int(self._rng.integers(256))
        return bytes(data[: int(self._rng.integers(len(data)))] if self._rng.random() < 0.3 else data)

    def _other_value(self, content: bytes) -> bytes:
        tree = json.loads(content)
        part = tree["config"] if "config" in tree and self._rng.random() < 0.8 else tree
        key = self._any(sorted(part))
        if self._rng.random() < 0.1:
            del part[key]
        else:
            part[key] = self._any(VALUES)
        return json.dumps(tree).encode()

    def _other_numbers(self, content: bytes) -> bytes:
        start = 8 + struct.unpack("<Q", content[:8])[0]
        numbers = np.frombuffer(content[start:], np.float32).copy()
        rows = self._rng.integers(0, len(numbers), int(self._rng.integers(1, 9)))
        numbers[rows] = self._rng.choice(np.array(NUMBERS, np.float32))
        if self._rng.random() < 0.5:
            # Finite, and as wild as they come.
            numbers = (numbers * self._rng.choice([1e3, 1e20, 1e37])).astype(np.float32)
        return content[:start] + numbers.tobytes()

    def _other_header(self, content: bytes) -> bytes:
        start = 8 + struct.unpack("<Q", content[:8])[0]
        header = json.loads(content[8:start])
        name, other = self._any(sorted(header)), self._any(sorted(header))
        match int(self._rng.integers(6)):
            case 0:
                header[name]["shape"] = header[name]["shape"][::-1] + [1] * int(self._rng.integers(2))
            case 1:
                header[name]["dtype"] = self._any(["F64", "F16", "BF16", "I8", "U64", "BOOL", "F32 "])
            case 2:
                header[name], header[other] = header[other], header[name]
            case 3:
                header[name]["data_offsets"] = header[other]["data_offsets"]
            case 4:
                header[name]["shape"] = [self._any([0, 1, 2**31, 2**62]) for _ in header[name]["shape"]]
            case _:
                header[self._any(["", "__metadata__", "x"])] = header.pop(name)
        data = json.dumps(header).encode()
        return struct.pack("<Q", len(data)) + data + content[start:]


def signed(files: dict[str, bytes]) -> dict[str, bytes]:
    """Return files whose hashes agree, where that can be said of them at all."""

    def with_hashes(name: str, **hashes: str) -> bytes:
        try:
            tree = json.loads(files[name])
            return json.dumps(
                tree | {key: hashlib.sha256(files[file]).hexdigest() for key, file in hashes.items()}
            ).encode()
        except (ValueError, TypeError):
            return files[name]

    return files | {
        weights.MANIFEST: with_hashes(weights.MANIFEST, weights_sha256=weights.WEIGHTS),
        weights.PRECISION: with_hashes(
            weights.PRECISION, weights_sha256=weights.WEIGHTS, calibration_sha256=weights.CALIBRATION
        ),
    }


def fuzz(directory: Path, seed: int, seconds: float, least: int) -> str:
    """Return how many versions were refused, and how many answered, as JSON."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with np.errstate(all="ignore"):
            return json.dumps(Fuzz(directory, seed).run(seconds, least))
    finally:
        torch.set_num_threads(before)
