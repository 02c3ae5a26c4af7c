"""Reads actions from files, for ``lifeline produce``.

The formats are CSV and JSON Lines, both also gzipped, and Parquet. The columns are user_id, item_id, timestamp_ms and
action_type (a name or an id). The columns surface (a name or an id) and event_id are optional; others are ignored.
"""

import csv
import gzip
import io
import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from lifeline import INSTALL
from lifeline.core.actions import MAX_TIMESTAMP_MS
from lifeline.core.errors import ActionableError
from lifeline.core.user_ids import InvalidUserIdError, encode_user_id
from lifeline.core.vocabulary import Vocabulary
from lifeline.v1.action_pb2 import Action

REQUIRED = ("user_id", "item_id", "timestamp_ms", "action_type")
COLUMNS = (*REQUIRED, "surface", "event_id")
FORMATS = ".csv, .csv.gz, .jsonl, .jsonl.gz, .ndjson, .ndjson.gz or .parquet"
MAX_ITEM_ID = (1 << 64) - 1


class SourceError(ActionableError):
    """A source cannot be read; the message names the file, the line, and what to do."""


@dataclass(frozen=True, slots=True)
class Source:
    """A stream of actions that can be read repeatedly, each time from its start.

    `total` is the number of actions, for a progress bar. It is None if unknown before reading, and too high if a text
    file has blank lines, or fields with line breaks. Reading raises SourceError.
    """

    name: str
    total: int | None
    read: Callable[[], Iterator[Action]]

    def __iter__(self) -> Iterator[Action]:
        return self.read()


def open_source(path: Path, vocabulary: Vocabulary) -> Source:
    """Return the source of a file by its suffixes; raises SourceError if there is no such file or format."""
    if not path.is_file():
        raise SourceError(f"{path} is not a file: name a {FORMATS} file")
    suffixes = [suffix.lower() for suffix in path.suffixes]
    is_gzipped = suffixes[-1:] == [".gz"]
    rows = _Rows(vocabulary)
    match suffixes[-2 if is_gzipped else -1 :][:1]:
        case [".csv"]:
            return Source(path.name, max(_count_lines(path) - 1, 0), lambda: _read_csv(path, rows))
        case [".jsonl" | ".ndjson"]:
            return Source(path.name, _count_lines(path), lambda: _read_json_lines(path, rows))
        case [".parquet" | ".pq"] if not is_gzipped:
            return _parquet(path, rows)
        case _:
            raise SourceError(f"{path} has an unknown format: name a {FORMATS} file")


class _Rows:
    """Converts rows to actions; raises ValueError, with a message that says what to do, for an invalid row."""

    def __init__(self, vocabulary: Vocabulary) -> None:
        types = {name: action.id for name, action in vocabulary.action_types.items()}
        self._types = _by_name_and_id(types)
        self._surfaces = {"": 0, None: 0, "unknown": 0} | _by_name_and_id({"0": 0} | vocabulary.surfaces)

    def action(
        self,
        user_id: object,
        item_id: object,
        timestamp_ms: object,
        action_type: object,
        surface: object = None,
        event_id: object = None,
    ) -> Action:
        return Action(
            user_id=_user_id(user_id),
            item_id=_whole_number("item_id", item_id, MAX_ITEM_ID),
            timestamp_ms=_whole_number("timestamp_ms", timestamp_ms, MAX_TIMESTAMP_MS, minimum=1),
            action_type=_id_of("action_type", action_type, self._types),
            surface=_id_of("surface", surface, self._surfaces),
            event_id=None if event_id is None or event_id == "" else str(event_id),
        )


def _by_name_and_id(ids: Mapping[str, int]) -> dict[object, int]:
    """Return a mapping of every way to write an id in a row (its name, the number, its digits) to the id."""
    spellings: dict[object, int] = {}
    for number in ids.values():
        spellings[number] = spellings[str(number)] = number
    spellings.update(ids)
    return spellings


def _id_of(name: str, value: object, ids: Mapping[object, int]) -> int:
    # True and 1.0 equal 1, but are no ids.
    number = ids.get(value) if value is None or type(value) in {int, str} else None
    if number is None:
        raise ValueError(
            f"{name} {value!r} is not in the vocabulary: correct it, or add it under "
            f"[vocabulary.{name}s] of the configuration"
        )
    return number


def _user_id(value: object) -> str:
    text = str(value) if type(value) is int else value
    if not isinstance(text, str):
        raise ValueError(f"user_id is {value!r}: give text")  # noqa: TRY004 - an error in the data, not in the call
    try:
        encode_user_id(text)
    except InvalidUserIdError as error:
        raise ValueError(f"user_id {value!r}: {error}") from error
    return text


def _whole_number(name: str, value: object, maximum: int, *, minimum: int = 0) -> int:
    number = None
    if type(value) is int:
        number = value
    elif isinstance(value, str) and value.isascii() and value.isdigit() and len(value) <= 20:
        number = int(value)
    if number is None or not minimum <= number <= maximum:
        raise ValueError(f"{name} is {value!r}: give a whole number from {minimum} to {maximum}")
    return number


def _read_csv(path: Path, rows: _Rows) -> Iterator[Action]:
    with _open_binary(path) as file:
        lines = csv.reader(io.TextIOWrapper(file, "utf-8-sig", newline=""), strict=True)
        try:
            header = [name.strip() for name in next(lines, [])]
            _check_columns(header)
            indexes = [(name, header.index(name)) for name in COLUMNS if name in header]
            for row in lines:
                _check_width(row, header)
                yield rows.action(**{name: row[index] for name, index in indexes})
        except (ValueError, csv.Error) as error:
            raise _located_error(path, f"line {max(lines.line_num, 1)}", error) from None


def _read_json_lines(path: Path, rows: _Rows) -> Iterator[Action]:
    number = 1
    with _open_binary(path) as file:
        try:
            for number, line in enumerate(file, 1):  # noqa: B007 - the error names the line
                if not line.strip():
                    continue
                row = _json_object(line)
                _check_columns(row)
                yield rows.action(**{name: row[name] for name in COLUMNS if name in row})
        except ValueError as error:
            raise _located_error(path, f"line {number}", error) from None


def _parquet(path: Path, rows: _Rows) -> Source:
    """Return the source of a Parquet file; only this needs pyarrow."""
    try:
        import pyarrow as pa  # noqa: PLC0415 - a bare install has no pyarrow
        from pyarrow import parquet  # noqa: PLC0415
    except ImportError:
        raise SourceError(
            f"reading {path} needs pyarrow: {INSTALL.format(extra='all')}, or convert the file to CSV"
        ) from None
    try:
        metadata = parquet.read_metadata(path)
        schema = parquet.read_schema(path)
        _check_columns(schema.names)
    except (pa.ArrowException, OSError, ValueError) as error:
        raise _located_error(path, "its schema", error) from None

    def read() -> Iterator[Action]:
        number = 0
        names = [name for name in COLUMNS if name in schema.names]
        try:
            with parquet.ParquetFile(path) as file:
                for batch in file.iter_batches(columns=names):
                    columns = [batch.column(name) for name in names]
                    values = [
                        # A timestamp column is cast to milliseconds.
                        (c.cast(pa.timestamp("ms")).cast(pa.int64()) if pa.types.is_timestamp(c.type) else c)
                        .to_pylist()
                        for c in columns
                    ]  # fmt: skip
                    for row in zip(*values, strict=True):
                        number += 1
                        yield rows.action(**dict(zip(names, row, strict=True)))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise _located_error(path, f"row {number}", error) from None

    return Source(path.name, metadata.num_rows, read)


def _check_width(row: list[str], header: list[str]) -> None:
    if len(row) != len(header):
        raise ValueError(f"the row has {len(row)} fields and the header {len(header)}: give every row that many fields")


def _json_object(line: bytes) -> dict[str, Any]:
    row = json.loads(line)
    if isinstance(row, dict):
        return row
    raise ValueError("the line is no JSON object: write one object per line")


def _check_columns(names: Mapping[str, Any] | list[str]) -> None:
    missing = [name for name in REQUIRED if name not in names]
    if missing:
        raise ValueError(f"there is no {' and no '.join(missing)}: name the columns {', '.join(COLUMNS)}")


@contextmanager
def _open_binary(path: Path) -> Iterator[BinaryIO]:
    """Open a file, gzipped or not, in binary mode. Raises SourceError, also for an error in the block."""
    try:
        with path.open("rb") as raw:
            if path.suffix.lower() == ".gz":
                with gzip.GzipFile(fileobj=raw) as unzipped:
                    yield io.BufferedReader(unzipped, 1 << 20)
            else:
                yield raw
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise SourceError(f"{path} is truncated or no gzip file ({error}): fetch or create it again") from None
    except OSError as error:
        raise SourceError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None


def _count_lines(path: Path) -> int:
    lines, last = 0, b"\n"
    with _open_binary(path) as file:
        while block := file.read(1 << 20):
            lines += block.count(b"\n")
            last = block[-1:]
    return lines + (last != b"\n")


def _located_error(path: Path, where: str, error: Exception) -> SourceError:
    reason = str(error)
    match error:
        case UnicodeDecodeError():
            reason = f"the text is not UTF-8 ({error.reason}): save it as UTF-8"
        case json.JSONDecodeError():
            reason = f"the line is not JSON ({error}): correct it"
        case csv.Error():
            reason = f"the row is not CSV ({error}): correct it"
        case OSError():
            reason = f"{error}: create the file again"
    return SourceError(f"{path}, {where}: {reason}")
