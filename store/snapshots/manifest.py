"""The manifest of a snapshot: a JSON object with the state and the files of the snapshot.

::

    {"format": 1, "partition": 3, "topic": "actions", "topic_id": "0f8fad5b-...",
     "created_at": "2025-01-02T03:04:05.000006Z",
     "contract": {"max_explicit": 16384, ...},
     "state": {"applied_offset": 41, "watermark_ms": 7, "events": 40, "fingerprint": "32 hexadecimal digits"},
     "files": [{"name": "000012.sst", "bytes": 4711, "sha256": "64 hexadecimal digits"}, ...],
     "total_bytes": 4711, "checksum": "64 hexadecimal digits"}

The checksum is the SHA-256 of the object without the checksum, as JSON in ASCII with sorted keys and no spaces. The
file's name is the snapshot's id, ``<applied offset in 20 digits>-<creation time>``, so names sort by age in the log.
The checksum detects damage and simple edits. It does not detect a forged snapshot: restrict write access to the URL.
"""

import hashlib
import json
import re
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, NamedTuple, Self

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, ValidationError, model_validator

from lifeline.store.fingerprint import as_text
from lifeline.store.retention import RetentionPolicy
from lifeline.store.state import State

FORMAT = 1

_ID = re.compile(r"(-?\d{19,20})-(\d{8}T\d{12}Z)")
_TIME = "%Y%m%dT%H%M%S%fZ"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class ManifestError(ValueError):
    """A manifest is damaged or invalid; the message is the reason. SnapshotRepository translates this error."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SnapshotFile(_Record):
    """One file of the partition's directory."""

    # No slash: the file must stay inside the partition's directory.
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-][A-Za-z0-9._-]{0,200}$")]
    bytes: Annotated[int, Field(ge=0)]
    sha256: Sha256


class SnapshotState(_Record):
    """The state of the partition in the files."""

    applied_offset: Annotated[int, Field(ge=-1)]
    watermark_ms: int
    events: Annotated[int, Field(ge=0)]
    fingerprint: Annotated[str, Field(pattern=r"^[0-9a-f]{32}$")]

    @classmethod
    def of(cls, state: State) -> Self:
        """Convert the state of a store."""
        return cls(
            applied_offset=state.applied_offset,
            watermark_ms=state.watermark_ms,
            events=state.events,
            fingerprint=as_text(state.fingerprint),
        )


class Manifest(_Record):
    """The manifest."""

    format: Literal[1] = 1
    partition: Annotated[int, Field(ge=0)]
    topic: str | None
    topic_id: str = ""
    """The cluster's id of the topic, which differs from that of a later topic with the same name; empty if unknown."""
    created_at: AwareDatetime
    contract: dict[str, int]
    """The fields of RetentionPolicy."""
    state: SnapshotState
    files: tuple[SnapshotFile, ...]
    total_bytes: int

    @classmethod
    def of(
        cls,
        partition: int,
        topic: str | None,
        topic_id: str,
        policy: RetentionPolicy,
        state: State,
        files: tuple[SnapshotFile, ...],
    ) -> Self:
        """Return the manifest of a snapshot that is created now."""
        return cls(
            partition=partition,
            topic=topic,
            topic_id=topic_id,
            created_at=datetime.now(UTC),
            contract=policy._asdict(),
            state=SnapshotState.of(state),
            files=files,
            total_bytes=sum(file.bytes for file in files),
        )

    @model_validator(mode="after")
    def _adds_up(self) -> Self:
        if self.total_bytes != sum(file.bytes for file in self.files):
            raise ValueError("total_bytes is not the sum of the files' bytes")
        if len({file.name for file in self.files}) != len(self.files):
            raise ValueError("a file is listed twice")
        if set(self.contract) != set(RetentionPolicy._fields):
            raise ValueError(f"its contract must have the fields {', '.join(RetentionPolicy._fields)}")
        return self

    @property
    def id(self) -> str:
        """The snapshot's id."""
        return f"{self.state.applied_offset:020d}-{self.created_at.astimezone(UTC).strftime(_TIME)}"

    def sizes(self) -> dict[str, int]:
        """Return the size of each content of the snapshot in bytes, by SHA-256."""
        return {file.sha256: file.bytes for file in self.files}

    def pack(self) -> bytes:
        """Return the file's bytes."""
        content = self.model_dump(mode="json")
        return json.dumps(content | {"checksum": _checksum(content)}, indent=1).encode()

    @classmethod
    def unpack(cls, data: bytes) -> Self:
        """Read a manifest; raises ManifestError."""
        try:
            content: Any = json.loads(data)
        except ValueError as error:
            raise ManifestError(f"its manifest is not JSON ({error})") from error
        if not isinstance(content, dict):
            raise ManifestError("its manifest is not a JSON object")
        checksum = content.pop("checksum", None)
        if checksum != _checksum(content):
            raise ManifestError("its manifest was changed or is damaged: the checksum does not match")
        if content.get("format") != FORMAT:
            raise ManifestError(
                f"its manifest has format {content.get('format')}, and this program reads format {FORMAT}"
            )
        try:
            return cls.model_validate(content)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"]))
            raise ManifestError(f"its manifest is invalid{f' at {where}' if where else ''}: {first['msg']}") from error


class Age(NamedTuple):
    """The sort key of snapshots: applied offset, then creation time."""

    applied_offset: int
    created: str


def age_of(snapshot: str) -> Age | None:
    """Return the age that a snapshot id contains, or None if it is not an id."""
    match = _ID.fullmatch(snapshot)
    return Age(int(match[1]), match[2]) if match else None


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
