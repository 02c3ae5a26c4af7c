"""Replay by the command: into a directory of its own, killed and gone on with, and compared with the live state."""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.paths import partition_dir
from lifeline.dev.node_process import NodeProcess
from lifeline.sources.history import History
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from tests.e2e.conftest import READY_S, NodeMaker
from tests.support.commands import run_cli, tamper
from tests.support.states import states

pytestmark = pytest.mark.kafka


def replay(node: NodeProcess, into: Path, *arguments: str, code: int = 0) -> Any:
    done = run_cli(node, "replay", "--into", str(into), "--json", *arguments)
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout)


def kill_in_the_middle(node: NodeProcess, into: Path) -> None:
    """Start a replay, and kill it once it has applied something; what it started goes with it."""
    process = subprocess.Popen(
        [sys.executable, "-m", "lifeline", "replay", "--into", str(into), "--config", str(node.config)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 60
        # A log that has bytes is a store that has applied a batch.
        while not any(log.stat().st_size for log in into.glob("partition-*/*.log")):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
    finally:
        process.kill()
        process.wait()


def applied(node: NodeProcess, into: Path, partition: int) -> int:
    """Return the applied offset, once the killed process has let the store go."""
    deadline = time.monotonic() + 60
    while True:
        try:
            store = PartitionStore.open(
                partition_dir(into, partition),
                partition=partition,
                settings=node.settings.store,
                memory=SharedMemory(node.settings.store),
            )
        except Exception:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
        else:
            store.close()
            return store.applied_offset


def test_a_replay_that_was_killed_goes_on_and_equals_the_live_state_or_names_who_differs(
    published: KafkaSettings, history: History, make_node: NodeMaker, tmp_path: Path
) -> None:
    node = make_node(published)
    node.start()
    node.wait_ready(READY_S)
    into = tmp_path / "rebuilt"

    planned = replay(node, into, "--dry-run")
    assert sum(plan["records"] for plan in planned) == len(history)
    assert not into.exists()

    kill_in_the_middle(node, into)
    begun = {number: applied(node, into, number) for number in (0, 1) if partition_dir(into, number).exists()}
    # The node runs, and keeps its own directory.
    again = replay(node, into, "--verify")
    assert again["equal"]
    assert {row["partition"]: row["start"] for row in again["partitions"]}.items() >= {
        number: offset + 1 for number, offset in begun.items()
    }.items()
    assert node.stop() == 0
    wanted = states(node.settings)
    found = states(node.settings.model_copy(update={"node": node.settings.node.model_copy(update={"data_dir": into})}))
    assert {number: (state.fingerprint, state.events) for number, state in found.items()} == {
        number: (state.fingerprint, state.events) for number, state in wanted.items()
    }

    # Replaying to an earlier offset needs another directory, and the same one only by force.
    refused = run_cli(node, "replay", "--into", str(into), "--to-offset", "99")
    assert refused.returncode == 1
    assert "start over with --force" in refused.stderr
    short = replay(node, into, "--to-offset", "99", "--force")
    assert {(row["start"], row["until"]) for row in short["partitions"]} == {(0, 99)}
    before = replay(node, tmp_path / "before", "--to-datetime", "2001-01-01")
    assert {row["records"] for row in before["partitions"]} == {0}

    user = history.longest_users(1)[0]
    tamper(node, user)
    told = replay(node, into, "--verify", code=3)
    assert [row["different_users"] for row in told["comparisons"] if row["different_users"]] == [[user]]

    swapped = replay(node, into, "--swap")
    assert len(swapped["replaced"]) == node.settings.kafka.partitions
    assert states(node.settings) == wanted
    node.start()
    assert run_cli(node, "replay", "--into", str(tmp_path / "other"), "--swap").returncode == 1
    node.wait_ready(READY_S)
    assert node.stop() == 0


def test_a_directory_of_something_else_is_left_alone(
    fresh_topics: KafkaSettings, make_node: NodeMaker, tmp_path: Path
) -> None:
    node = make_node(fresh_topics)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letters.txt").write_text("dear")
    for into, why in (
        (tmp_path / "mine", "holds letters.txt, which no replay made"),
        (node.settings.node.data_dir, "the node's own directory"),
    ):
        done = run_cli(node, "replay", "--into", str(into), "--force")
        assert done.returncode == 1
        assert why in done.stderr
    assert [entry.name for entry in (tmp_path / "mine").iterdir()] == ["letters.txt"]
