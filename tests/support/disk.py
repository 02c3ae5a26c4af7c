"""The records of a closed store, read and changed behind its back."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import cast

from rocksdict import Options, Rdict


@contextmanager
def _family(path: Path, name: str) -> Iterator[Rdict]:
    db = Rdict(str(path), Options(raw_mode=True), {each: Options(raw_mode=True) for each in ("rows", "chunks", "meta")})
    family = db.get_column_family(name)
    yield family
    family.close()
    db.close()


def contents(path: Path, family: str) -> dict[bytes, bytes]:
    """Return every record of one family."""
    with _family(path, family) as opened:
        return dict(cast("Iterator[tuple[bytes, bytes]]", opened.items()))


def record(path: Path, family: str, prefix: bytes) -> tuple[bytes, bytes]:
    """Return the first record whose key starts with `prefix`."""
    return next((key, data) for key, data in contents(path, family).items() if key.startswith(prefix))


def rewrite(path: Path, family: str, key: bytes, data: bytes | None) -> None:
    """Change one record, or take it away."""
    with _family(path, family) as opened:
        if data is None:
            del opened[key]
        else:
            opened[key] = data


def damage(path: Path, family: str, prefix: bytes, at: int, value: int) -> None:
    """Set one byte of the first record whose key starts with `prefix`."""
    key, data = record(path, family, prefix)
    rewrite(path, family, key, data[:at] + bytes([value]) + data[at + 1 :])
