"""A rolling restart under a steady load of reads and scores through the client library, for tests and benchmark."""

import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.sequence import AsOf, SequenceQuery
from lifeline.scorer import weights
from lifeline.scorer.config import ModelConfig, default_heads
from lifeline.scorer.model import TransAct
from tests.support.chaos.cluster import Cluster, Member
from tests.support.chaos.traffic import USERS, Publisher

READS_PER_S, SCORES_PER_S, ACTIONS_PER_S = 40, 10, 200
DEADLINE_S = 30.0
_THREADS = 2
_CANDIDATES = 8
_HISTORY = 4_000


@dataclass
class Calls:
    """What callers saw; each entry of `failed` is an answer that was none."""

    made: int = 0
    failed: list[str] = field(default_factory=list)
    went_back: list[str] = field(default_factory=list)
    """Answers that were older than one that the same caller had before."""
    slowest_s: float = 0.0


def rolling_restart(cluster: Cluster, source: Publisher, *, rounds: int = 1) -> Calls:
    """Restart each of two nodes in turn while callers call, and return what these saw."""
    save_model(cluster)
    source.send(_HISTORY)
    models = cluster.settings.scorer.models_dir
    # A node behind a balancer: those who have not heard that it stops are served for a while.
    nodes = [cluster.add(f"node-{number}", node__drain_s=1.0, scorer__models_dir=models) for number in (1, 2)]
    for node in nodes:
        node.start()
    cluster.check()
    with calling([node.process.address for node in nodes]) as calls, source.steady(ACTIONS_PER_S):
        time.sleep(1.0)
        for _ in range(rounds):
            for node in nodes:
                restart(cluster, node)
    cluster.check()
    return calls


def restart(cluster: Cluster, node: Member) -> None:
    """Stop a node as a supervisor would, start it again, and return once the group has settled."""
    node.terminate()
    node.wait_ended()
    node.start()
    node.wait_for(lambda process: any(event.get("event") == "ready" for event in process.events))
    cluster.settle()


@contextmanager
def calling(addresses: list[str]) -> Iterator[Calls]:
    """Call at a steady rate for as long as the block lasts."""
    calls, done, lock = Calls(), threading.Event(), threading.Lock()
    query = SequenceQuery(newest=50)
    candidates = list(range(1, _CANDIDATES + 1))

    def call(ask: Callable[[LifelineClient, str], AsOf], per_s: float, seed: int) -> None:
        rng, seen = random.Random(seed), dict[int, int]()
        # Some know every node, and some only one, which has to send them on.
        known = addresses if seed % 2 else addresses[-1:]
        with LifelineClient(known, timeout_s=DEADLINE_S) as client:
            while not done.wait(rng.uniform(0, 2 / per_s)):
                user = f"user-{rng.randrange(USERS)}"
                began = time.monotonic()
                failed = back = ""
                try:
                    as_of = ask(client, user)
                    if as_of.applied_offset < seen.get(as_of.partition, -1):
                        back = f"{user}: {as_of} after offset {seen[as_of.partition]}"
                    seen[as_of.partition] = as_of.applied_offset
                except LifelineError as error:
                    failed = f"{user}: {error}"
                with lock:
                    calls.made += 1
                    calls.slowest_s = max(calls.slowest_s, time.monotonic() - began)
                    calls.failed += [failed] if failed else []
                    calls.went_back += [back] if back else []

    def read(client: LifelineClient, user: str) -> AsOf:
        return client.get_sequence(user, query).as_of

    def score(client: LifelineClient, user: str) -> AsOf:
        return client.score(user, candidates).as_of

    kinds = ((read, READS_PER_S), (score, SCORES_PER_S))
    with ThreadPoolExecutor(2 * _THREADS) as pool:
        callers = [pool.submit(call, ask, per_s / _THREADS, seed) for seed in range(_THREADS) for ask, per_s in kinds]
        try:
            yield calls
        finally:
            done.set()
    # A caller that has crashed has called nobody, and must not pass for one without failures.
    for caller in callers:
        caller.result()


def save_model(cluster: Cluster) -> None:
    """Save a small model with random weights where all nodes look for one."""
    torch.manual_seed(0)
    scorer, vocabulary = cluster.settings.scorer, cluster.settings.vocabulary
    config = ModelConfig(
        heads=default_heads(vocabulary),
        real_time_length=16,
        impression_length=8,
        lifelong_selected=8,
        recent_kept=8,
        real_time_selected=4,
        impressions_selected=4,
        read_out=16,
        mlp=(16,),
    )
    weights.save(scorer.models_dir, scorer.model, TransAct(config).eval(), vocabulary)
