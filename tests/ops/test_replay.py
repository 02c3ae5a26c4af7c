"""The plan of a replay: it opens every partition read-only, and a dry run changes nothing on the disk."""

import json
from pathlib import Path

import pytest
from rocksdict import Options, Rdict
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.core.errors import ReplayError
from lifeline.core.kafka_settings import KafkaSettings
from lifeline.core.paths import items_dir, partition_dir
from lifeline.core.topics import create_topics
from lifeline.core.vocabulary import Vocabulary
from lifeline.dev.node_process import settings_for, write_settings
from lifeline.ops.replay import NOTE, plan_replay
from lifeline.producer.producer import LifelineProducer
from lifeline.store import keys
from lifeline.store.data_lock import SWAP_JOURNAL
from lifeline.store.erasure import Scrubber
from lifeline.store.errors import RetentionPolicyError
from lifeline.store.settings import StoreSettings
from lifeline.store.state import State
from lifeline.v1.action_pb2 import Action
from tests.support.factories import ANN, batch_of, open_store, tiny

pytestmark = pytest.mark.kafka
BINDING_FILE = "rocksdict-config.json"
"""The RocksDB binding rewrites it with the same bytes whenever it opens a database, also read-only."""


@pytest.fixture
def topics(kafka_settings: KafkaSettings) -> KafkaSettings:
    """Topics of one partition with ten records."""
    kafka = kafka_settings.model_copy(update={"partitions": 1})
    create_topics(kafka)
    with LifelineProducer(kafka) as producer:
        for timestamp_ms in range(10):
            producer.publish(Action(user_id="ann", item_id=1, timestamp_ms=1 + timestamp_ms, action_type=1))
    return kafka


def write_partition(directory: Path, *, offset: int = 4) -> None:
    """Write a partition with an erasure that was not scrubbed yet, as a kill leaves it."""
    path = partition_dir(directory, 0)
    store = open_store(path, StoreSettings(), partition=0)
    store.apply(batch_of(ANN), offset=offset)
    store.close()
    families = {name: Options(raw_mode=True) for name in ("rows", "chunks", "meta")}
    db = Rdict(str(path), Options(raw_mode=True), families)
    meta = db.get_column_family("meta")
    meta[keys.erasure_key(b"bob", 3)] = b""
    meta.close()
    db.close()


def files(directory: Path) -> dict[str, tuple[int, bytes]]:
    """Return the time of the last change, and the bytes, of every file and directory."""
    return {
        str(path.relative_to(directory)): (
            0 if path.name == BINDING_FILE else path.stat().st_mtime_ns,
            path.read_bytes() if path.is_file() else b"",
        )
        for path in directory.rglob("*")
    }


@pytest.fixture
def config(tmp_path: Path, topics: KafkaSettings) -> Path:
    """A configuration whose node has a partition in `data`, beside an earlier replay in `into`; both to be scrubbed."""
    flags = {"kafka.actions_topic": topics.actions_topic, "kafka.partitions": 1}
    settings = settings_for(topics.bootstrap_servers, tmp_path, Vocabulary(), flags=flags)
    path = tmp_path / "lifeline.toml"
    write_settings(path, settings)
    write_partition(tmp_path / "data", offset=8)
    write_partition(tmp_path / "into", offset=4)
    (tmp_path / "into" / NOTE).write_text(json.dumps({"topic": topics.actions_topic}))
    return path


def dry_run(config: Path, *arguments: str) -> Result:
    into = config.parent / "into"
    return CliRunner().invoke(
        app, ["replay", "--into", str(into), "--dry-run", "--json", "--config", str(config), *arguments]
    )


@pytest.mark.parametrize(("arguments", "until"), [((), 9), (("--verify",), 8), (("--swap",), 9)])
def test_a_dry_run_changes_no_file_and_starts_no_scrub(
    tmp_path: Path, config: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], until: int
) -> None:
    scrubs: list[Scrubber] = []

    def record(scrubber: Scrubber) -> None:
        scrubs.append(scrubber)

    monkeypatch.setattr(Scrubber, "request", record)
    before = files(tmp_path)
    result = dry_run(config, *arguments)
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == [{"partition": 0, "start": 5, "until": until, "records": until - 4}]
    assert files(tmp_path) == before
    assert not scrubs
    # The erasure is still pending: whoever opens the partition to write it finishes the scrub.
    open_store(partition_dir(tmp_path / "into", 0), StoreSettings(), partition=0).close()
    assert len(scrubs) == 1


def test_a_dry_run_does_not_finish_an_interrupted_swap(tmp_path: Path, config: Path) -> None:
    journal = {"into": str(tmp_path / "into"), "partitions": [0], "stamp": "20260101T000000Z"}
    (tmp_path / "data" / SWAP_JOURNAL).write_text(json.dumps(journal))
    before = files(tmp_path)
    result = dry_run(config, "--swap")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == []
    assert "without --dry-run this command finishes it" in result.stderr
    assert files(tmp_path) == before


def test_a_directory_without_a_whole_store_is_replayed_from_the_start(tmp_path: Path, topics: KafkaSettings) -> None:
    settings = settings_for(topics.bootstrap_servers, tmp_path, Vocabulary())
    settings = settings.model_copy(update={"kafka": topics})
    into = tmp_path / "into"
    path = partition_dir(into, 0)
    path.mkdir(parents=True)
    (into / NOTE).write_text(json.dumps({"topic": topics.actions_topic}))
    assert plan_replay(settings, into) == [(0, 0, 9)]
    # A process that was killed while it created the column families.
    options = Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    Rdict(str(path), options, {"rows": Options(raw_mode=True)}).close()
    assert plan_replay(settings, into) == [(0, 0, 9)]


def cli(*arguments: object) -> Result:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    assert result.exit_code == 0, result.output
    return result


def applied_state(directory: Path) -> State:
    store = open_store(partition_dir(directory, 0), StoreSettings(), partition=0)
    try:
        return store.state
    finally:
        store.close()


def test_a_replay_continues_from_a_restored_snapshot(tmp_path: Path, topics: KafkaSettings) -> None:
    flags = {
        "kafka.actions_topic": topics.actions_topic,
        "kafka.partitions": 1,
        "snapshot.url": f"file://{tmp_path}/snapshots",
    }
    settings = settings_for(topics.bootstrap_servers, tmp_path, Vocabulary(), flags=flags)
    config = tmp_path / "lifeline.toml"
    write_settings(config, settings)
    cli("replay", "--into", tmp_path / "early", "--to-offset", 5, "--config", config)
    cli("snapshot", "create", "--offline", "--data-dir", tmp_path / "early", "--config", config)
    restored = tmp_path / "restored"
    cli("snapshot", "restore", "--data-dir", restored, "--config", config)
    assert plan_replay(settings, restored) == [(0, 6, 9)]
    # --force would remove what no replay made.
    with pytest.raises(ReplayError, match="without --force"):
        plan_replay(settings, restored, force=True)
    with pytest.raises(ReplayError, match=r"at offset 5, after 3: name a later end, or another directory$"):
        plan_replay(settings, restored, to_offset=3)
    cli("replay", "--into", restored, "--config", config)
    cli("replay", "--into", tmp_path / "whole", "--config", config)
    assert applied_state(restored) == applied_state(tmp_path / "whole")
    assert applied_state(restored).applied_offset == 9


def test_a_replay_leaves_the_directory_of_another_node_alone(tmp_path: Path, topics: KafkaSettings) -> None:
    settings = settings_for(topics.bootstrap_servers, tmp_path, Vocabulary()).model_copy(update={"kafka": topics})
    other = tmp_path / "other"
    write_partition(other)
    items_dir(other).mkdir()
    with pytest.raises(ReplayError, match="items, which no replay made"):
        plan_replay(settings, other)


def test_a_plan_refuses_other_caps_and_partitions_that_the_topic_lacks(tmp_path: Path, topics: KafkaSettings) -> None:
    settings = settings_for(topics.bootstrap_servers, tmp_path, Vocabulary()).model_copy(update={"kafka": topics})
    write_partition(tmp_path / "into")
    (tmp_path / "into" / NOTE).write_text(json.dumps({"topic": topics.actions_topic}))
    with pytest.raises(RetentionPolicyError):
        plan_replay(settings.model_copy(update={"store": tiny()}), tmp_path / "into")
    with pytest.raises(ReplayError, match=r"partition 7 is on disk, but topic .* has only 1"):
        plan_replay(settings, tmp_path / "into", to_state={7: 3})
