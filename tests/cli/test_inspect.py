"""`lifeline inspect`: what it shows, beside a node that writes, and what it says of broken records."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app, main
from lifeline.core.actions import Kind
from lifeline.core.paths import partition_dir
from lifeline.store.reader import SequenceReader
from tests.support.disk import damage, record
from tests.support.factories import EVERYTHING, Event, batch_of, open_store
from tests.support.inspected import ANN, SHAPE, filled


def run(data: Path, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["inspect", "--data-dir", str(data), *arguments])


def shown(data: Path, *arguments: str, code: int = 0) -> Any:
    result = run(data, *arguments, "--json")
    assert result.exit_code == code, result.output
    return json.loads(result.stdout)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory with one partition."""
    filled(partition_dir(tmp_path, 0))
    return tmp_path


@pytest.fixture
def two(data: Path) -> Path:
    """A data directory with two partitions; dee is in the second one."""
    store = open_store(partition_dir(data, 3), SHAPE)
    store.apply(batch_of([Event(b"dee", 1_000 * at, at, 257) for at in range(30)]), offset=9)
    store.close()
    return data


def complaint(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], *arguments: object) -> str:
    monkeypatch.setattr("sys.argv", ["lifeline", "inspect", *map(str, arguments)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    stderr = capfd.readouterr().err
    assert "Traceback" not in stderr
    return stderr


def test_one_partition_is_shown_in_all_its_parts(data: Path) -> None:
    result = run(data)
    assert result.exit_code == 0, result.output
    for part in (
        "Partition 0",
        "Sequences",
        "Bytes by kind of record",
        "than 18",
        "Files",
        "Timestamps of chunks",
        "Events per sequence: explicit",
        "Events per sequence: impression",
        "Events per chunk",
        "Largest users",
        "RocksDB",
        "█",
    ):
        assert part in result.stdout
    assert "BROKEN" not in result.stdout
    (inspection,) = shown(data)["partitions"]
    assert (inspection["partition"], inspection["users"], inspection["items"], inspection["state"]["events"]) == (
        0,
        3,
        4,
        53,
    )
    assert inspection["kinds"]["explicit"]["events"] == 47
    assert inspection["contract"]["max_explicit"] == SHAPE.max_explicit
    assert [each["user"] for each in inspection["largest"]] == ["ann", "bob", "cy"]
    assert len(inspection["state"]["fingerprint"]) == 32
    assert sum(each["values"] for each in inspection["kinds"]["explicit"]["events_per_sequence"]) == 3
    assert [each["user"] for each in shown(data, "--top", "1")["partitions"][0]["largest"]] == ["ann"]


def test_many_partitions_are_a_row_each(two: Path) -> None:
    result = run(two)
    assert result.exit_code == 0, result.output
    assert "Partitions" in result.stdout
    assert "Largest users" not in result.stdout
    assert [each["partition"] for each in shown(two)["partitions"]] == [0, 3]
    assert "Partition 3" in run(two, "--partition", "3").stdout
    assert [each["users"] for each in shown(two, "--partition", "3")["partitions"]] == [1]


def test_a_user_is_found_in_the_partition_that_has_it(two: Path) -> None:
    result = run(two, "--user", "dee")
    assert result.exit_code == 0, result.output
    assert "dee: explicit (partition 3, offset 9)" in result.stdout
    assert "head: sealed" in result.stdout
    assert "Segments" in result.stdout
    assert "Chunks" in result.stdout
    inspection = shown(two, "--user", "bob")
    assert inspection["as_of"]["partition"] == 0
    assert [(each["kind"], each["events"]) for each in inspection["sequences"]] == [("explicit", 6), ("impression", 6)]
    assert [each["kind"] for each in shown(two, "--user", "bob", "--kind", "impression")["sequences"]] == ["impression"]


def test_a_chunk_is_shown_by_number_and_by_fence(data: Path) -> None:
    (sequence,) = shown(data, "--user", "ann")["sequences"]
    second = sequence["chunks"][1]
    fence = "-".join(str(second["fence"][name]) for name in ("timestamp_ms", "item_id", "code"))
    by_number, by_fence = (shown(data, "--user", "ann", "--chunk", chunk) for chunk in ("1", fence))
    assert by_number == by_fence
    assert by_number["chunk"] == second
    times = [each["timestamp_ms"] for each in by_number["events"]]
    assert (times[0], times[-1]) == (second["first_timestamp_ms"], second["last_timestamp_ms"])
    assert by_number["events"][0]["action_type"] == "repin"
    result = run(data, "--user", "ann", "--chunk", "0")
    assert result.exit_code == 0, result.output
    for part in ("checksum", "correct", "ratio", "trimmed", "repin"):
        assert part in result.stdout


def test_only_the_ends_of_a_long_chunk_are_shown_without_all(tmp_path: Path) -> None:
    store = open_store(
        partition_dir(tmp_path, 0),
        SHAPE.model_copy(update={"chunk_events": 64, "keep_unsealed": 64, "max_explicit": 5_000}),
    )
    store.apply(batch_of([Event(b"ann", 1_000 * at, at, 257) for at in range(1_000)]), offset=0)
    store.close()
    assert len(shown(tmp_path, "--user", "ann", "--chunk", "0")["events"]) == 10
    assert [each["number"] for each in shown(tmp_path, "--user", "ann", "--chunk", "0", "--all")["events"]] == [
        *range(64)
    ]
    assert "--all shows all" in run(tmp_path, "--user", "ann", "--chunk", "0").stdout
    assert "4 more with --all" in run(tmp_path, "--user", "ann").stdout
    assert "more with --all" not in run(tmp_path, "--user", "ann", "--all").stdout


def test_it_looks_beside_a_writer(data: Path) -> None:
    store = open_store(partition_dir(data, 0), SHAPE, partition=0)
    store.apply(batch_of([Event(b"new", 1, 1, 257)]), offset=store.applied_offset + 1)
    (sequence,) = shown(data, "--user", "new")["sequences"]
    assert sequence["events"] == 1
    assert shown(data)["partitions"][0]["state"]["applied_offset"] == store.applied_offset
    read = SequenceReader(store).read("ann", EVERYTHING).sequences[Kind.EXPLICIT]
    assert shown(data, "--user", "ann")["sequences"][0]["events"] == read.length
    store.close()


def test_a_broken_chunk_is_named_and_the_rest_is_shown(data: Path) -> None:
    damage(partition_dir(data, 0), "chunks", ANN, 45, 0xAA)
    result = run(data)
    assert result.exit_code == 1
    assert "BROKEN" in result.stdout
    assert "checksum" in result.stdout
    assert "Largest users" in result.stdout
    (inspection,) = shown(data, code=1)["partitions"]
    assert inspection["users"] == 3
    assert inspection["damaged"] >= 1
    assert inspection["damages"][0]["user"] == "ann"
    user = run(data, "--user", "ann")
    assert user.exit_code == 1
    assert "broken" in user.stdout
    detail = shown(data, "--user", "ann", "--chunk", "0", code=1)
    assert detail["events"] is None
    assert not detail["chunk"]["intact"]
    assert "BROKEN: see below" in run(data, "--user", "ann", "--chunk", "0").stdout
    assert shown(data, "--user", "bob")["damages"] == []


def test_a_partition_that_does_not_open_does_not_hide_the_others(two: Path) -> None:
    damage(partition_dir(two, 3), "meta", b"S", 0, 9)
    inspection = shown(two, code=1)
    assert [each["partition"] for each in inspection["partitions"]] == [0]
    assert "has format 9" in inspection["unreadable"]["3"]
    result = run(two)
    assert result.exit_code == 1
    assert "has format 9" in result.stderr
    assert shown(two, "--user", "ann")["sequences"]


def test_what_is_not_there_is_said_in_a_sentence(
    two: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    where = ("--data-dir", two)
    assert "has no partition 5: it has 0, 3" in complaint(monkeypatch, capfd, *where, "--partition", 5)
    assert "'Ann' is not in any partition of" in complaint(monkeypatch, capfd, *where, "--user", "Ann")
    assert "'ann' is not in partition 3" in complaint(monkeypatch, capfd, *where, "--user", "ann", "--partition", 3)
    assert "no impression events" in complaint(monkeypatch, capfd, *where, "--user", "ann", "--kind", "impression")
    assert "no chunk 99 in" in complaint(monkeypatch, capfd, *where, "--user", "ann", "--chunk", 99)
    assert "holds no partition" in complaint(monkeypatch, capfd, "--data-dir", two / "nothing")
    key, _ = record(partition_dir(two, 3), "meta", b"S")
    damage(partition_dir(two, 3), "meta", key, 0, 9)
    stderr = complaint(monkeypatch, capfd, *where, "--user", "zoe")
    assert "partition 3 cannot be read" in stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--kind", "explicit"),
        ("--chunk", "1"),
        ("--user", "u", "--kind", "x"),
        ("--user", "u", "--chunk", "x"),
        ("--top", "-1"),
    ],
)
def test_wrong_use_exits_with_2(data: Path, arguments: tuple[str, ...]) -> None:
    assert run(data, *arguments).exit_code == 2


def test_it_explains_itself() -> None:
    result = CliRunner().invoke(app, ["inspect", "--help"])
    assert result.exit_code == 0
    assert "largest users" in result.output
