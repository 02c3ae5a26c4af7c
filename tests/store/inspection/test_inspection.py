"""Inspection of users and chunks: what is there, byte for byte, and every broken record named."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from lifeline.core.actions import Identity, Kind
from lifeline.store import chunk, keys
from lifeline.store.inspection.inspectable_partition import InspectablePartition
from lifeline.store.inspection.records import Damage, RawSequence, records_in
from lifeline.store.inspection.sequences import (
    SequenceInspection,
    UnknownRecordError,
    has_user,
    inspect_chunk,
    inspect_sequence,
    inspect_user,
)
from lifeline.store.reader import SequenceReader
from tests.support.disk import contents, damage, record, rewrite
from tests.support.factories import EVERYTHING, columns_of
from tests.support.inspected import ANN, SHAPE, filled, inspected

BOTH = tuple(Kind)


def test_a_user_is_shown_as_a_reader_sees_it(tmp_path: Path) -> None:
    filled(tmp_path)
    with inspected(tmp_path) as store:
        read = SequenceReader(store).read("ann", EVERYTHING).sequences[Kind.EXPLICIT]
        found = inspect_user(store, "ann", BOTH)
        (sequence,) = found.sequences
        assert (found.user, found.as_of, found.damages) == (
            "ann",
            SequenceReader(store).read("ann", EVERYTHING).as_of,
            (),
        )
        assert sequence.kind is Kind.EXPLICIT
        identities = read.identities()
        assert sequence.events == len(identities) == 40
        assert (sequence.oldest_timestamp_ms, sequence.newest_timestamp_ms) == (
            identities[0].timestamp_ms,
            identities[-1].timestamp_ms,
        )
        assert sequence.head is not None
        assert sequence.head.newest_ms == identities[-1].timestamp_ms
        assert sequence.inline_events + sum(each.events for each in sequence.segments) + sequence.sealed_events == 40
        assert {each.form for each in sequence.segments} == {"raw"}
        skips = [each.skip for each in sequence.chunks]
        assert skips[0] > 0
        assert not any(skips[1:])
        assert [each.number for each in sequence.chunks] == list(range(len(sequence.chunks)))
        assert {kind for each in inspect_user(store, "bob", BOTH).sequences for kind in [each.kind]} == set(Kind)
        assert [each.kind for each in inspect_user(store, "bob", (Kind.IMPRESSION,)).sequences] == [Kind.IMPRESSION]
    mine = {
        key: data
        for family in ("rows", "chunks")
        for key, data in contents(tmp_path, family).items()
        if key.startswith(ANN)
    }
    assert sequence.bytes == sum(len(key) + len(data) for key, data in mine.items())


def test_a_run_is_told_from_a_raw_segment(tmp_path: Path) -> None:
    filled(
        tmp_path, SHAPE.model_copy(update={"chunk_events": 128, "keep_unsealed": 128, "max_explicit": 500}), events=300
    )
    with inspected(tmp_path) as store:
        (sequence,) = inspect_user(store, "ann", BOTH).sequences
    (segment,) = sequence.segments
    assert (segment.form, segment.events) == ("run", 172)
    assert segment.bytes < 172 * 14
    assert [each.events for each in sequence.chunks] == [128]
    assert sequence.events == 301


@pytest.mark.parametrize("by", ["number", "fence"])
def test_a_chunk_is_found_and_gives_its_events(tmp_path: Path, by: str) -> None:
    filled(tmp_path)
    with inspected(tmp_path) as store:
        (sequence,) = inspect_user(store, "ann", (Kind.EXPLICIT,)).sequences
        identities = SequenceReader(store).read("ann", EVERYTHING).sequences[Kind.EXPLICIT].identities()
        second = sequence.chunks[1]
        detail = inspect_chunk(store, "ann", Kind.EXPLICIT, second.number if by == "number" else second.fence)
        assert detail.chunk == second
        assert detail.events is not None
        assert detail.item_id is not None
        rows = zip(
            detail.events.timestamp_ms.tolist(), detail.item_id.tolist(), detail.events.code.tolist(), strict=True
        )
        before = sequence.chunks[0].events - sequence.chunks[0].skip
        assert [Identity(*row) for row in rows] == identities[before : before + second.events]
        assert second.bytes == second.header_bytes + second.timestamp_bytes + second.ordinal_bytes + second.code_bytes
        assert second.encoding == "uint32 ms"
        assert not detail.damages


def test_what_is_not_there_is_said(tmp_path: Path) -> None:
    filled(tmp_path)
    with inspected(tmp_path) as store:
        assert has_user(store, "ann")
        assert not has_user(store, "an")
        with pytest.raises(UnknownRecordError, match="no explicit and impression events of user 'an'"):
            inspect_user(store, "an", BOTH)
        with pytest.raises(UnknownRecordError, match="no impression events of user 'ann'"):
            inspect_user(store, "ann", (Kind.IMPRESSION,))
        with pytest.raises(UnknownRecordError, match="no chunk 99 in the explicit sequence"):
            inspect_chunk(store, "ann", Kind.EXPLICIT, 99)
        with pytest.raises(UnknownRecordError, match="no chunk 1-2-3 in"):
            inspect_chunk(store, "ann", Kind.EXPLICIT, Identity(1, 2, 3))


def _other(key: bytes) -> Callable[[Path], None]:
    return lambda path: rewrite(path, "rows", key, b"\x02\x00\x00\x00")


def _move_a_chunk(path: Path) -> None:
    key, data = record(path, "chunks", ANN)
    rewrite(path, "chunks", key, None)
    rewrite(path, "chunks", keys.chunk_key(ANN, Identity(keys.chunk_fence(key).timestamp_ms + 1, 0, 0)), data)


def _unknown_item(path: Path) -> None:
    key, _ = record(path, "chunks", ANN)
    rewrite(path, "chunks", key, chunk.encode(columns_of([(at, 77, 1) for at in range(4)])))


def _grown_chunk(path: Path) -> None:
    # Whole in itself, and it reaches into the next one.
    key, data = record(path, "chunks", ANN)
    first = chunk.Chunk.open(data).first_timestamp_ms
    rewrite(path, "chunks", key, chunk.encode(columns_of([(first + 200 * at, 0, 1) for at in range(4)])))


DAMAGES: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "chunk": (lambda path: damage(path, "chunks", ANN, 40, 0xAA), "explicit chunk", "checksum does not match"),
    "chunk-header": (lambda path: damage(path, "chunks", ANN, 2, 9), "explicit chunk", "checksum does not match"),
    "chunk-cut": (
        lambda path: rewrite(path, "chunks", record(path, "chunks", ANN)[0], b"\x02"),
        "explicit chunk",
        "shorter",
    ),
    "chunk-missing": (
        lambda path: rewrite(path, "chunks", record(path, "chunks", ANN)[0], None),
        "explicit chunk",
        "missing",
    ),
    "chunk-moved": (_move_a_chunk, "explicit chunk", "below its fence"),
    "chunk-grown": (_grown_chunk, "explicit chunk", "not below the next fence"),
    "chunk-item": (_unknown_item, "explicit chunk", "an item ordinal that the partition does not have"),
    "chunk-alone": (lambda path: rewrite(path, "rows", ANN, None), "explicit head", "it is missing"),
    "head": (
        lambda path: rewrite(path, "rows", ANN, b"\x02\x00\x09\x00"),
        "explicit head",
        "has another length than its fields say",
    ),
    "head-version": (lambda path: damage(path, "rows", ANN, 0, 9), "explicit head", "has format 9"),
    "segment": (lambda path: damage(path, "rows", ANN + b"\x00", 0, 0), "explicit segment 0", "are no segment"),
    "segment-cut": (lambda path: rewrite(path, "rows", ANN + b"\x00", b"R123"), "explicit segment 0", "are no segment"),
    "segment-missing": (lambda path: rewrite(path, "rows", ANN + b"\x00", None), "explicit segment 0", "it is missing"),
    "segment-extra": (_other(ANN + b"\x63"), "explicit segment 99", "the head does not count it"),
    "segment-short": (lambda path: rewrite(path, "rows", ANN + b"\x00", b"R"), "explicit head", "events in segments"),
    "key": (_other(ANN + b"xyz"), f"explicit record {(ANN + b'xyz').hex()}", "does not belong to this format"),
    "kind": (_other(b"ann\xff\x07"), "kind 7 key", "no such kind"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_a_broken_record_is_named_and_the_rest_is_shown(tmp_path: Path, name: str) -> None:
    breaks, broken, why = DAMAGES[name]
    filled(tmp_path)
    breaks(tmp_path)
    with inspected(tmp_path) as store:
        found = everything(store)
        damages = [each for sequence in found for each in sequence.damages]
        assert any(each.record.startswith(broken) and why in each.why and each.user == "ann" for each in damages), (
            damages
        )
        assert sum(each.events for each in found if each.user != "ann") == 13
        if name != "kind":
            user = inspect_user(store, "ann", BOTH)
            assert user.damages == tuple(each for each in damages if each.user == "ann")
            intact = sum(each.intact for each in user.sequences[0].chunks)
            assert intact >= 7
            for each in user.sequences[0].chunks:
                detail = inspect_chunk(store, "ann", Kind.EXPLICIT, each.number)
                assert (detail.events is not None) == each.intact
                assert detail.damages == user.damages


@cache
def healthy() -> tuple[RawSequence, NDArray[np.uint64]]:
    with TemporaryDirectory() as name:
        filled(Path(name))
        with inspected(Path(name)) as store, store.view() as view:
            return next(records_in(view, [], ANN)), view.item_ids.copy()


@given(st.data())
def test_nothing_in_a_record_stops_an_inspection(data: st.DataObject) -> None:
    records, ids = healthy()
    head, segments, chunks = records.head or b"", dict(records.segments), list(records.chunks)
    which = data.draw(st.sampled_from(["head", "segment", "chunk"]))
    value = {"head": head, "segment": segments[0], "chunk": chunks[0][1]}[which]
    at = data.draw(st.integers(0, len(value) - 1))
    value = data.draw(
        st.sampled_from(
            [value[:at], value[:at] + bytes([value[at] ^ data.draw(st.integers(1, 255))]) + value[at + 1 :]]
        )
    )
    match which:
        case "head":
            head = value
        case "segment":
            segments[0] = value
        case _:
            chunks[0] = chunks[0][0], value
    found = inspect_sequence(RawSequence(ANN, head, segments, chunks), ids)
    if which == "chunk":
        assert not found.chunks[0].intact
        assert any("chunk" in each.record for each in found.damages)


def test_a_healthy_sequence_has_no_damage() -> None:
    records, ids = healthy()
    assert inspect_sequence(records, ids).damages == ()


def everything(store: InspectablePartition) -> list[SequenceInspection]:
    damages: list[Damage] = []
    with store.view() as view:
        found = [inspect_sequence(records, view.item_ids) for records in records_in(view, damages)]
    assert not damages
    return found
