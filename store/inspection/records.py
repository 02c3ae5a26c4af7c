"""The stored records of sequences, joined from the families rows and chunks."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from heapq import merge
from itertools import groupby
from typing import NamedTuple

from rocksdict import RdictIter

from lifeline.core.actions import Identity
from lifeline.store import keys
from lifeline.store.database import View

_FENCE_BYTES = 18


class Damage(NamedTuple):
    """A record that does not decode, or that contradicts other records."""

    user: str
    """Empty if the record belongs to no user."""
    record: str
    """The kind, and the record: head, segment number, or chunk with its fence."""
    why: str


@dataclass(slots=True)
class RawSequence:
    """The stored bytes of one sequence."""

    prefix: bytes
    head: bytes | None = None
    segments: dict[int, bytes] = field(default_factory=dict)
    chunks: list[tuple[Identity, bytes]] = field(default_factory=list)
    row_key_bytes: int = 0
    chunk_key_bytes: int = 0
    foreign: list[bytes] = field(default_factory=list)
    """Keys with this prefix that do not belong to the format."""

    @property
    def user(self) -> str:
        """The user id as printable text."""
        return keys.user_of(self.prefix).decode(errors="backslashreplace")


def records_in(view: View, damages: list[Damage], prefix: bytes = b"") -> Iterator[RawSequence]:
    """Yield the records whose keys start with `prefix`, sequence by sequence.

    Read errors of RocksDB, and keys that belong to no sequence, are added to `damages`.
    """
    families = (_family(view.rows, "rows", prefix, damages), _family(view.chunks, "chunks", prefix, damages))
    for sequence_prefix, group in groupby(merge(*families, key=_prefix), _prefix):
        records = RawSequence(sequence_prefix)
        for family, _, key, data in group:
            _sort_in(records, family, key, data)
        yield records


class _Record(NamedTuple):
    family: str
    prefix: bytes
    key: bytes
    data: bytes


def _prefix(record: _Record) -> bytes:
    return record.prefix


def _family(iterator: RdictIter, name: str, prefix: bytes, damages: list[Damage]) -> Iterator[_Record]:
    iterator.seek(prefix) if prefix else iterator.seek_to_first()
    key = prefix
    while iterator.valid():
        key = iterator.key()
        if not key.startswith(prefix):
            return
        mark = key.find(keys.END_OF_USER)
        if 0 <= mark < len(key) - 1:
            yield _Record(name, key[: mark + 2], key, iterator.value())
        else:
            damages.append(Damage("", f"{name} {key.hex()}", "its key does not belong to this format"))
        iterator.next()
    try:
        iterator.status()
    except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
        damages.append(Damage("", f"{name} after {key.hex()}", f"RocksDB cannot continue reading: {error}"))


def _sort_in(records: RawSequence, family: str, key: bytes, data: bytes) -> None:
    suffix = key[len(records.prefix) :]
    if family == "chunks" and len(suffix) == _FENCE_BYTES:
        records.chunks.append((keys.chunk_fence(key), data))
    elif family == "rows" and not suffix:
        records.head = data
    elif family == "rows" and len(suffix) == 1:
        records.segments[suffix[-1]] = data
    else:
        records.foreign.append(key)
        return
    if family == "rows":
        records.row_key_bytes += len(key)
    else:
        records.chunk_key_bytes += len(key)
