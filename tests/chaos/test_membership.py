"""Two to four nodes that join, leave, die and freeze at random, also while others recover."""

import pytest

from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.schedule import schedule

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]
PER_S = 1_000


@pytest.mark.parametrize("static", [False, True], ids=["dynamic", "static"])
def test_nodes_come_and_go(
    make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool, static: bool
) -> None:
    if static and not is_long:
        pytest.skip("static members are in the long form alone: run make chaos")
    for seed in range(first_seed, first_seed + (12 if is_long else 1)):
        plan = (
            schedule(seed, faults=12, nodes=2 + seed % 3)
            if is_long
            else schedule(seed, faults=3, nodes=2, longest_s=1.0)
        )
        with make_cluster(f"seed-{seed}", static=static, standbys=seed % 2) as cluster:
            source = publisher(cluster.settings.kafka, seed)
            try:
                with source.steady(PER_S):
                    cluster.run(plan)
                cluster.check()
                # And the group still works: what comes now finds its place too.
                source.send(500)
                cluster.check()
            except BaseException as error:
                error.add_note(str(plan))
                raise


def test_a_node_that_was_given_up_for_dead_and_comes_back(
    make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool
) -> None:
    if not is_long:
        pytest.skip("the session timeout has to pass: run make chaos")
    cluster = make_cluster()
    source = publisher(cluster.settings.kafka, first_seed)
    first, second = cluster.add("node-1"), cluster.add("node-2")
    for node in (first, second):
        node.start()
    assert len(set(cluster.check().values())) == 2
    with source.steady(PER_S):
        first.freeze()
        second.wait_for(lambda node: len(node.served) == cluster.partitions)
        first.thaw()
    # The frozen node's stores are behind, and what it had fetched before is void.
    assert len(set(cluster.check().values())) == 2
