"""`lifeline snapshot`: into a URL and back, without a node."""

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.core.errors import DataDirError
from lifeline.core.paths import partition_dir
from lifeline.ops.topic_note import TopicIdentity
from lifeline.store.data_lock import data_dir_lock
from lifeline.store.errors import SnapshotError, SnapshotRefusedError, StoreLockedError
from lifeline.store.fingerprint import as_text
from lifeline.store.settings import StoreSettings
from lifeline.store.state import State
from lifeline.v1 import operator_pb2, operator_pb2_grpc
from tests.support.factories import open_follower, open_store
from tests.support.operators import Operators
from tests.support.snapshots import fill

SETTINGS = StoreSettings()


class Copying(Operators):
    """A node that makes snapshots of what it is asked for."""

    def CreateSnapshot(  # noqa: N802
        self,
        request: operator_pb2.CreateSnapshotRequest,
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> operator_pb2.CreateSnapshotResponse:
        snapshots = [
            operator_pb2.PartitionSnapshot(partition=number, snapshot_id="41-now", total_bytes=3 << 20)
            for number in request.partitions or [0]
        ]
        return operator_pb2.CreateSnapshotResponse(snapshots=snapshots)


@pytest.fixture
def node() -> Iterator[str]:
    server = grpc.server(ThreadPoolExecutor(2))
    operator_pb2_grpc.add_OperatorServiceServicer_to_server(Copying(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield f"127.0.0.1:{port}"
    server.stop(0).wait()


@pytest.fixture
def states(tmp_path: Path) -> dict[int, State]:
    """Partitions 0 and 2 in `tmp_path`/data, and their states."""
    states = {}
    (tmp_path / "data").mkdir(0o700)
    for number in (0, 2):
        store = open_store(partition_dir(tmp_path / "data", number), SETTINGS, partition=number)
        fill(store, range(10 + number))
        states[number] = store.state
        store.close()
    return states


@pytest.fixture
def url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The configured URL."""
    configured = f"file://{tmp_path}/snapshots"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LIFELINE_SNAPSHOT__URL", configured)
    return configured


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, ["snapshot", *map(str, arguments)])


def answer(*arguments: object) -> Any:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return json.loads(result.stdout)


def test_a_directory_goes_and_comes_back(tmp_path: Path, states: dict[int, State], url: str) -> None:
    created = answer("create", "--offline")
    assert [(copy["partition"], copy["applied_offset"], copy["fingerprint"]) for copy in created] == [
        (number, state.applied_offset, as_text(state.fingerprint)) for number, state in states.items()
    ]
    listed = answer("list", "--url", url)
    assert [(copy["partition"], copy["id"], copy["refused"]) for copy in listed] == [
        (copy["partition"], copy["id"], None) for copy in created
    ]
    assert listed[0]["manifest"]["topic"] == "actions"
    assert "files" not in listed[0]["manifest"]
    restored = answer("restore", "--data-dir", tmp_path / "back")
    assert [(copy["partition"], copy["id"], copy["verified"]) for copy in restored] == [
        (copy["partition"], copy["id"], True) for copy in created
    ]
    for number, state in states.items():
        back = open_follower(partition_dir(tmp_path / "back", number), partition=number)
        assert back.state == state
        back.close()


def test_the_topic_that_partitions_come_from_stays_known(tmp_path: Path, states: dict[int, State], url: str) -> None:
    del states, url
    first, second = TopicIdentity("actions", "id-1", 4), TopicIdentity("actions", "id-2", 4)
    first.check(tmp_path / "data")
    assert {copy["partition"] for copy in answer("create", "--offline")} == {0, 2}
    answer("restore", "--partition", "0", "--data-dir", tmp_path / "back")
    with pytest.raises(DataDirError, match="the topic was created again"):
        second.check(tmp_path / "back")
    answer("restore", "--partition", "2", "--data-dir", tmp_path / "back")
    (tmp_path / "new").mkdir(0o700)
    second.check(tmp_path / "new")
    refused = run("restore", "--data-dir", tmp_path / "new")
    assert isinstance(refused.exception, SnapshotRefusedError)
    assert "an earlier topic actions with the id id-1" in str(refused.exception)


def test_people_get_tables(tmp_path: Path, states: dict[int, State], url: str) -> None:
    assert "no snapshots at" in run("list").stdout
    created = run("create", "--offline", "--partition", "2")
    assert created.exit_code == 0
    assert f"{states[2].events:,}" in created.stdout
    assert "intact" in run("list").stdout
    restored = run("restore", "--data-dir", tmp_path / "back", "--no-verify")
    assert as_text(states[2].fingerprint)[:16] in restored.stdout
    for file in (tmp_path / "snapshots" / "partition-00002" / "files").iterdir():
        file.unlink()
    assert "REFUSED" in run("list", "--partition", "2").stdout
    assert "no snapshots at" in run("list", "--partition", "0", "--url", url).stdout


def test_one_partition_and_one_snapshot_can_be_named(tmp_path: Path, states: dict[int, State], url: str) -> None:
    del states, url
    first = answer("create", "--offline", "--partition", "2", "--partition", "2")
    assert [copy["partition"] for copy in first] == [2]
    answer("create", "--offline")
    restored = answer(
        "restore", "--partition", "2", "--snapshot", first[0]["id"], "--data-dir", tmp_path / "back", "--no-verify"
    )
    assert [(copy["partition"], copy["id"], copy["verified"]) for copy in restored] == [(2, first[0]["id"], False)]
    assert not partition_dir(tmp_path / "back", 0).exists()


def test_a_running_node_is_asked(node: str, url: str) -> None:
    del url
    created = answer("create", "--address", node, "--partition", "3", "--partition", "1")
    assert [copy["partition"] for copy in created] == [3, 1]
    assert "3.0 MiB" in run("create", "--address", node).stdout


@pytest.mark.parametrize(
    "arguments",
    [
        ("create", "--url", "memory://x"),
        ("create", "--data-dir", "data"),
        ("create", "--offline", "--address", "127.0.0.1:1"),
        ("create", "--offline", "--partition", "-1"),
        ("restore", "--snapshot", "x"),
        ("restore", "--snapshot", "x", "--partition", "1", "--partition", "2"),
    ],
)
def test_what_does_not_go_together_is_wrong_use(arguments: tuple[str, ...]) -> None:
    assert run(*arguments).exit_code == 2


def refused(*arguments: object) -> str:
    result = run(*arguments)
    assert isinstance(result.exception, SnapshotError | StoreLockedError), result.exception
    return str(result.exception)


def test_a_directory_that_a_node_holds_is_let_be(tmp_path: Path, states: dict[int, State], url: str) -> None:
    del url
    answer("create", "--offline")
    with data_dir_lock(tmp_path / "data"):
        assert "in use by a running node" in refused("create", "--offline")
        assert "in use by a running node" in refused("restore")
    assert "is not empty, and a restore overwrites nothing" in refused("restore")
    assert sorted(states) == [copy["partition"] for copy in answer("list")]


def test_what_is_not_there_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("LIFELINE_SNAPSHOT__URL", raising=False)
    assert "no URL for snapshots is configured" in refused("list")
    assert "holds no partition: name the node's directory" in refused("create", "--offline", "--url", "memory://none")
    assert "has no snapshots: create one" in refused("restore", "--url", "memory://none")


def test_a_partition_that_is_not_there_is_said(states: dict[int, State], url: str) -> None:
    del states, url
    assert "has no partition 1, 7: it has 0, 2" in refused(
        "create", "--offline", "--partition", "7", "--partition", "1"
    )
    answer("create", "--offline")
    assert "has no partition 5: it has 0, 2" in refused("restore", "--partition", "5")


def test_a_tampered_snapshot_is_refused_and_leaves_nothing(tmp_path: Path, states: dict[int, State], url: str) -> None:
    del states, url
    (created,) = answer("create", "--offline", "--partition", "2")
    manifest = tmp_path / "snapshots" / "partition-00002" / "manifests" / f"{created['id']}.json"
    manifest.write_text(manifest.read_text().replace('"applied_offset": 11', '"applied_offset": 12'))
    result = run("restore", "--data-dir", tmp_path / "back")
    assert isinstance(result.exception, SnapshotRefusedError)
    assert "the checksum does not match" in str(result.exception)
    assert [path.name for path in (tmp_path / "back").iterdir()] == ["node.lock"]
