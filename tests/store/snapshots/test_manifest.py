import hashlib
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifeline.store.retention import RetentionPolicy
from lifeline.store.snapshots.manifest import Manifest, ManifestError, SnapshotFile, age_of
from lifeline.store.state import State

DIGEST = hashlib.sha256(b"x").hexdigest()
FILES = (SnapshotFile(name="000012.sst", bytes=4, sha256=DIGEST), SnapshotFile(name="CURRENT", bytes=3, sha256=DIGEST))
MADE = Manifest.of(3, "actions", "id-1", RetentionPolicy(5, 6, 0, 7), State(41, 99, 40, (1 << 128) - 1), FILES)
INT64 = st.integers(min_value=0, max_value=(1 << 63) - 1)


def packed(**changes: Any) -> bytes:
    """Return a manifest with other fields and a checksum that fits, made by the text of the module's docstring."""
    content = json.loads(MADE.pack()) | changes
    del content["checksum"]
    digest = hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()
    return json.dumps(content | {"checksum": digest}).encode()


def test_it_comes_back_as_it_went() -> None:
    assert Manifest.unpack(MADE.pack()) == MADE
    assert Manifest.unpack(packed()) == MADE
    assert MADE.total_bytes == 7
    assert MADE.state.fingerprint == "f" * 32
    assert json.loads(MADE.pack())["created_at"].endswith("Z")


@given(INT64, INT64, INT64, st.integers(min_value=0, max_value=(1 << 128) - 1), st.none() | st.text(), st.datetimes())
def test_every_state_comes_back(
    offset: int, watermark: int, events: int, fingerprint: int, topic: str | None, at: datetime
) -> None:
    manifest = Manifest.of(0, topic, "", RetentionPolicy(1, 2, 3, 4), State(offset, watermark, events, fingerprint), ())
    manifest = manifest.model_copy(update={"created_at": at.replace(tzinfo=UTC)})
    assert Manifest.unpack(manifest.pack()) == manifest


def test_ids_sort_by_offset_and_then_by_time() -> None:
    older = MADE.model_copy(update={"created_at": MADE.created_at - timedelta(microseconds=1)})
    empty, further = (
        MADE.model_copy(update={"state": MADE.state.model_copy(update={"applied_offset": offset})})
        for offset in (-1, 1 << 62)
    )
    ages = [age_of(manifest.id) for manifest in (empty, older, MADE, further)]
    assert None not in ages
    assert ages == sorted(age for age in ages if age is not None)
    assert MADE.id == f"00000000000000000041-{MADE.created_at:%Y%m%dT%H%M%S%f}Z"
    assert age_of("41") is None
    assert age_of(f"{MADE.id}.json") is None


@given(st.integers(min_value=0), st.integers(min_value=1, max_value=255))
def test_no_changed_byte_changes_what_is_read(at: int, change: int) -> None:
    data = bytearray(MADE.pack())
    data[at % len(data)] ^= change
    try:
        read = Manifest.unpack(bytes(data))
    except ManifestError:
        return
    assert read == MADE


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"format": 2}, "its manifest has format 2, and this program reads format 1"),
        ({"format": None}, "its manifest has format None"),
        ({"partition": -1}, "its manifest is invalid at partition: "),
        ({"total_bytes": 8}, "total_bytes is not the sum of the files' bytes"),
        ({"more": 1}, "its manifest is invalid at more: "),
        ({"contract": {"max_explicit": 1}}, "its contract must have the fields max_explicit, "),
        ({"created_at": "2025-01-01T00:00:00"}, "its manifest is invalid at created_at: "),
        (
            {"files": [{"name": "../CURRENT", "bytes": 7, "sha256": DIGEST}]},
            "its manifest is invalid at files.0.name: ",
        ),
        ({"files": [{"name": "/etc/x", "bytes": 7, "sha256": DIGEST}]}, "its manifest is invalid at files.0.name: "),
        ({"files": [{"name": "..", "bytes": 7, "sha256": DIGEST}]}, "its manifest is invalid at files.0.name: "),
        ({"files": [{"name": "a\n", "bytes": 7, "sha256": DIGEST}]}, "its manifest is invalid at files.0.name: "),
        ({"files": [{"name": "a", "bytes": 7, "sha256": "../x"}]}, "its manifest is invalid at files.0.sha256: "),
        (
            {"files": [{"name": "a", "bytes": 3, "sha256": DIGEST}, {"name": "a", "bytes": 4, "sha256": DIGEST}]},
            "twice",
        ),
    ],
)
def test_what_means_nothing_is_refused_though_the_checksum_fits(changes: dict[str, Any], reason: str) -> None:
    with pytest.raises(ManifestError) as caught:
        Manifest.unpack(packed(**changes))
    assert reason in str(caught.value)


@pytest.mark.parametrize("data", [b"[]", b"7", b"\xff", b'{"format": 1}'])
def test_what_is_no_manifest_is_refused(data: bytes) -> None:
    with pytest.raises(ManifestError, match="its manifest "):
        Manifest.unpack(data)
