import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from lifeline.store.partition import PartitionStore
from lifeline.store.snapshots.repository import SnapshotRepository
from tests.support.factories import SHAPE, open_store
from tests.support.snapshots import P, fill


@pytest.fixture(params=["file", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    if request.param == "file":
        yield f"file://{tmp_path}/snapshots"
        return
    name = f"/{uuid.uuid4().hex}"
    yield f"memory:/{name}"
    memory = fsspec.filesystem("memory")
    if memory.exists(name):
        memory.rm(name, recursive=True)


@pytest.fixture
def repository(url: str) -> SnapshotRepository:
    return SnapshotRepository(url)


@pytest.fixture
def source(tmp_path: Path) -> Iterator[PartitionStore]:
    """Partition 3 in `tmp_path`/data, with offsets 0 to 19 applied."""
    store = open_store(tmp_path / "data" / P, SHAPE)
    fill(store, range(20))
    yield store
    store.close()
