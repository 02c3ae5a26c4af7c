"""Files that are cut short or gone: a store recovers what is whole, or says what is wrong; it never answers wrongly."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import NamedTuple

import pytest

from lifeline.config import Settings
from lifeline.core.errors import NodeProcessError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.paths import partition_dir
from lifeline.store.errors import StoreError
from lifeline.store.memory import SharedMemory
from lifeline.store.partition import PartitionStore
from lifeline.store.recount import recount
from lifeline.store.settings import StoreSettings
from lifeline.stream.apply import apply_steps
from lifeline.stream.decode import Rules, decode
from tests.chaos.conftest import ClusterMaker, PublisherMaker
from tests.support.chaos.cluster import TINY
from tests.support.chaos.judge import Law, PartitionJudge, Verdict
from tests.support.chaos.logged import Logged
from tests.support.chaos.traffic import traffic

pytestmark = pytest.mark.chaos
FLUSHED, APPLIED, BATCH = 2_000, 3_000, 25
SETTINGS = Settings(kafka=KafkaSettings(partitions=1), store=StoreSettings.model_validate(TINY))
RECORDS = [
    Logged(offset, sent.key, sent.value)
    for offset, sent in enumerate(
        # An erasure flushes in a thread of its own: behind the flush there is none, so that one log has it all.
        itertools.islice((sent for at, sent in enumerate(traffic(7, 1)) if at < FLUSHED or sent.value), APPLIED)
    )
]
RULES = Rules.of(SETTINGS.vocabulary, 1, SETTINGS.updater)
MEMORY = SharedMemory(SETTINGS.store)


class Crashed(NamedTuple):
    """What a crash left of a store that had flushed a part of what it had applied."""

    path: Path
    judge: PartitionJudge


@pytest.fixture(scope="module")
def crashed(tmp_path_factory: pytest.TempPathFactory) -> Crashed:
    path = tmp_path_factory.mktemp("crashed") / "store"
    judge = PartitionJudge(Law.of(SETTINGS), 0)
    for record in RECORDS:
        judge.take(record)
    script = f"from tests.chaos.test_truncated import crash; crash({str(path)!r})"
    done = subprocess.run([sys.executable, "-c", script], timeout=120, check=False)
    assert done.returncode == -signal.SIGKILL
    assert {".log", ".sst"} <= {file.suffix for file in path.iterdir()}
    return Crashed(path, judge)


def crash(path: str) -> None:
    """Flush a part of what is applied, apply the rest, and die."""
    store = open_store(Path(path))
    apply(store, RECORDS[:FLUSHED])
    assert store.wait_scrubbed(60)
    store.compact()
    apply(store, RECORDS[FLUSHED:])
    os.kill(os.getpid(), signal.SIGKILL)


def open_store(path: Path) -> PartitionStore:
    return PartitionStore.open(path, partition=0, settings=SETTINGS.store, memory=MEMORY)


def apply(store: PartitionStore, records: list[Logged]) -> None:
    for at in range(0, len(records), BATCH):
        apply_steps(store, decode(records[at : at + BATCH], RULES).steps)


CUTS: dict[str, Callable[[int], int | None]] = {
    "is gone": lambda _: None,
    "is empty": lambda _: 0,
    "lacks its last byte": lambda size: size - 1,
    "ends in the middle": lambda size: size // 2,
}
FILES = {"WAL": "*.log", "SST": "*.sst", "CURRENT": "CURRENT", "MANIFEST": "MANIFEST-*"}


def cut(path: Path, size: int | None) -> None:
    if size is None:
        path.unlink()
    else:
        with path.open("r+b") as file:
            file.truncate(size)


@pytest.mark.parametrize("how", CUTS)
@pytest.mark.parametrize("what", FILES)
def test_a_file_that_is_cut(tmp_path: Path, crashed: Crashed, what: str, how: str) -> None:
    for number, name in enumerate(sorted(file.name for file in crashed.path.glob(FILES[what]))):
        path = tmp_path / str(number)
        shutil.copytree(crashed.path, path)
        cut(path / name, CUTS[how]((path / name).stat().st_size))
        judged(path, crashed, f"{name} {how}")


def test_a_log_that_is_cut_anywhere(tmp_path: Path, crashed: Crashed, is_long: bool) -> None:
    rng = random.Random(5)
    log = max(crashed.path.glob("*.log"))
    size = log.stat().st_size
    reached = set()
    for number, at in enumerate(sorted(rng.sample(range(size), 300 if is_long else 10))):
        path = tmp_path / str(number)
        shutil.copytree(crashed.path, path)
        cut(path / log.name, at)
        reached.add(judged(path, crashed, f"{log.name} is cut at {at}"))
        shutil.rmtree(path)
    # It loses what was behind the cut and no more: the log of actions gives it again.
    assert reached <= set(range(FLUSHED - 1, APPLIED))
    assert len(reached) > 5


def test_tables_without_what_names_them_are_not_taken_for_a_new_store(tmp_path: Path, crashed: Crashed) -> None:
    path = tmp_path / "copy"
    shutil.copytree(crashed.path, path)
    for file in (path / "CURRENT", *path.glob("*.log")):
        file.unlink()
    before = {file.name for file in path.glob("*.sst")}
    assert judged(path, crashed, "CURRENT and the WALs are gone") is None
    assert {file.name for file in path.glob("*.sst")} == before


def judged(path: Path, crashed: Crashed, damage: str) -> int | None:
    """Return the offset that a damaged store has come back with; None where it refuses."""
    try:
        store = open_store(path)
    except StoreError as error:
        check_advice(damage, error)
        return None
    with closing(store):
        found = store.applied_offset
        assert found >= FLUSHED - 1, f"{damage}: the store has forgotten what it had flushed, and says nothing"
        try:
            recounted = Verdict(*recount(store))
            apply(store, RECORDS[found + 1 :])
            in_the_end = Verdict(*recount(store))
        except StoreError as error:
            check_advice(damage, error)
            return None
        assert recounted == crashed.judge.at(found), damage
        assert in_the_end == (store.state.events, store.fingerprint) == crashed.judge.at(APPLIED), damage
        return found


def check_advice(damage: str, error: StoreError) -> None:
    assert "aside" in str(error) or "restart the node" in str(error), f"{damage}: {error}"


@pytest.mark.kafka
@pytest.mark.parametrize("what", ["WAL", "SST", "CURRENT"])
def test_a_node_over_a_file_that_is_cut(
    make_cluster: ClusterMaker, publisher: PublisherMaker, first_seed: int, is_long: bool, what: str
) -> None:
    if not is_long:
        pytest.skip("what the store does is above; that a node passes it on is in the long form: run make chaos")
    cluster = make_cluster(partitions=1)
    source = publisher(cluster.settings.kafka, first_seed)
    source.send(6_000)
    node = cluster.add("node-1")
    node.start()
    cluster.check()
    # A graceful stop makes tables of what a killed node would have had in its log alone.
    node.terminate()
    node.wait_ended()
    node.start()
    cluster.check()
    source.send(500)
    cluster.check()
    node.kill()
    path = partition_dir(node.settings.node.data_dir, 0)
    largest = max(path.glob(FILES[what]), key=lambda file: file.stat().st_size)
    cut(largest, largest.stat().st_size // 2)
    node.start()
    if what == "WAL":
        cluster.check()
        return
    with pytest.raises(NodeProcessError, match="set the directory aside to rebuild it from the topic"):
        cluster.check()
    path.rename(path.with_name("aside"))
    node.start()
    cluster.check()
