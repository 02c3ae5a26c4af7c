"""Live ingest: a node that finds a full topic, from its first partition's opening until it has met the end."""

from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import Workload
from benchmarks.stream.environment import cpu_seconds, open_environment, start_and_follow
from benchmarks.stream.load import load
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.node_process import NodeProcess

RUNS = 3


class Ingest(NamedTuple):
    """Medians of `RUNS` nodes over one topic."""

    per_s: float
    """Events of the topic, by the seconds until all of them are applied."""
    node_cpu_share: float
    """Processor seconds of the node by seconds of the clock: 1 is one core busy all the time."""
    node_cpu_us: float
    """Processor microseconds of the node an event."""


class IngestRun(NamedTuple):
    """One node over a full topic."""

    per_s: float
    cpu_s: float
    """Processor seconds of the node, from its first partition's opening until all is applied."""
    cpu_share: float
    """By seconds of the clock."""


def ingest(bootstrap_servers: str, vocabulary: Vocabulary, workload: Workload, runs: int = RUNS) -> Ingest:
    """Load `workload` into a topic of its own, and measure."""
    with open_environment(bootstrap_servers, vocabulary) as environment:
        load(environment.kafka, workload)
        measured = [ingest_once(environment.node(f"ingest-{number}"), len(workload)) for number in range(runs)]
    return Ingest(
        float(np.median([run.per_s for run in measured])),
        float(np.median([run.cpu_share for run in measured])),
        float(np.median([run.cpu_s for run in measured])) / len(workload) * 1e6,
    )


def ingest_once(fresh: NodeProcess, events: int) -> IngestRun:
    """Run a node that has nothing yet until it has applied the topic's `events`."""
    at_opening = 0.0
    with fresh as node:

        def note(event: object) -> None:
            nonlocal at_opening
            if not at_opening and isinstance(event, dict) and event.get("state") == "catching_up":
                at_opening = cpu_seconds(node.pid)

        moments = start_and_follow(node, note).first
        seconds = moments["ready"] - moments["catching_up"]
        cpu_s = cpu_seconds(node.pid) - at_opening
        node.stop()
    return IngestRun(events / seconds, cpu_s, cpu_s / seconds)
