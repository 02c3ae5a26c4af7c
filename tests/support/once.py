"""What one pytest-xdist worker makes for all of them."""

import fcntl
from collections.abc import Callable
from pathlib import Path

import pytest


def once(factory: pytest.TempPathFactory, name: str, make: Callable[[], str]) -> str:
    """Return the text that `make` returned in the first process of this session that asked for `name`."""
    base = factory.getbasetemp()
    # A worker's own folder lies in the session's.
    shared = base.parent if base.name.startswith("popen-") else base
    path = shared / f"{name}.once"
    with Path(f"{path}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            text = make()
            path.write_text(text)
        return path.read_text()
