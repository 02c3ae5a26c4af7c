"""The stored records of sequences, gathered sequence by sequence from the families rows and chunks."""

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
    """A record that does not decode, or that does not fit the others."""

    user: str
    """Empty where it is nobody's."""
    record: str
    """Kind and record, a chunk by its fence."""
    why: str


@dataclass(slots=True)
class SequenceRecords:
    """The stored bytes of one sequence."""

    prefix: bytes
    head: bytes | None = None
    segments: dict[int, bytes] = field(default_factory=dict)
    chunks: list[tuple[Identity, bytes]] = field(default_factory=list)
    row_key_bytes: int = 0
    chunk_key_bytes: int = 0
    foreign: list[bytes] = field(default_factory=list)
    """Keys that are none of a sequence's."""

    @property
    def user(self) -> str:
        """The user id, as text that can be printed."""
        return keys.user_of(self.prefix).decode(errors="backslashreplace")


def records_in(view: View, damages: list[Damage], prefix: bytes = b"") -> Iterator[SequenceRecords]:
    """Yield the records whose keys start with `prefix`, sequence by sequence.

    What RocksDB cannot read, and keys that are nobody's, go to `damages`.
    """
    families = (_family(view.rows, "rows", prefix, damages), _family(view.chunks, "chunks", prefix, damages))
    for of, group in groupby(merge(*families, key=_prefix), _prefix):
        records = SequenceRecords(of)
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
            damages.append(Damage("", f"{name} {key.hex()}", "its key is none of this format"))
        iterator.next()
    try:
        iterator.status()
    except Exception as error:  # noqa: BLE001 - rocksdict raises bare Exception
        damages.append(Damage("", f"{name} after {key.hex()}", f"RocksDB cannot read on: {error}"))


def _sort_in(records: SequenceRecords, family: str, key: bytes, data: bytes) -> None:
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
