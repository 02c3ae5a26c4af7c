"""The disk of a node is full: it says so, answers nothing wrong, and goes on once there is room."""

import resource
from pathlib import Path

import pytest

from lifeline.core.errors import NodeProcessError
from lifeline.core.paths import partition_dir
from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.cluster import Cluster, Member
from tests.support.chaos.traffic import Publisher
from tests.support.mounts import can_mount, small_disk, used

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]
_MIB = 1 << 20
_LITTLE = 100_000
_BATCHES = 60


def test_a_filesystem_without_room(
    tmp_path: Path, make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool
) -> None:
    if not can_mount(tmp_path / "probe"):
        pytest.skip("this user may not mount a filesystem: run the tests as root for that")
    disk = tmp_path / "disk"
    with small_disk(disk, 64 * _MIB) as resize:
        cluster = make_cluster(partitions=2)
        source = publisher(cluster.settings.kafka, first_seed)
        source.send(500)
        node = cluster.add("node-1", node__data_dir=disk / "data")
        node.start()
        cluster.check()
        resize(used(disk) + _LITTLE)
        until_it_pauses(source, node, "No space left on device")
        cluster.judge.read()
        cluster.stored(node.name)
        if is_long:
            # Killed, and started over the full disk, it opens no store and ends.
            node.kill()
            node.start()
            until_it_ends(cluster, source, node, "No space left on device")
            resize(256 * _MIB)
            node.start()
        else:
            resize(256 * _MIB)
        cluster.check()
        node.kill()


def test_files_that_may_not_grow(
    tmp_path: Path, make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool
) -> None:
    if not is_long and can_mount(tmp_path / "probe"):
        pytest.skip("a filesystem without room is enough for the short form: run make chaos for this one")
    cluster = make_cluster(partitions=2)
    source = publisher(cluster.settings.kafka, first_seed)
    source.send(500)
    node = cluster.add("node-1")
    node.start()
    cluster.check()
    log = max(
        file.stat().st_size for file in partition_dir(node.settings.node.data_dir, 0).parent.glob("partition-*/*.log")
    )
    limit = log + _LITTLE // 4
    resource.prlimit(node.process.pid, resource.RLIMIT_FSIZE, (limit, limit))
    until_it_ends(cluster, source, node, "File too large")
    node.start()
    cluster.check()


def until_it_pauses(source: Publisher, node: Member, why: str) -> None:
    """Publish until the node has paused a partition for the expected reason."""
    for _ in range(_BATCHES):
        source.send(500)
        node.look()
        if "paused" in node.states.values():
            break
    node.wait_for(lambda member: "paused" in member.states.values())
    pauses = [event for event in node.events if event.get("state") == "paused"]
    assert why in pauses[0]["why"]
    assert "a node then continues by itself" in pauses[0]["why"]


def until_it_ends(cluster: Cluster, source: Publisher, node: Member, why: str) -> None:
    """Publish until the node has ended, and judge what it has left."""

    def publish_on() -> None:
        for _ in range(_BATCHES):
            source.send(500)
            node.look()
        node.wait_for(lambda _: False, timeout_s=60)

    with pytest.raises(NodeProcessError, match=why) as caught:
        publish_on()
    # The last thing it says is a sentence that ends in what to do, and no traceback.
    last = str(caught.value).splitlines()[-1]
    assert last.startswith("error: ")
    assert any(advice in last for advice in ("then restart the node", "check the disk"))
    node.kill()
    cluster.judge.read()
    cluster.stored(node.name)
