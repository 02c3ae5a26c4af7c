"""Small files that are whole or not there, whatever crashes."""

import os
from pathlib import Path


def write_durably(path: Path, text: str) -> None:
    """Write a file, or replace it; once this returns it survives a loss of power."""
    made = path.with_suffix(".new")
    with made.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    made.rename(path)
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Bring a directory's names to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
