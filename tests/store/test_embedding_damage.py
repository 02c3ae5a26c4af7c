import json
from collections.abc import Callable
from pathlib import Path

import pytest

from lifeline.store.embeddings import EmbeddingTable, SecondaryEmbeddings
from lifeline.store.errors import CorruptRecordError, FormatVersionError
from tests.support.embeddings import apply


def _with_state(**changes: object) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        state = path / "embeddings.json"
        state.write_text(json.dumps(json.loads(state.read_text()) | changes))

    return tamper


def _cut(name: str, size: int) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        with (path / name).open("r+b") as file:
            file.truncate(size)

    return tamper


def _zeroed(name: str, at: int) -> Callable[[Path], None]:
    def tamper(path: Path) -> None:
        with (path / name).open("r+b") as file:
            file.seek(at)
            file.write(bytes(4))

    return tamper


@pytest.mark.parametrize(
    "tamper",
    [
        _cut("embeddings.json", 0),
        _cut("embeddings.json", 12),
        _with_state(rows="many"),
        _with_state(rows=None),
        _with_state(rows=1 << 40),
        _with_state(rows=-3),
        _with_state(rows=float("inf")),
        _with_state(rows=60),
        _with_state(offsets=[1]),
        _with_state(offsets={"zero": 1}),
        lambda path: (path / "embeddings.json").write_bytes(b"\xff\xfe\x00"),
        lambda path: (path / "embeddings.json").write_text("[]"),
        _cut("embeddings.bin", 8),
        _cut("embeddings.bin", 4_096),
        _cut("embeddings.bin", 299_008 + 20 * 32),
        _cut("embeddings.bin", 299_008 + 50 * 32 - 1),
        _cut("items.bin", 20 * 16),
        _zeroed("items.bin", 49 * 16),
        _zeroed("embeddings.bin", 8),
        lambda path: (path / "items.bin").unlink(),
    ],
    ids=[
        "state-empty", "state-cut", "rows-text", "rows-null", "rows-beyond-the-file", "rows-negative",
        "rows-infinite", "rows-never-written", "offsets-a-list", "offsets-not-numbers", "state-not-text",
        "state-a-list", "data-cut-to-the-magic", "data-cut-to-the-header", "data-cut", "data-cut-inside-a-row",
        "items-cut", "an-item-changed", "fewer-rows-published", "items-gone",
    ],
)  # fmt: skip
def test_files_that_were_tampered_with_are_refused(tmp_path: Path, tamper: Callable[[Path], None]) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(item, 1) for item in range(1, 50)], 0)
    table.close()
    tamper(tmp_path)
    for opens in (EmbeddingTable.open, SecondaryEmbeddings.open):
        with pytest.raises(CorruptRecordError):
            opens(tmp_path)


@pytest.mark.parametrize("where", ["state", "state-with-other-fields", "embeddings.bin", "items.bin"])
def test_another_format_is_refused(tmp_path: Path, where: str) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(1, 1)], 0)
    table.close()
    if where.endswith(".bin"):
        with (tmp_path / where).open("r+b") as file:
            file.seek(7)
            file.write(b"\x63")
    else:
        fields = {"format": 99} if where == "state-with-other-fields" else {"format": 99, "rows": 1, "offsets": {}}
        (tmp_path / "embeddings.json").write_text(json.dumps(fields))
    for opens in (EmbeddingTable.open, SecondaryEmbeddings.open):
        with pytest.raises(FormatVersionError, match="has format 99, and this program reads format 2"):
            opens(tmp_path)


def test_another_file_in_its_place_is_refused(tmp_path: Path) -> None:
    EmbeddingTable.open(tmp_path).close()
    (tmp_path / "embeddings.bin").write_bytes(b"something else")
    with pytest.raises(FormatVersionError, match="unknown"):
        EmbeddingTable.open(tmp_path)


def test_a_state_without_its_rows_starts_anew(tmp_path: Path) -> None:
    table = EmbeddingTable.open(tmp_path)
    apply(table, [(1, 1)], 41)
    table.close()
    (tmp_path / "embeddings.bin").unlink()
    table = EmbeddingTable.open(tmp_path)
    assert (len(table), table.applied_offset(0)) == (0, -1)
    table.close()
