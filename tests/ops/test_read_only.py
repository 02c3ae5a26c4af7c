"""A data directory that is mounted read-only, as a volume's snapshot is: what reads it works, what writes says so."""

import json
from collections.abc import Iterator
from contextlib import AsyncExitStack, closing
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from lifeline.cli import app
from lifeline.config import Settings
from lifeline.core.errors import DataDirError
from lifeline.core.paths import items_dir, partition_dir
from lifeline.core.sequence import SequenceQuery
from lifeline.node.storage import Storage
from lifeline.ops.offline import open_readers
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.errors import StoreError
from tests.support.factories import Event, Model, batch_of, open_follower, open_store
from tests.support.inspected import SHAPE, filled
from tests.support.mounts import read_only

_ITEM = np.array([7], np.uint64)
_REFUSED = r"is mounted read-only, .*: mount it for writing, or name another|cannot be used \(Permission denied\)"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A writable data directory with partition 0 and one embedding."""
    data = tmp_path / "data"
    filled(partition_dir(data, 0))
    with closing(EmbeddingTable.open(items_dir(data))) as table:
        table.apply(_ITEM, np.ones((1, 32), np.int8), np.ones(1, np.uint32), partition=0, offset=0)
    return data


@pytest.fixture
def mounted(tmp_path: Path, data: Path) -> Iterator[Path]:
    with read_only(data, tmp_path / "mounted") as view:
        with pytest.raises(OSError, match=r"Read-only|Permission"):
            (view / "file").touch()
        yield view


def run(*arguments: object) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def test_inspect_and_fingerprint_read_it(mounted: Path) -> None:
    for arguments in (
        ("inspect",),
        ("inspect", "--user", "ann"),
        ("inspect", "--partition", 0, "--json"),
        ("fingerprint",),
    ):
        result = run(*arguments, "--data-dir", mounted)
        assert result.exit_code == 0, result.output
    (stored,) = json.loads(run("fingerprint", "--recount", "--json", "--data-dir", mounted).stdout)["partitions"]
    assert (stored["why"], stored["differs"], stored["recounted"]["events"]) == ("", False, stored["events"])


def test_what_trains_verifies_and_evaluates_reads_histories_and_embeddings(mounted: Path) -> None:
    with open_readers(Settings.model_validate({"node": {"data_dir": mounted}})) as readers:
        ((partition, reader),) = readers
        assert partition.catch_up().applied_offset == 3
        (sequence,) = reader.read("cy", SequenceQuery()).sequences.values()
        assert [identity.item_id for identity in sequence.identities()] == [1]
        assert reader.embeddings is not None
        embedding, is_known = reader.embeddings.lookup(_ITEM)
        assert is_known.tolist() == [True]
        assert embedding.tolist() == [[1] * 32]


async def test_a_node_and_commands_that_write_say_that_it_is_read_only(mounted: Path, tmp_path: Path) -> None:
    settings = Settings.model_validate({"node": {"data_dir": mounted}})
    async with AsyncExitStack() as stack:
        with pytest.raises(DataDirError, match=_REFUSED):
            await Storage.open(settings, stack)
    for arguments in (
        ("snapshot", "create", "--offline", "--url", f"file://{tmp_path}/snapshots"),
        ("replay", "--into", tmp_path / "into", "--swap"),
    ):
        result = run(*arguments, "--data-dir", mounted)
        assert isinstance(result.exception, DataDirError), (arguments, result.output, result.exception)


def test_a_reader_on_a_read_only_mount_follows_a_writer(tmp_path: Path, data: Path) -> None:
    model = Model(SHAPE)
    store = open_store(partition_dir(data, 4), SHAPE)
    with (
        closing(store),
        read_only(data, tmp_path / "mounted") as view,
        closing(open_follower(view / "partition-00004")) as follower,
    ):
        if view == data:
            pytest.skip("a writer needs permission to write: run the tests as root")
        for offset in range(40):
            batch = [Event(b"ann", offset, offset % 5, 257), Event(b"bob", 3 * offset, 1, 258)]
            model.apply(batch)
            store.apply(batch_of(batch), offset=offset)
            if offset % 8 == 7:
                store.compact()
            if offset % 3 == 0:
                assert follower.catch_up().applied_offset == offset
                model.check(follower)


def test_a_reader_writes_nothing_beside_the_writer_s_files(data: Path) -> None:
    path = partition_dir(data, 0)
    # The Python binding would write this file again.
    (path / "rocksdict-config.json").unlink()
    before = {file: file.stat().st_mtime_ns for file in (path, *path.iterdir())}
    with closing(open_follower(path, partition=0)) as follower:
        follower.catch_up()
    assert {file: file.stat().st_mtime_ns for file in (path, *path.iterdir())} == before


def test_without_a_temporary_directory_a_reader_says_what_to_set(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(data / "missing"))
    with pytest.raises(StoreError, match=r"temporary directory .*: set TMPDIR to a directory that this user may write"):
        open_follower(partition_dir(data, 0), partition=0)


def test_a_file_that_names_no_manifest_is_reported(data: Path) -> None:
    path = partition_dir(data, 0)
    for content in (b"", b"../../etc/passwd\n", b"\xff\xfe\n", b"MANIFEST-999999\n"):
        (path / "CURRENT").write_bytes(content)
        with pytest.raises(StoreError, match="does not open for reading"):
            open_follower(path, partition=0)
