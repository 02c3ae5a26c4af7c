import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import parquet

from lifeline.core.vocabulary import Vocabulary
from lifeline.sources.files import SourceError, open_source
from lifeline.v1.action_pb2 import Action

VOCABULARY = Vocabulary()
BIG = (1 << 64) - 1
ROWS: list[dict[str, Any]] = [
    {"user_id": "ann", "item_id": BIG, "timestamp_ms": 5, "action_type": "click", "surface": "home"},
    {"user_id": "zoë", "item_id": 0, "timestamp_ms": 1, "action_type": 1, "surface": 3, "event_id": "e1"},
    {"user_id": "ann", "item_id": 7, "timestamp_ms": 6, "action_type": "hide", "surface": None},
]
ACTIONS = [
    Action(user_id="ann", item_id=BIG, timestamp_ms=5, action_type=2, surface=1),
    Action(user_id="zoë", item_id=0, timestamp_ms=1, action_type=1, surface=3, event_id="e1"),
    Action(user_id="ann", item_id=7, timestamp_ms=6, action_type=4, surface=0),
]
NAMES = ("event_id", "user_id", "item_id", "timestamp_ms", "action_type", "surface", "passed_over")


def _csv_text(rows: list[dict[str, Any]]) -> str:
    lines = [",".join("" if row.get(name) is None else str(row[name]) for name in NAMES) for row in rows]
    return "\n".join([",".join(NAMES), *lines]) + "\n"


def _write(path: Path, text: str) -> Path:
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())
    return path


def _file(directory: Path, name: str) -> Path:
    path = directory / name
    if name.endswith(".parquet"):
        table = pa.table(
            {
                "user_id": [row["user_id"] for row in ROWS],
                "item_id": pa.array([row["item_id"] for row in ROWS], pa.uint64()),
                "timestamp_ms": pa.array([row["timestamp_ms"] for row in ROWS], pa.timestamp("ms")),
                "action_type": [str(row["action_type"]) for row in ROWS],
                "surface": [None if row["surface"] is None else str(row["surface"]) for row in ROWS],
                "event_id": [row.get("event_id") for row in ROWS],
            }
        )
        parquet.write_table(table, path, row_group_size=2)
        return path
    return _write(path, _csv_text(ROWS) if ".csv" in name else "".join(json.dumps(row) + "\n" for row in ROWS))


@pytest.mark.parametrize("name", ["a.csv", "a.CSV", "a.csv.gz", "b.x.jsonl", "a.ndjson", "a.jsonl.gz", "a.parquet"])
def test_every_format_gives_the_same_actions_again_and_again(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name) if name != "a.CSV" else _write(tmp_path / name, _csv_text(ROWS))
    source = open_source(path, VOCABULARY)
    assert (source.name, source.total) == (name, 3)
    assert list(source) == ACTIONS
    assert list(source) == ACTIONS
    assert [action.HasField("event_id") for action in source] == [False, True, False]


def test_a_last_line_without_its_end_counts(tmp_path: Path) -> None:
    source = open_source(_write(tmp_path / "a.csv", _csv_text(ROWS).rstrip("\n")), VOCABULARY)
    assert (source.total, list(source)) == (3, ACTIONS)


@pytest.mark.parametrize("name", ["a.csv", "a.jsonl"])
def test_a_byte_order_mark_is_passed_over(tmp_path: Path, name: str) -> None:
    path = _file(tmp_path, name)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert list(open_source(path, VOCABULARY)) == ACTIONS


def test_a_csv_field_may_be_quoted(tmp_path: Path) -> None:
    text = 'user_id,item_id,timestamp_ms,action_type\n"a,\n""b""",1,2,click\n'
    (action,) = open_source(_write(tmp_path / "a.csv", text), VOCABULARY)
    assert action.user_id == 'a,\n"b"'


def test_a_name_stands_above_the_digits_of_an_id(tmp_path: Path) -> None:
    vocabulary = Vocabulary.model_validate({"action_types": {"2": {"id": 1}, "other": {"id": 2}}})
    text = "user_id,item_id,timestamp_ms,action_type\na,1,1,2\na,1,1,1\na,1,1,other\n"
    assert [a.action_type for a in open_source(_write(tmp_path / "a.csv", text), vocabulary)] == [1, 1, 2]


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("user_id", "", "user_id '': it has 0 bytes: give 1 to 256 bytes"),
        ("user_id", "é" * 129, "give 1 to 256 bytes of UTF-8"),
        ("item_id", -1, "item_id is '-1': give a whole number from 0 to 18446744073709551615"),
        ("item_id", BIG + 1, "give a whole number from 0 to"),
        ("item_id", "1.0", "give a whole number"),
        ("item_id", "9" * 5_000, "give a whole number"),
        ("timestamp_ms", "", "timestamp_ms is ''"),
        ("timestamp_ms", 0, "give a whole number from 1 to"),
        ("timestamp_ms", 4_102_444_800_001, "give a whole number from 1 to 4102444800000"),
        (
            "action_type",
            "like",
            "action_type 'like' is not in the vocabulary: correct it, or add it under [vocab",
        ),
        ("action_type", 0, "action_type '0' is not in the vocabulary"),
        ("surface", "moon", "surface 'moon' is not in the vocabulary"),
    ],
)
def test_a_bad_row_names_its_line_and_what_to_do(tmp_path: Path, field: str, value: object, message: str) -> None:
    path = _write(tmp_path / "a.csv", _csv_text([ROWS[0], ROWS[1] | {field: value}, ROWS[2]]))
    actions = iter(open_source(path, VOCABULARY))
    assert next(actions) == ACTIONS[0]
    with pytest.raises(SourceError) as caught:
        next(actions)
    assert str(caught.value).startswith(f"{path}, line 3: ")
    assert message in str(caught.value)


WRONG_FIELDS: list[dict[str, object]] = [
    {"action_type": True},
    {"action_type": [1]},
    {"item_id": 1.0},
    {"item_id": None},
    {"user_id": None},
    {"user_id": "\ud800"},
    {"surface": {}},
]


@pytest.mark.parametrize(
    "text",
    ["{", "[1]", '{"user_id": "a"}', *(json.dumps(ROWS[0] | wrong) for wrong in WRONG_FIELDS)],
)
def test_a_bad_json_line_names_its_line(tmp_path: Path, text: str) -> None:
    path = _write(tmp_path / "a.jsonl", f"{json.dumps(ROWS[0])}\n\n{text}\n")
    with pytest.raises(SourceError, match=r"a\.jsonl, line 3: .+: .+"):
        list(open_source(path, VOCABULARY))


def test_rows_of_another_width_are_an_error(tmp_path: Path) -> None:
    path = _write(tmp_path / "a.csv", "user_id,item_id,timestamp_ms,action_type\na,1,1\n")
    with pytest.raises(SourceError, match="line 2: the row has 3 fields and the header 4"):
        list(open_source(path, VOCABULARY))


@pytest.mark.parametrize("text", ["", "user_id,item_id,action_type\n", "\n"])
def test_a_missing_column_is_an_error(tmp_path: Path, text: str) -> None:
    with pytest.raises(SourceError, match=r"line 1: there is no .*timestamp_ms.*: name the columns"):
        list(open_source(_write(tmp_path / "a.csv", text), VOCABULARY))


def test_text_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(_csv_text(ROWS).encode("latin-1"))
    with pytest.raises(SourceError, match="save it as UTF-8"):
        list(open_source(path, VOCABULARY))


@pytest.mark.parametrize("cut", [0, 12, -3])
def test_a_broken_gzip_is_an_error(tmp_path: Path, cut: int) -> None:
    path = _file(tmp_path, "a.csv.gz")
    path.write_bytes(path.read_bytes()[:cut] or b"no gzip")
    with pytest.raises(SourceError, match=r"a\.csv\.gz is truncated or no gzip file"):
        list(open_source(path, VOCABULARY))


def test_a_broken_parquet_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"PAR1 nothing PAR1")
    with pytest.raises(SourceError, match=r"a\.parquet, its schema"):
        open_source(tmp_path / "a.parquet", VOCABULARY)
    parquet.write_table(pa.table({"user_id": ["a"]}), tmp_path / "b.parquet")
    with pytest.raises(SourceError, match="there is no item_id and no timestamp_ms"):
        open_source(tmp_path / "b.parquet", VOCABULARY)


def test_a_bad_parquet_row_names_its_row(tmp_path: Path) -> None:
    columns = {"user_id": ["a", "b"], "item_id": [1, -1], "timestamp_ms": [1, 1], "action_type": [1, 1]}
    parquet.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(SourceError, match="row 2: item_id is -1"):
        list(open_source(tmp_path / "a.parquet", VOCABULARY))


def test_without_pyarrow_parquet_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _file(tmp_path, "a.parquet")
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(SourceError, match=r"needs pyarrow: run `pip install 'lifeline-store\[all\]'`"):
        open_source(path, VOCABULARY)


@pytest.mark.parametrize("name", ["a.txt", "a", "a.gz", "a.parquet.gz"])
def test_an_unknown_format_lists_the_known_ones(tmp_path: Path, name: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(SourceError, match=r"an unknown format: name a \.csv"):
        open_source(tmp_path / name, VOCABULARY)


def test_a_file_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="is not a file"):
        open_source(tmp_path / "a.csv", VOCABULARY)
