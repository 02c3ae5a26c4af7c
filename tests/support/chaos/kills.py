"""Rounds of SIGKILL under a steady load, for the tests and for the benchmark."""

import random
import time
from collections.abc import Iterator

from lifeline.core.errors import NodeProcessError
from tests.support.chaos.cluster import Cluster, FaultError
from tests.support.chaos.traffic import Publisher

PER_S = 1_500
_BACKLOG = 1_000
_LATEST_S = 1.5


def kill_rounds(cluster: Cluster, source: Publisher, *, seed: int, rounds: int, nodes: int) -> Iterator[str]:
    """Run rounds, and yield for each what was wrong: nothing where every fingerprint is right, or it is the last one.

    A round publishes, kills one node at a random moment, judges what it left as it lies there, starts it again (and
    kills it again meanwhile, one time in four), and judges all nodes once they have caught up.
    """
    rng = random.Random(seed)
    names = [f"node-{number}" for number in range(1, nodes + 1)]
    for name in names:
        cluster.add(name).start()
    cluster.settle()
    for _ in range(rounds):
        victim = rng.choice(names)
        try:
            with source.steady(PER_S):
                if rng.random() < 0.5:
                    source.send(_BACKLOG)
                time.sleep(rng.uniform(0, _LATEST_S))
                _kill(cluster, victim)
                cluster.members[victim].start()
                if rng.random() < 0.25:
                    time.sleep(rng.uniform(0, 3 * _LATEST_S))
                    _kill(cluster, victim)
                    cluster.members[victim].start()
            cluster.check()
        except (FaultError, NodeProcessError) as error:
            # What comes after it would be judged on a state that is wrong already.
            yield str(error)
            return
        yield ""


def _kill(cluster: Cluster, victim: str) -> None:
    cluster.members[victim].kill()
    cluster.judge.read()
    cluster.stored(victim)
