import math
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc
import pytest

from lifeline.core.actions import ActionBatch
from lifeline.core.reasons import Reason
from lifeline.core.sequence import AsOf
from lifeline.rpc.directory import PartitionDirectory
from lifeline.rpc.status import Refusal
from lifeline.rpc.validation import (
    MAX_AHEAD,
    as_of_message,
    check_deadline,
    check_user_id,
    invalid_field,
    reader_at,
    time_left,
)
from lifeline.store.embeddings import EmbeddingTable
from lifeline.store.errors import NotOwnerError, NotYetAppliedError
from tests.support.factories import open_store, tiny


class Call:
    """A call with so many seconds left."""

    def __init__(self, left: float | None, *, active: bool = True) -> None:
        self.left, self.active = left, active

    def time_remaining(self) -> float | None:
        return self.left

    def is_active(self) -> bool:
        return self.active

    def peer(self) -> str:
        return "ipv4:127.0.0.1:4711"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[PartitionDirectory]:
    table = EmbeddingTable.open(tmp_path / "items")
    store = open_store(tmp_path / "p", tiny())
    store.apply(ActionBatch.empty(), offset=9)
    found = PartitionDirectory(lambda key: 4 if key == b"elsewhere" else 3, table)
    found.add(store)
    yield found
    store.close()
    table.close()


@pytest.mark.parametrize("user", ["a", "x" * 256, "é" * 128])
def test_a_user_id_has_1_to_256_bytes(user: str) -> None:
    check_user_id(user)


@pytest.mark.parametrize(("user", "size"), [("", 0), ("x" * 257, 257), ("é" * 129, 258)])
def test_other_user_ids_are_refused(user: str, size: int) -> None:
    with pytest.raises(Refusal, match=f"user_id: it has {size} bytes: give 1 to 256 bytes") as caught:
        check_user_id(user)
    assert caught.value.code is grpc.StatusCode.INVALID_ARGUMENT
    assert caught.value.reason is Reason.USER_ID_INVALID
    assert caught.value.metadata == {"field": "user_id"}


def test_an_invalid_field_is_named() -> None:
    refusal = invalid_field("columns", "9 is not a Column", index="2")
    assert (refusal.reason, refusal.metadata) == (Reason.FIELD_INVALID, {"field": "columns", "index": "2"})
    assert refusal.message == "columns: 9 is not a Column"


NEVER = 9.2e9
"""What gRPC gives for a call without a deadline, or more."""


@pytest.mark.parametrize(
    ("left", "found"), [(None, math.inf), (NEVER, math.inf), (math.inf, math.inf), (4.5, 4.5), (0.0, 0.0), (-2.0, 0.0)]
)
def test_a_call_without_a_deadline_has_no_end(left: float | None, found: float) -> None:
    assert time_left(Call(left)) == found  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("call", "code"),
    [
        (Call(0.0), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Call(-1.0), grpc.StatusCode.DEADLINE_EXCEEDED),
        (Call(5.0, active=False), grpc.StatusCode.CANCELLED),
        (Call(None, active=False), grpc.StatusCode.CANCELLED),
    ],
)
def test_work_that_nobody_waits_for_is_refused(
    call: Call, code: grpc.StatusCode, directory: PartitionDirectory
) -> None:
    with pytest.raises(Refusal) as caught:
        check_deadline(call)  # type: ignore[arg-type]
    assert caught.value.code is code
    assert caught.value.reason is Reason.DEADLINE_PASSED
    with pytest.raises(Refusal):
        reader_at(directory, "ann", None, call)  # type: ignore[arg-type]


def test_a_reader_is_given_once_its_offset_is_applied(directory: PartitionDirectory) -> None:
    for offset in (None, 0, 9):
        assert reader_at(directory, "ann", offset, Call(5.0)).store.partition == 3  # type: ignore[arg-type]
    with pytest.raises(NotYetAppliedError):
        reader_at(directory, "ann", 10, Call(0.02))  # type: ignore[arg-type]
    with pytest.raises(Refusal, match="min_offset: it is -1"):
        reader_at(directory, "ann", -1, Call(5.0))  # type: ignore[arg-type]
    with pytest.raises(NotOwnerError):
        reader_at(directory, "elsewhere", 0, Call(5.0))  # type: ignore[arg-type]


@pytest.mark.parametrize("left", [None, NEVER, 60.0])
def test_a_wait_ends_after_the_longest_one_whatever_the_deadline(
    directory: PartitionDirectory, left: float | None
) -> None:
    directory.waits.max_wait_s = 0.05
    begun = time.monotonic()
    with pytest.raises(NotYetAppliedError):
        reader_at(directory, "ann", 10, Call(left))  # type: ignore[arg-type]
    assert 0.05 <= time.monotonic() - begun < 20
    assert directory.waits.statistics() == (0, 0)


def test_a_wait_that_only_somebody_else_can_end_is_refused_with_the_reason(directory: PartitionDirectory) -> None:
    why = ["", "", "a transaction is open: end it"]
    directory.add(next(iter(directory)), lag=lambda: 5, blocked=lambda: why.pop(0) if len(why) > 1 else why[0])
    assert reader_at(directory, "ann", 9, Call(5.0)).store.partition == 3  # type: ignore[arg-type]
    begun = time.monotonic()
    for _ in range(2):
        # The first call is waiting when the partition is paused, the second one comes later.
        with pytest.raises(
            NotYetAppliedError, match=r"leave min_offset out\. .* a transaction is open: end it"
        ) as caught:
            reader_at(directory, "ann", 10, Call(600.0))  # type: ignore[arg-type]
    assert time.monotonic() - begun < 20
    assert Refusal.of(caught.value).code is grpc.StatusCode.FAILED_PRECONDITION
    assert directory.waits.statistics() == (0, 0)


def test_an_offset_far_beyond_the_log_is_refused_at_once(directory: PartitionDirectory) -> None:
    directory.add(next(iter(directory)), lag=lambda: 5)
    directory.waits.max_wait_s = 0.0
    with pytest.raises(NotYetAppliedError):
        reader_at(directory, "ann", 14 + MAX_AHEAD, Call(None))  # type: ignore[arg-type]
    for offset in (15 + MAX_AHEAD, (1 << 63) - 1):
        with pytest.raises(Refusal, match="the last known offset of partition 3 is 14: send the offset that") as caught:
            reader_at(directory, "ann", offset, Call(None))  # type: ignore[arg-type]
        refusal = caught.value
        assert (refusal.code, refusal.reason) == (grpc.StatusCode.OUT_OF_RANGE, Reason.OFFSET_BEYOND_LOG)
        assert (refusal.metadata["known_offset"], refusal.metadata["limit"]) == ("14", str(14 + MAX_AHEAD))


def test_an_offset_that_is_applied_needs_no_place(directory: PartitionDirectory) -> None:
    call = Call(5.0)
    with ExitStack() as stack:
        for _ in range(directory.waits.capacity_per_caller):
            stack.enter_context(directory.waits.place(call))  # type: ignore[arg-type]
        assert reader_at(directory, "ann", 9, call).store.partition == 3  # type: ignore[arg-type]
        with pytest.raises(Refusal) as caught:
            reader_at(directory, "ann", 10, call)  # type: ignore[arg-type]
    assert caught.value.reason is Reason.WAITS_FULL


def test_as_of_goes_over_the_wire_whole() -> None:
    message = as_of_message(AsOf(3, -1, 1 << 62))
    assert (message.partition, message.applied_offset, message.watermark_ms) == (3, -1, 1 << 62)
