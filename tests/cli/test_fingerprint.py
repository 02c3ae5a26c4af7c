"""`lifeline fingerprint`: exit codes, tables and JSON."""

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app, main
from lifeline.core.paths import partition_dir
from lifeline.store.fingerprint import as_text
from tests.support.disk import damage, rewrite
from tests.support.factories import Event, Model, batch_of, open_store
from tests.support.inspected import ANN, SHAPE

EVENTS = [Event(b"ann", 100 * at, at % 3, 257) for at in range(60)] + [Event(b"cy", 5, 1, 257)]


def run(data: Path, *arguments: object) -> Result:
    return CliRunner().invoke(app, ["fingerprint", "--data-dir", str(data), *map(str, arguments)])


def build(data: Path, events: list[Event], *, offset: int = 40, partition: int = 0) -> Path:
    """Build one partition from events in this order, in batches of ten."""
    store = open_store(partition_dir(data, partition), SHAPE, partition=partition)
    batches = [events[at : at + 10] for at in range(0, len(events), 10)]
    for number, batch in enumerate(batches, 1 - len(batches)):
        store.apply(batch_of(batch), offset=offset + number)
    store.close()
    return data


def test_each_partition_is_a_row(tmp_path: Path) -> None:
    model = Model(SHAPE)
    model.apply(EVENTS)
    build(tmp_path, EVENTS)
    build(tmp_path, EVENTS[:5], partition=3)
    result = run(tmp_path)
    assert result.exit_code == 0, result.output
    assert as_text(model.fingerprint) in result.stdout
    partitions = json.loads(run(tmp_path, "--json").stdout)["partitions"]
    assert [each["partition"] for each in partitions] == [0, 3]
    assert partitions[0] == {
        "partition": 0,
        "applied_offset": 40,
        "events": model.events,
        "fingerprint": as_text(model.fingerprint),
        "recounted": None,
        "differs": False,
        "why": "",
    }
    assert [
        each["partition"] for each in json.loads(run(tmp_path, "--partition", 3, "--json").stdout)["partitions"]
    ] == [3]


def test_a_recount_that_differs_exits_with_3(tmp_path: Path) -> None:
    build(tmp_path, EVENTS)
    result = run(tmp_path, "--recount")
    assert result.exit_code == 0, result.output
    assert "recount equal" in result.stdout
    rewrite(partition_dir(tmp_path, 0), "rows", b"cy\xff\x00", None)
    result = run(tmp_path, "--recount")
    assert result.exit_code == 3
    assert "recount differs" in result.stdout
    assert "add up to" in result.stderr
    assert run(tmp_path).exit_code == 0


def test_what_cannot_be_read_exits_with_1(tmp_path: Path) -> None:
    build(tmp_path, EVENTS)
    damage(partition_dir(tmp_path, 0), "chunks", ANN, 45, 0xAA)
    assert run(tmp_path).exit_code == 0
    result = run(tmp_path, "--recount")
    assert result.exit_code == 1
    assert "checksum" in result.stderr


def test_copies_that_took_another_way_are_equal(tmp_path: Path) -> None:
    shuffled = random.Random(1).sample(EVENTS, len(EVENTS))
    here, there = build(tmp_path / "a", EVENTS), build(tmp_path / "b", shuffled)
    result = run(here, "--with", there, "--recount")
    assert result.exit_code == 0, result.output
    assert "equal" in result.stdout
    (pair,) = json.loads(run(here, "--with", there, "--json").stdout)["pairs"]
    assert (pair["likeness"], pair["here"]["fingerprint"]) == ("equal", pair["there"]["fingerprint"])


def test_equal_offsets_with_other_events_exit_with_3(tmp_path: Path) -> None:
    here, there = build(tmp_path / "a", EVENTS), build(tmp_path / "b", EVENTS[:-1])
    build(here, EVENTS[:3], partition=2)
    build(there, EVENTS[:3], partition=2)
    result = run(here, "--with", there)
    assert result.exit_code == 3
    assert "DIFFERENT" in result.stdout
    assert "partition 0: `lifeline verify`" in result.stderr
    assert run(here, "--with", there, "--partition", 2).exit_code == 0


def test_other_offsets_and_lone_partitions_are_said_and_no_difference(tmp_path: Path) -> None:
    here, there = build(tmp_path / "a", EVENTS), build(tmp_path / "b", EVENTS[:-1], offset=39)
    build(here, EVENTS[:3], partition=2)
    build(there, EVENTS[:3], partition=5)
    result = run(here, "--with", there)
    assert result.exit_code == 0, result.output
    for word in ("other offset", "only here", "only there"):
        assert word in result.stdout
    assert [each["likeness"] for each in json.loads(run(here, "--with", there, "--json").stdout)["pairs"]] == [
        "other offset",
        "only here",
        "only there",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--partition", "7"), "has no partition 7: it has 0"),
        (("--with", "nothing"), "nothing holds no partition"),
        (("--with", "DATA", "--partition", "7"), "has no partition 7"),
    ],
)
def test_what_is_not_there_exits_with_1(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    message: str,
) -> None:
    build(tmp_path, EVENTS)
    rest = [str(tmp_path) if each == "DATA" else each for each in arguments]
    monkeypatch.setattr("sys.argv", ["lifeline", "fingerprint", "--data-dir", str(tmp_path), *rest])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 1
    assert message in capfd.readouterr().err


def test_it_explains_itself() -> None:
    result = CliRunner().invoke(app, ["fingerprint", "--help"])
    assert result.exit_code == 0
    assert "--with" in result.output
