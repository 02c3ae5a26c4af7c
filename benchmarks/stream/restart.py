"""Restart after kill -9, and replay, of a topic of millions of actions; the same topic serves both."""

import json
import os
import subprocess
import sys
import time
from typing import NamedTuple

from benchmarks.store.workloads import zipf
from benchmarks.stream.environment import Environment, start_and_follow
from benchmarks.stream.load import load
from lifeline.config import PREFIX

USERS = 2_000
_REPLAY_S = 1_800.0


class Restart(NamedTuple):
    """Seconds of a node whose partitions were all applied when it was killed."""

    ready: float
    """From the process's start until it was ready."""
    store: float
    """Of that: opening the stores, the slowest partition."""
    ingest_per_s: float
    """How fast the first node applied it all."""


class Replay(NamedTuple):
    """One `lifeline replay` into an empty directory."""

    per_s: float
    equal: bool
    """Whether it ended with the fingerprints of the live state."""


def fill(environment: Environment, events: int) -> None:
    """Load `events` actions of 2,000 users."""
    load(environment.kafka, zipf(USERS, events // USERS))


def restart(environment: Environment, events: int) -> Restart:
    """Apply everything, kill -9, and start again over the same directory."""
    # A static member, as a node with a directory of its own should be: the group does not wait for its session to end.
    with environment.node("restart", kafka__group_instance_id="bench") as node:
        first = start_and_follow(node).first
        node.kill()
        started = time.time()
        moments = start_and_follow(node)
        node.stop()
    opening = [
        moments.of_partition[number, "catching_up"] - at
        for (number, state), at in moments.of_partition.items()
        if state == "restoring"
    ]
    return Restart(moments.first["ready"] - started, max(opening), events / (first["ready"] - first["catching_up"]))


def replay(environment: Environment, events: int) -> Replay:
    """Replay the topic aside of the node that `restart` left, and compare."""
    config = environment.path / "restart" / "lifeline.toml"
    into = environment.path / "replayed"
    command = [sys.executable, "-m", "lifeline", "replay", "--config", str(config), "--into", str(into), "--json"]
    started = time.perf_counter()
    _run(command)
    seconds = time.perf_counter() - started
    proof = json.loads(_run([*command, "--verify"]))
    return Replay(events / seconds, bool(proof["equal"]))


def _run(command: list[str]) -> str:
    environment = {name: value for name, value in os.environ.items() if not name.upper().startswith(PREFIX)}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True, timeout=_REPLAY_S)
    return done.stdout
