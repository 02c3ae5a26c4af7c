"""Live ingest: a node that finds a full topic, from its first partition's opening until it has met the end."""

from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import Workload
from benchmarks.stream.load import load
from benchmarks.stream.place import Place, cpu_seconds, placed, start_and_follow
from store.vocabulary import Vocabulary

RUNS = 3


class Ingest(NamedTuple):
    """Medians of `RUNS` nodes over one topic."""

    per_s: float
    """Events of the topic, by the seconds until all of them are applied."""
    node_cpu_share: float
    """Processor seconds of the node by seconds of the clock: 1 is one core busy all the time."""


def ingest(bootstrap_servers: str, vocabulary: Vocabulary, workload: Workload, runs: int = RUNS) -> Ingest:
    """Load `workload` into a topic of its own, and measure."""
    with placed(bootstrap_servers, vocabulary) as place:
        load(place.kafka, workload)
        measured = [_once(place, f"ingest-{number}", len(workload)) for number in range(runs)]
    return Ingest(*(float(np.median(column)) for column in zip(*measured, strict=True)))


def _once(place: Place, name: str, events: int) -> Ingest:
    at_opening = 0.0
    with place.node(name) as node:

        def note(event: object) -> None:
            nonlocal at_opening
            if not at_opening and isinstance(event, dict) and event.get("state") == "catching_up":
                at_opening = cpu_seconds(node.pid)

        moments = start_and_follow(node, note).first
        seconds = moments["ready"] - moments["catching_up"]
        share = (cpu_seconds(node.pid) - at_opening) / seconds
        node.stop()
    return Ingest(events / seconds, share)
