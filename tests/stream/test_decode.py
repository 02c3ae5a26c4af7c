import itertools
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st

from lifeline.core.actions import MAX_TIMESTAMP_MS, NO_LOG_TIME, Kind
from lifeline.core.partitioner import partition_of
from lifeline.core.vocabulary import Vocabulary
from lifeline.stream.decode import ActionRun, DeadLetterReason, DecodedBatch, Erasure, Rules, decode, unframe
from lifeline.stream.record import LOG_APPEND_TIME, UnreadableRecords
from lifeline.v1.action_pb2 import Action
from tests.support.records import LOGGED_MS, PARTITION, FakeRecord, value

RULES = Rules(Vocabulary(), partitions=4, max_action_bytes=1_000, max_future_ms=1_000)


def users_of(partition: int, count: int) -> list[str]:
    names = map("user-{}".format, itertools.count())
    return list(itertools.islice((name for name in names if partition_of(name.encode(), 4) == partition), count))


def decode_single(record: FakeRecord | UnreadableRecords) -> tuple[DecodedBatch, list[tuple[DeadLetterReason, str]]]:
    decoded = decode([record], RULES)
    return decoded, [(letter.reason, letter.message) for letter in decoded.dead_letters]


def test_columns_of_a_run() -> None:
    users = users_of(0, 5)
    records = [
        FakeRecord(
            offset=10 + n,
            partition=0,
            key=user.encode(),
            value=value(
                user_id=user, item_id=2**64 - 1 - n, timestamp_ms=LOGGED_MS + n, action_type=n + 1, surface=n % 4
            ),
        )
        for n, user in enumerate(users)
    ]
    decoded = decode(records, RULES)
    assert decoded.dead_letters == []
    assert decoded.actions == 5
    (run,) = decoded.steps
    assert isinstance(run, ActionRun)
    assert run.offset == 14
    assert run.batch.user_ids == [user.encode() for user in users]
    assert run.batch.item_id.tolist() == [2**64 - 1 - n for n in range(5)]
    assert run.batch.timestamp_ms.tolist() == [LOGGED_MS + n for n in range(5)]
    assert run.batch.code.tolist() == [(n + 1) << 8 | n % 4 for n in range(5)]
    assert run.batch.kind.tolist() == [Kind.EXPLICIT] * 4 + [Kind.IMPRESSION]
    assert [run.batch.timestamp_ms.dtype, run.batch.item_id.dtype, run.batch.code.dtype, run.batch.kind.dtype] == [
        np.int64,
        np.uint64,
        np.uint16,
        np.uint8,
    ]


@pytest.mark.parametrize("frame", [b"\x00\x00\x00\x00\x2a\x00", b"\x00\x00\x00\x00\x2a\x02\x00"])
def test_schema_registry_framing_is_read_like_a_bare_value(frame: bytes) -> None:
    bare, framed = decode([FakeRecord(value=value())], RULES), decode([FakeRecord(value=frame + value())], RULES)
    assert framed.dead_letters == []
    (left,), (right,) = bare.steps, framed.steps
    assert isinstance(left, ActionRun)
    assert isinstance(right, ActionRun)
    assert left.batch.user_ids == right.batch.user_ids
    assert left.batch.item_id.tolist() == right.batch.item_id.tolist()


@pytest.mark.parametrize(
    "value", [b"\x00", b"\x00\x00\x00\x00\x01", b"\x00\x00\x00\x00\x01\x02\x02", b"\x00\x00\x00\x00\x01\x04\x00\x00"]
)
def test_framing_of_another_message_or_cut_short(value: bytes) -> None:
    with pytest.raises(DecodeError, match="first message"):
        unframe(value)
    assert decode_single(FakeRecord(value=value))[1][0][0] is DeadLetterReason.UNDECODABLE


UNREADABLE = UnreadableRecords("actions", PARTITION, 0, 0, LOGGED_MS, 9, "ab", b"head", "its checksum is wrong")
CASES: list[tuple[FakeRecord | UnreadableRecords, DeadLetterReason, str]] = [
    (UNREADABLE, DeadLetterReason.UNREADABLE, "its checksum is wrong"),
    (FakeRecord(value=b"x" * 1_001), DeadLetterReason.OVERSIZED, "1001 bytes, above 1000"),
    (FakeRecord(value=b"\xff\xff\xffgarbage"), DeadLetterReason.UNDECODABLE, "not a lifeline.v1.Action"),
    (FakeRecord(value=b"\x0a\x02\xc3\x28"), DeadLetterReason.UNDECODABLE, "not a lifeline.v1.Action"),
    (FakeRecord(key=None, value=b"\xff"), DeadLetterReason.UNDECODABLE, "not a lifeline.v1.Action"),
    (FakeRecord(value=b""), DeadLetterReason.INVALID_USER_ID, "1 to 256 bytes"),
    (FakeRecord(value=value(user_id="")), DeadLetterReason.INVALID_USER_ID, "1 to 256 bytes"),
    (FakeRecord(key=None, value=value()), DeadLetterReason.INVALID_USER_ID, "1 to 256 bytes"),
    (FakeRecord(key=b"\xff\xfe", value=value()), DeadLetterReason.INVALID_USER_ID, "UTF-8"),
    (FakeRecord(key=b"a" * 257, value=value(user_id="a" * 257)), DeadLetterReason.INVALID_USER_ID, "256"),
    (FakeRecord(value=value(user_id="bob")), DeadLetterReason.KEY_MISMATCH, "user_id 'bob'"),
    (FakeRecord(value=value(), partition=(PARTITION + 1) % 4), DeadLetterReason.MISROUTED, "of 4"),
    (FakeRecord(value=value(timestamp_ms=0)), DeadLetterReason.INVALID_TIMESTAMP, "is 0, and must be above 0"),
    (FakeRecord(value=value(timestamp_ms=-(2**63))), DeadLetterReason.INVALID_TIMESTAMP, "above 0"),
    (FakeRecord(value=value(timestamp_ms=LOGGED_MS + 1_001)), DeadLetterReason.FAR_FUTURE, "1000 ms after"),
    (FakeRecord(value=value(timestamp_ms=2**63 - 1)), DeadLetterReason.FAR_FUTURE, "after the year 2099"),
    (FakeRecord(value=value(timestamp_ms=2**62), timestamp=-1), DeadLetterReason.FAR_FUTURE, "after the year 2099"),
    (
        FakeRecord(value=value(timestamp_ms=2**62), timestamp=2**62, timestamp_type=0),
        DeadLetterReason.FAR_FUTURE,
        "after the year 2099",
    ),
    (
        FakeRecord(value=value(timestamp_ms=MAX_TIMESTAMP_MS + 1), timestamp=MAX_TIMESTAMP_MS),
        DeadLetterReason.FAR_FUTURE,
        "4102444800001, after the year 2099",
    ),
    (FakeRecord(value=value(action_type=0)), DeadLetterReason.UNKNOWN_ACTION_TYPE, "action_type 0"),
    (FakeRecord(value=value(action_type=257)), DeadLetterReason.UNKNOWN_ACTION_TYPE, "action_type 257"),
    (FakeRecord(value=value(action_type=2**32 - 1)), DeadLetterReason.UNKNOWN_ACTION_TYPE, "not in the vocabulary"),
    (FakeRecord(value=value(action_type=65_537)), DeadLetterReason.UNKNOWN_ACTION_TYPE, "65537"),
    (FakeRecord(value=value(surface=9)), DeadLetterReason.UNKNOWN_SURFACE, "surface 9"),
    (FakeRecord(value=value(surface=65_536)), DeadLetterReason.UNKNOWN_SURFACE, "surface 65536"),
    (FakeRecord(key=None), DeadLetterReason.INVALID_USER_ID, "1 to 256 bytes"),
    (FakeRecord(key=b""), DeadLetterReason.INVALID_USER_ID, "1 to 256 bytes"),
    (FakeRecord(partition=(PARTITION + 1) % 4), DeadLetterReason.MISROUTED, "does not belong"),
]


@pytest.mark.parametrize(("record", "reason", "message"), CASES)
def test_each_reason_alone_and_among_good_records(
    record: FakeRecord | UnreadableRecords, reason: DeadLetterReason, message: str
) -> None:
    decoded, letters = decode_single(record)
    assert [why for why, _ in letters] == [reason]
    assert message in letters[0][1]
    assert decoded.dead_letters[0].record is record
    (run,) = decoded.steps
    assert isinstance(run, ActionRun)
    assert (len(run.batch), run.offset, decoded.actions) == (0, 0, 0)

    good = FakeRecord(value=value())
    if isinstance(record, UnreadableRecords) or record.partition == PARTITION:
        among = [good, replace(record, offset=1), replace(good, offset=2)]
        decoded = decode(among, RULES)
        assert [letter.reason for letter in decoded.dead_letters] == [reason]
        (run,) = decoded.steps
        assert isinstance(run, ActionRun)
        assert (len(run.batch), run.offset, decoded.actions) == (2, 2, 2)


def test_every_reason_has_a_case() -> None:
    assert {reason for _, reason, _ in CASES} == set(DeadLetterReason)


@pytest.mark.parametrize("timestamp_ms", [1, LOGGED_MS + 1_000])
def test_the_bounds_of_time_are_inside(timestamp_ms: int) -> None:
    assert decode_single(FakeRecord(value=value(timestamp_ms=timestamp_ms)))[1] == []


@pytest.mark.parametrize("timestamp", [-1, -(2**63), MAX_TIMESTAMP_MS])
def test_a_record_without_a_time_of_its_own_is_bounded_by_the_year_2099(timestamp: int) -> None:
    assert decode_single(FakeRecord(value=value(timestamp_ms=MAX_TIMESTAMP_MS), timestamp=timestamp))[1] == []


def test_the_log_time_of_an_action_is_the_logs_own_or_none() -> None:
    good = FakeRecord(value=value())
    records = [
        good,
        replace(good, timestamp=LOGGED_MS + 1),
        replace(good, timestamp_type=0),
        replace(good, value=b"\xff"),
        replace(good, timestamp=-1),
    ]
    (run,) = decode(records, RULES).steps
    assert isinstance(run, ActionRun)
    assert run.batch.logged_ms.tolist() == [LOGGED_MS, LOGGED_MS + 1, NO_LOG_TIME, NO_LOG_TIME]
    assert run.batch.watermark_ms == 5
    (run,) = decode(records[2:], RULES).steps
    assert isinstance(run, ActionRun)
    assert run.batch.watermark_ms == NO_LOG_TIME


def test_a_value_of_the_greatest_size_is_read() -> None:
    padded = value(event_id="e" * 500)
    rules = replace(RULES, max_action_bytes=len(padded))
    assert decode([FakeRecord(value=padded)], rules).actions == 1
    assert decode([FakeRecord(value=padded)], replace(rules, max_action_bytes=len(padded) - 1)).actions == 0


def test_steps_split_at_erasures_and_cover_every_offset() -> None:
    kinds = "..E.EE..x"
    records = [
        FakeRecord(offset=100 + n, value={".": value(item_id=n), "E": None, "x": b"\xff"}[kind])
        for n, kind in enumerate(kinds)
    ]
    decoded = decode(records, RULES)
    shape = [(step.offset, len(step.batch) if isinstance(step, ActionRun) else step.user_id) for step in decoded.steps]
    assert shape == [(101, 2), (102, b"ann"), (103, 1), (104, b"ann"), (105, b"ann"), (108, 2)]
    assert decoded.actions == 5
    assert [letter.record.offset for letter in decoded.dead_letters] == [108]


RECORDS = st.lists(
    st.tuples(
        st.sampled_from(["ann", *users_of(PARTITION, 3), *users_of((PARTITION + 1) % 4, 1)]),
        st.one_of(
            st.none(),
            st.binary(max_size=40),
            st.builds(
                lambda user, item, at, kind, surface: Action(
                    user_id=user, item_id=item, timestamp_ms=at, action_type=kind, surface=surface
                ),
                st.sampled_from(["ann", *users_of(PARTITION, 3)]),
                st.integers(0, 2**64 - 1),
                st.integers(-(2**63), 2**63 - 1) | st.integers(1, 100),
                st.integers(0, 2**32 - 1) | st.integers(0, 7),
                st.integers(0, 2**32 - 1) | st.integers(0, 5),
            ),
        ),
        st.booleans(),
        st.sampled_from([LOGGED_MS, LOGGED_MS, LOGGED_MS + 1, 2**62, 0, -1]),
        st.sampled_from([LOG_APPEND_TIME, LOG_APPEND_TIME, 0]),
    ),
    min_size=1,
    max_size=30,
)


@given(RECORDS)
def test_a_batch_gives_what_its_records_give_one_by_one(rows: list[tuple[str, Any, bool, int, int]]) -> None:
    records = []
    for offset, (key, content, framed, timestamp, kind) in enumerate(rows):
        packed = content.SerializeToString() if isinstance(content, Action) else content
        if framed and packed is not None:
            packed = b"\x00\x00\x00\x00\x07\x00" + packed
        record = FakeRecord(offset=offset, key=key.encode(), value=packed)
        records.append(replace(record, timestamp=timestamp, timestamp_type=kind))
    whole = decode(records, RULES)
    singles = [decode([record], RULES) for record in records]
    assert [(letter.record.offset, letter.reason) for letter in whole.dead_letters] == [
        (letter.record.offset, letter.reason) for single in singles for letter in single.dead_letters
    ]
    assert flat(whole.steps) == [row for single in singles for row in flat(single.steps)]
    assert whole.actions == sum(single.actions for single in singles)
    offsets = [step.offset for step in whole.steps]
    assert offsets == sorted(set(offsets))
    assert offsets[-1] == len(records) - 1


def flat(steps: list[ActionRun | Erasure]) -> list[Any]:
    rows: list[Any] = []
    for step in steps:
        if isinstance(step, Erasure):
            rows.append(("erase", step.user_id))
        else:
            batch = step.batch
            rows += zip(
                batch.user_ids,
                batch.timestamp_ms.tolist(),
                batch.item_id.tolist(),
                batch.code.tolist(),
                batch.kind.tolist(),
                batch.logged_ms.tolist(),
                strict=True,
            )
    return rows
