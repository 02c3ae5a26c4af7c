"""Retention overtakes a node: what it never applied is gone, so the partition refuses and says what to do."""

import pytest
from kafka import KafkaAdminClient, TopicPartition

from lifeline.client import LifelineClient, LifelineError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.partitioner import partition_of
from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.cluster import Member

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]
LOST = 1


@pytest.mark.parametrize("how", ["while it was down", "while it was frozen"])
def test_a_gap_is_never_passed_over_in_silence(
    make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool, how: str
) -> None:
    if how == "while it was frozen" and not is_long:
        pytest.skip("retention that overtakes a live node is in the long form alone: run make chaos")
    cluster = make_cluster(partitions=2)
    source = publisher(cluster.settings.kafka, first_seed)
    source.send(500)
    node = cluster.add("node-1")
    node.start()
    cluster.check()
    applied = cluster.stored("node-1")
    if how == "while it was down":
        node.kill()
    else:
        node.freeze()
    # The first ones may still come to a frozen node, by the request that waited at the broker; the others do not.
    source.send(100)
    source.send(400)
    ends = cluster.judge.read()
    delete_up_to(cluster.settings.kafka, LOST, ends[LOST] - 10)
    source.send(100)
    if how == "while it was down":
        node.start()
    else:
        node.thaw()
    node.wait_for(lambda process: process.states.get(LOST) == "refusing" and process.states.get(1 - LOST) == "serving")
    refusal = next(event for event in reversed(node.events) if event.get("state") == "refusing")
    assert refusal["level"] == "error"
    assert f"the log starts at {ends[LOST] - 10}" in refusal["why"]
    # Nothing of what follows the gap is applied, and nobody is answered; the other partition goes on.
    cluster.judge.read()
    now = cluster.stored("node-1")[LOST]
    # A frozen node may have had some records on their way to it.
    assert now == applied[LOST] if how == "while it was down" else now < ends[LOST] - 11
    assert f"{now + 1} to {ends[LOST] - 11} were never applied: restore a snapshot" in refusal["why"]
    with LifelineClient(node.process.address, timeout_s=30) as client:
        with pytest.raises(LifelineError, match="restore a snapshot") as caught:
            client.get_sequence(user_of(LOST))
        assert caught.value.reason == "NOT_SERVING"
        assert client.get_sequence(user_of(1 - LOST)).as_of.partition == 1 - LOST
    is_still_served(node)


def delete_up_to(kafka: KafkaSettings, partition: int, offset: int) -> None:
    """Make the log of a partition start at `offset`, as retention would."""
    admin = KafkaAdminClient(bootstrap_servers=kafka.servers)
    try:
        admin.delete_records({TopicPartition(kafka.actions_topic, partition): offset})
    finally:
        admin.close()


def user_of(partition: int) -> str:
    return next(user for user in map("user-{}".format, range(100)) if partition_of(user.encode(), 2) == partition)


def is_still_served(node: Member) -> None:
    node.look()
    assert node.states == {LOST: "refusing", 1 - LOST: "serving"}
