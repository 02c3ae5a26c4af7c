from collections.abc import Iterator
from pathlib import Path

import pytest

from lifeline.store.partition import PartitionStore
from tests.support.factories import SHAPE, open_store


@pytest.fixture
def store(tmp_path: Path) -> Iterator[PartitionStore]:
    """A new partition in `tmp_path`/p."""
    opened = open_store(tmp_path / "p", SHAPE)
    yield opened
    opened.close()
