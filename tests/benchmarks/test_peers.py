"""The peers of the store's benchmark: what is said without their environment, and a small run in it."""

import os
import select
from pathlib import Path

import numpy as np
import pytest

from benchmarks import peers
from benchmarks.peers import PeerHistory, PeersError, PeerSizes

NAMES = {"raw", "one_value", "key_an_event", "protobuf_list", "redis_list", "faust_table", "quix_state"}
SMALL = PeerSizes(append_users=3, append_history=20, append_batch=50, read_events=40, reads=5, seconds=0.05)


@pytest.fixture
def history() -> PeerHistory:
    """600 events of 7 users on 50 items, some of them without an embedding."""
    chance = np.random.default_rng(7)
    item_ids = chance.integers(2**64, size=50, dtype=np.uint64)
    return PeerHistory(
        user_id=[f"user {number}" for number in chance.integers(7, size=600)],
        timestamp_ms=np.sort(chance.integers(1_700_000_000_000, 1_700_900_000_000, 600)),
        item_id=chance.choice(item_ids, 600),
        action_type=chance.integers(1, 5, 600, np.uint8),
        surface=chance.integers(0, 4, 600, np.uint8),
        embedded_item_id=item_ids[:40],
        embedding=chance.integers(-127, 128, (40, 32)).astype(np.int8),
    )


def script(place: Path, text: str) -> Path:
    path = place / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_without_their_environment_nothing_is_measured(history: PeerHistory, tmp_path: Path) -> None:
    assert peers.measure(history, tmp_path / "bin" / "python") is None
    assert "make peers" in peers.NOT_MEASURED


def test_a_failing_process_is_an_error_that_shows_its_last_words(history: PeerHistory, tmp_path: Path) -> None:
    with pytest.raises(PeersError, match=r"exited with 3: .*make peers(.|\n)*no such thing"):
        peers.measure(history, script(tmp_path, "echo no such thing >&2; exit 3"))


def test_a_process_that_takes_too_long_is_ended_with_what_it_started(history: PeerHistory, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        slow = script(tmp_path, f"exec 3> {pipe}; sleep 600 & echo started >&3; wait")
        with pytest.raises(PeersError, match="longer than 1 s"):
            peers.measure(history, slow, timeout_s=1)
        assert os.read(reader, 100) == b"started\n"
        # The pipe ends once neither the process nor its child holds it.
        readable, _, _ = select.select([reader], [], [], 10)
        assert readable
        assert os.read(reader, 100) == b""
    finally:
        os.close(reader)


@pytest.mark.skipif(not peers.PYTHON.is_file(), reason='there is no .venv-peers: run "make peers"')
def test_a_small_run_measures_every_peer(history: PeerHistory) -> None:
    figures = peers.measure(history, sizes=SMALL)
    assert figures is not None
    measured = NAMES if not figures.notes else NAMES - {"redis_list"}
    assert set(figures.append_per_s) == measured
    assert set(figures.read_16k_p50_ms) == set(figures.read_16k_p99_ms) == measured
    assert set(figures.bytes_per_event) == measured | {"raw_zstd"}
    assert figures.bytes_per_event["raw"] == 50
    for measure in (figures.bytes_per_event, figures.append_per_s, figures.read_16k_p50_ms, figures.read_16k_p99_ms):
        assert all(value > 0 for value in measure.values())
    assert figures.block_cache_mib["faust_table"] == 2_048
    assert "quixstreams" in figures.versions
