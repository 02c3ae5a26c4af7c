"""The peers of `lifeline bench store`: other ways to store every user's list of events.

Each peer stores the same events in the way that its documentation recommends. It is measured in the same run on the
same machine, in a separate environment (.venv-peers) and process:

- `raw`: RocksDB, one value a user, 50 bytes an event with its embedding inline. Its bytes are the 50;
  `raw_zstd` is what the same values take in RocksDB's files.
- `one_value`: RocksDB, one value a user, 18 bytes an event.
- `key_an_event`: RocksDB, one key an event.
- `protobuf_list`: RocksDB, one protobuf message a user.
- `redis_list`: a redis-server, one list a user, an element an event.
- `faust_table`: a Faust table on its RocksDB store; the value is the user's list.
- `quix_state`: Quix Streams' RocksDB state; the value is the user's list.

The peers do less than Lifeline: none removes duplicates, sorts late events in, or maintains a fingerprint, and only
`raw` has embeddings. The changelogs of Faust and Quix Streams are not measured, nor is the time that their frameworks
need per event before the state is updated.
"""

import json
import os
import signal
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
PYTHON = ROOT / ".venv-peers" / "bin" / "python"
NOT_MEASURED = 'peers were not measured: run "make peers" first'
HISTORY_FILE = "history.npz"
SIZES_FILE = "sizes.json"
FIGURES_FILE = "figures.json"
FIGURE_FILE = "figure.json"
"""The result file of a live peer (live.py)."""
_STOP_S = 10.0
_SHOWN_OF_LOG = 2_000


class PeersError(Exception):
    """The peers' process failed or took too long; the message says what to do."""


class PeerHistory(NamedTuple):
    """n events in order of arrival, and the embeddings of m items.

    `user_id` has n texts; timestamp_ms int64[n], item_id uint64[n], action_type uint8[n], surface uint8[n];
    embedded_item_id uint64[m], embedding int8[m, 32]. An item that has no embedding gets one of zeros.
    """

    user_id: Sequence[str]
    timestamp_ms: NDArray[np.int64]
    item_id: NDArray[np.uint64]
    action_type: NDArray[np.uint8]
    surface: NDArray[np.uint8]
    embedded_item_id: NDArray[np.uint64]
    embedding: NDArray[np.int8]


class PeerSizes(NamedTuple):
    """How much is measured.

    Appends go to `append_users` users who hold `append_history` events each, in batches of `append_batch`. Reads
    are of users who hold `read_events` events, `reads` times or, of a slow peer, as often as fits a few seconds.
    """

    append_users: int = 100
    append_history: int = 4_000
    append_batch: int = 2_000
    read_events: int = 16_384
    reads: int = 300
    seconds: float = 2.0


class PeerFigures(NamedTuple):
    """What was measured, by peer.

    `bytes_per_event` is of the whole history, compacted where that exists; `append_per_s` is the median over
    batches; the reads end in four NumPy columns. `block_cache_mib` is what a peer sets aside by default, Faust
    for each partition, Quix Streams for the process. `versions` is by package; `notes` name the peers that
    could not be measured, and why.
    """

    bytes_per_event: dict[str, float]
    append_per_s: dict[str, float]
    read_16k_p50_ms: dict[str, float]
    read_16k_p99_ms: dict[str, float]
    block_cache_mib: dict[str, float]
    versions: dict[str, str]
    notes: list[str]


def measure(
    history: PeerHistory, python: Path | None = None, sizes: PeerSizes | None = None, timeout_s: float = 300.0
) -> PeerFigures | None:
    """Measure every peer in the interpreter `python` (without: .venv-peers); None where that does not exist.

    A caller says NOT_MEASURED then. Raises PeersError where the process fails or takes longer than `timeout_s`.
    """
    python = python or PYTHON
    if not python.is_file():
        return None
    with tempfile.TemporaryDirectory(prefix="lifeline-peers-") as path:
        directory = Path(path)
        columns = history._replace(user_id=np.array(history.user_id, np.str_))._asdict()  # type: ignore[arg-type]
        np.savez(directory / HISTORY_FILE, **columns)
        (directory / SIZES_FILE).write_text(json.dumps((sizes or PeerSizes())._asdict()))
        with (directory / "log").open("w+b") as log:
            _run([str(python.absolute()), "-m", "benchmarks.peers.worker", str(directory)], log, timeout_s)
        return PeerFigures(**json.loads((directory / FIGURES_FILE).read_text()))


def _run(command: list[str], log: IO[bytes], timeout_s: float) -> None:
    """Run `command` to its end; its process group is always killed afterwards."""
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    try:
        code = process.wait(timeout_s)
    except subprocess.TimeoutExpired:
        raise PeersError(f"the peers took longer than {timeout_s:g} s: run them on an idle machine") from None
    finally:
        _end_group(process)
    if code != 0:
        log.seek(0)
        shown = log.read().decode(errors="replace")[-_SHOWN_OF_LOG:]
        raise PeersError(f'the peers\' process exited with {code}: create .venv-peers again with "make peers"\n{shown}')


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children: the redis-server is in its process group."""
    for sent in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, sent)
        except ProcessLookupError:
            return
        try:
            process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            continue
