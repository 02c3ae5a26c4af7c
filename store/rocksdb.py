"""How RocksDB is opened, and what its refusals mean."""

import time
from pathlib import Path
from typing import NamedTuple, Self

from rocksdict import AccessType, Options, Rdict
from tenacity import Retrying, retry_if_exception_message, stop_after_attempt, wait_random_exponential

from lifeline.store.errors import StoreError, StoreLockedError
from lifeline.store.memory import SharedMemory, database_options, family_options
from lifeline.store.readable_partition import FAMILIES

_FOLLOWER_ATTEMPTS = 6
_STAND_STILL_S = 10.0


def open_to_write(path: Path, memory: SharedMemory) -> Rdict:
    """Open or create a partition's database; raises StoreLockedError, StoreError."""
    path.mkdir(parents=True, exist_ok=True)
    if not (path / "CURRENT").exists() and next(path.glob("*.sst"), None) is not None:
        # RocksDB would begin a new database here and remove the tables, as if there had never been any.
        raise StoreError(
            f"{path} has tables, and no file CURRENT that says which: check the disk, or set the directory aside to "
            "rebuild it from the topic"
        )
    try:
        return _open(path, database_options(memory, follows=False), memory, AccessType.read_write())
    except Exception as error:  # rocksdict raises bare Exception
        if f"{path}/LOCK: " in str(error):
            raise StoreLockedError(
                f"{path} is open in another process: stop that node, or give this one its own node.data_dir"
            ) from error
        raise StoreError(
            f"{path} does not open ({error}): check the disk, or set the directory aside to rebuild it from the topic"
        ) from error


# Where another process writes, a file may go between the manifest that names it and its opening.
_beside_a_writer = Retrying(
    stop=stop_after_attempt(_FOLLOWER_ATTEMPTS),
    wait=wait_random_exponential(multiplier=0.05, max=1),
    retry=retry_if_exception_message(match="(?s).*(No such file|Try again)"),
    reraise=True,
)


class Followed(NamedTuple):
    """A follower's database, and what CURRENT said when it was opened."""

    db: Rdict
    current: bytes


class _Moment(NamedTuple):
    """What changes in a directory when the writer begins or ends a file that a follower reads."""

    current: bytes
    logs: frozenset[str]

    @classmethod
    def of(cls, path: Path) -> Self:
        return cls((path / "CURRENT").read_bytes(), frozenset(log.name for log in path.glob("*.log")))


def open_to_follow(path: Path, memory: SharedMemory, own: Path) -> Followed:
    """Open a database that another process may be writing; `own` is a directory for what RocksDB writes itself.

    RocksDB reads the manifest first and the write-ahead logs after, and a log that went in between would leave one
    family older than another. A log goes only after the manifest that makes it needless, each manifest is a new file
    (memory.py), and CURRENT names it: if that is as before, no log that is needed was missed. And where a needless
    one goes between its listing and its opening, RocksDB reads none of them and says nothing: so the logs have to be
    as before too.

    Raises StoreError.
    """
    current = path / "CURRENT"
    if not current.exists():
        # RocksDB would leave a directory behind, which then looks like a partition.
        raise StoreError(f"{path} holds no store: name the data directory of a node that has run")
    options = database_options(memory, follows=True)
    deadline = time.monotonic() + _STAND_STILL_S
    while time.monotonic() < deadline:
        try:
            before = _Moment.of(path)
            db = _beside_a_writer(_open, path, options, memory, AccessType.secondary(str(own)))
            if _Moment.of(path) == before:
                return Followed(db, before.current)
            db.close()
        except Exception as error:  # rocksdict raises bare Exception
            raise StoreError(
                f"{path} does not open ({error}): if a node is at work there, try again; else check the disk"
            ) from error
    raise StoreError(f"{path} changes faster than it can be followed: try again")


def catch_up(followed: Followed, path: Path) -> bool:
    """Read what the writer's log has got since; returns whether that is all there is to do.

    Where the writer has begun another manifest it is not: what was replayed from a log then hides what stands in the
    new tables, and the database has to be opened anew. So it has where a log came or went meanwhile. Raises StoreError.
    """
    current = path / "CURRENT"
    try:
        before = _Moment.of(path)
        if before.current != followed.current:
            return False
        followed.db.try_catch_up_with_primary()
        return _Moment.of(path) == before
    except Exception as error:  # rocksdict raises bare Exception
        if current.read_bytes() != followed.current:
            return False
        raise StoreError(
            f"{path} cannot be followed ({error}): open it again; if that fails too, check the disk"
        ) from error


def _open(path: Path, options: Options, memory: SharedMemory, access: AccessType) -> Rdict:
    return Rdict(str(path), options, {name: family_options(name, memory) for name in FAMILIES}, access)
