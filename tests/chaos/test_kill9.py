"""SIGKILL at any moment: what a node leaves behind is exactly a part of the log, and it goes on from there."""

import random
import time

import pytest

from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.kills import kill_rounds

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]


def test_a_killed_node_loses_nothing_and_counts_nothing_twice(
    make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool
) -> None:
    # A static member has its partitions again at once; without, the dead node's session has to run out first.
    cluster = make_cluster(static=not is_long, standbys=1)
    source = publisher(cluster.settings.kafka, first_seed)
    rounds = 60 if is_long else 2
    for outcome in kill_rounds(cluster, source, seed=first_seed, rounds=rounds, nodes=2):
        assert not outcome, f"seed {first_seed}: {outcome}"


def test_a_node_that_is_killed_again_and_again_while_it_starts(
    make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("the schedules of test_membership have such kills too: run make chaos for this one")
    cluster = make_cluster(partitions=2)
    source = publisher(cluster.settings.kafka, first_seed)
    source.send(3_000)
    rng = random.Random(first_seed)
    node = cluster.add("node-1")
    for _ in range(15):
        node.start()
        # Its first partition is being opened: from here on it recovers.
        node.wait_for(lambda process: bool(process.states))
        time.sleep(rng.uniform(0, 0.3))
        node.kill()
        cluster.judge.read()
        cluster.stored("node-1")
    node.start()
    assert cluster.check() == dict.fromkeys(range(2), "node-1")
