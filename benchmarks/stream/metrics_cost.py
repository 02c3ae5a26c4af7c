"""The cost of metrics: nodes ingest one topic in turns, with metrics scraped and without metrics.

The CPU time for the same records is compared, because the wall times of two runs on a shared machine differ by more
than metrics cost.
"""

import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import numpy as np

from benchmarks.store.workloads import Workload
from benchmarks.stream.environment import open_environment
from benchmarks.stream.ingest import IngestRun, ingest_once
from benchmarks.stream.load import load
from lifeline.core.vocabulary import Vocabulary

PAIRS = 7
_SCRAPE_EVERY_S = 1.0


class MetricsCost(NamedTuple):
    """Medians over `PAIRS` pairs of nodes."""

    cpu_percent: float
    """Processor seconds with metrics, as a percentage above those without."""
    rate_percent: float
    """Events a second with metrics, as a percentage below those without."""


def metrics_cost(bootstrap_servers: str, vocabulary: Vocabulary, workload: Workload, pairs: int = PAIRS) -> MetricsCost:
    """Load `workload` into a topic of its own, and measure."""
    on: list[IngestRun] = []
    off: list[IngestRun] = []
    with open_environment(bootstrap_servers, vocabulary) as environment:
        load(environment.kafka, workload)
        for number in range(pairs):
            # The order alternates with each pair.
            for with_metrics in (True, False) if number % 2 else (False, True):
                node = environment.node(f"metrics-{number}-{with_metrics}", node__metrics=with_metrics)
                with scraping(node.settings.node.http_address) if with_metrics else _nothing():
                    (on if with_metrics else off).append(ingest_once(node, len(workload)))
    cpu = [on_run.cpu_s / off_run.cpu_s for on_run, off_run in zip(on, off, strict=True)]
    rate = [on_run.per_s / off_run.per_s for on_run, off_run in zip(on, off, strict=True)]
    return MetricsCost(100 * (float(np.median(cpu)) - 1), 100 * (1 - float(np.median(rate))))


@contextmanager
def scraping(address: str) -> Iterator[None]:
    """Scrape /metrics once per second, more often than Prometheus does."""
    done = threading.Event()

    def scrape() -> None:
        while not done.wait(_SCRAPE_EVERY_S):
            try:
                with urllib.request.urlopen(f"http://{address}/metrics", timeout=10) as answer:
                    answer.read()
            except OSError:
                # The node does not listen yet, or has stopped.
                continue

    thread = threading.Thread(target=scrape, name="scrape")
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@contextmanager
def _nothing() -> Iterator[None]:
    yield
