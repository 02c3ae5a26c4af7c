"""The disk of a node is full: it ends and says so, answers nothing wrong, and goes on once there is room."""

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from lifeline.core.errors import NodeProcessError
from lifeline.core.paths import partition_dir
from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.cluster import Cluster, Member
from tests.support.chaos.traffic import Publisher

pytestmark = [pytest.mark.kafka, pytest.mark.chaos]
_MIB = 1 << 20
_LITTLE = 100_000
_BATCHES = 60


@contextmanager
def small_disk(path: Path, size: int) -> Iterator[Callable[[int], None]]:
    """Mount a filesystem of `size` bytes, and give what makes it another size; raises OSError where one may not."""
    path.mkdir(parents=True)
    mount("-t", "tmpfs", "-o", f"size={size}", "lifeline-chaos", str(path))
    try:
        yield lambda new: mount("-o", f"remount,size={new}", str(path))
    finally:
        subprocess.run(["umount", "--lazy", str(path)], check=True)


def can_mount(path: Path) -> bool:
    try:
        with small_disk(path, _MIB):
            return True
    except OSError:
        return False


def mount(*arguments: str) -> None:
    done = subprocess.run(["mount", *arguments], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(done.stderr.strip())


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
        until_it_ends(cluster, source, node, "No space left on device")
        if is_long:
            # Again, over the full disk.
            node.start()
            until_it_ends(cluster, source, node, "No space left on device")
        resize(64 * _MIB)
        node.start()
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


def used(path: Path) -> int:
    found = os.statvfs(path)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


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
