import re
from collections.abc import Callable
from typing import Any, cast

import pytest

from lifeline.stream.bad_record_breaker import BadRecordBreaker
from lifeline.stream.log import LogEnd, LogReader
from lifeline.stream.partition import HeldPartition, PartitionState, TransitionError
from lifeline.stream.pending import IntakeLimit
from tests.support.records import FakeRecord
from tests.support.stream_harness import RecordingDirectory, RecordingStore

Held = HeldPartition[RecordingStore]
States = PartitionState

TRANSITIONS: dict[str, Callable[[Held], Any]] = {
    "assign": lambda held: held.assign(cast("LogReader", Log()), BadRecordBreaker(1, 1.0)),
    "restore": lambda held: held.restore(),
    "catch_up": lambda held: held.catch_up(0),
    "serve": lambda held: held.serve(),
    "stall": lambda held: held.stall("nothing comes"),
    "unstall": lambda held: held.unstall(),
    "hold": lambda held: held.hold("a transaction is open"),
    "suspend": lambda held: held.suspend("partitions were added"),
    "pause": lambda held: held.pause("no room"),
    "retry": lambda held: held.retry(),
    "recover": lambda held: held.recover(),
    "refuse": lambda held: held.refuse("a gap"),
    "revoke": lambda held: held.revoke(),
}
PATHS: dict[States, tuple[str, ...]] = {
    States.ASSIGNED: ("assign",),
    States.RESTORING: ("assign", "restore"),
    States.CATCHING_UP: ("assign", "restore", "catch_up"),
    States.SERVING: ("assign", "restore", "catch_up", "serve"),
    States.STALLED: ("assign", "restore", "catch_up", "stall"),
    States.PAUSED: ("assign", "restore", "catch_up", "pause"),
    States.REFUSING: ("assign", "refuse"),
    States.REVOKED: ("assign", "revoke"),
}
CONSUMING = {States.CATCHING_UP, States.SERVING, States.STALLED, States.PAUSED}
# The table of the module's docstring.
TABLE: dict[str, tuple[set[States], States]] = {
    "assign": (set(States), States.ASSIGNED),
    "restore": ({States.ASSIGNED}, States.RESTORING),
    "catch_up": ({States.ASSIGNED, States.RESTORING}, States.CATCHING_UP),
    "serve": (CONSUMING, States.SERVING),
    "stall": ({States.CATCHING_UP, States.SERVING}, States.STALLED),
    "unstall": ({States.STALLED}, States.CATCHING_UP),
    "hold": ({States.SERVING}, States.PAUSED),
    "suspend": (set(States) - {States.REVOKED, States.REFUSING}, States.PAUSED),
    "pause": (CONSUMING, States.PAUSED),
    "retry": ({States.PAUSED}, States.PAUSED),
    "recover": ({States.PAUSED}, States.CATCHING_UP),
    "refuse": (set(States) - {States.REVOKED}, States.REFUSING),
    "revoke": (set(States), States.REVOKED),
}


class Log:
    """A log whose end was never fetched."""

    end: LogEnd | None = None
    is_connected = True

    def known_end(self, partition: int) -> LogEnd | None:  # noqa: ARG002
        return self.end

    def connected(self, partition: int) -> bool:  # noqa: ARG002
        return self.is_connected


def make_partition(*transitions: str) -> Held:
    partition: Held = HeldPartition(3, IntakeLimit(1 << 20, 1 << 30), RecordingDirectory())
    partition.store = RecordingStore(3)
    for name in transitions:
        TRANSITIONS[name](partition)
    return partition


@pytest.mark.parametrize("state", States)
@pytest.mark.parametrize("name", TABLE)
def test_every_transition_comes_from_the_states_of_the_table(name: str, state: States) -> None:
    partition = make_partition(*PATHS[state])
    assert partition.state is state
    sources, target = TABLE[name]
    if state in sources:
        TRANSITIONS[name](partition)
        assert partition.state is target
    else:
        with pytest.raises(TransitionError, match=f"from {state.value} to "):
            TRANSITIONS[name](partition)
        assert partition.state is state


@pytest.mark.parametrize("name", ["assign", "pause", "suspend", "refuse", "revoke"])
def test_the_end_of_an_epoch_voids_what_waits(name: str) -> None:
    partition = make_partition(*PATHS[States.SERVING])
    partition.push([FakeRecord(offset=offset) for offset in range(5)])
    epoch = partition.epoch
    TRANSITIONS[name](partition)
    assert (partition.pending.records, partition.is_consuming, partition.epoch) == (0, False, epoch + 1)


def test_a_pause_ends_in_the_state_that_it_interrupted_and_counts_until_a_batch_is_applied() -> None:
    partition = make_partition(*PATHS[States.SERVING])
    assert [partition.pause("no room") for _ in range(3)] == [0, 1, 2]
    partition.retry()
    assert (partition.is_consuming, partition.reason) == (True, "no room")
    partition.recover()
    assert partition.status().state is States.SERVING


def test_what_waits_stalls_only_where_it_could_be_applied() -> None:
    partition = make_partition(*PATHS[States.CATCHING_UP])
    log = Log()
    partition.reader = cast("LogReader", log)
    log.end, log.is_connected = LogEnd(5, 5), False
    partition.progress_at -= 100
    partition.observe(has_room=True, stall_after_s=30)
    states = [partition.state]
    log.is_connected = True
    partition.progress_at -= 100
    partition.observe(has_room=True, stall_after_s=30)
    states.append(partition.state)
    assert partition.reason.startswith("5 records wait")
    log.is_connected = False
    partition.observe(has_room=True, stall_after_s=30)
    assert [*states, partition.state] == [States.CATCHING_UP, States.STALLED, States.CATCHING_UP]


def test_an_open_transaction_is_lag_but_no_stall_and_holds_the_partition_only_after_a_while() -> None:
    partition = make_partition(*PATHS[States.CATCHING_UP])
    log = Log()
    partition.reader, partition.store = cast("LogReader", log), RecordingStore(3, applied_offset=4)
    log.end = LogEnd(stable=5, end=8)
    partition.progress_at -= 100
    partition.observe(has_room=True, stall_after_s=30)
    status = partition.status()
    assert (status.state, status.lag, status.is_served, partition.blocked) == (States.SERVING, 3, True, "")
    assert status.waiting_since_ms == status.held_since_ms > 0
    partition.held = partition.held._replace(at=partition.held.at - 31)
    log.end = LogEnd(stable=5, end=9)
    for _ in range(2):
        partition.observe(has_room=True, stall_after_s=30)
        status = partition.status()
        assert (status.state, status.lag, status.is_served) == (States.PAUSED, 4, True)
    assert status.reason == partition.blocked
    assert re.match(r"a transaction that began at offset 5 has been open since 20\d\d-", status.reason)
    assert "abort --topic ACTIONS_TOPIC --partition 3 --start-offset 5`" in status.reason
    assert partition.is_consuming
    # The first transaction ends, and another one begins.
    log.end = LogEnd(stable=7, end=9)
    partition.observe(has_room=True, stall_after_s=30)
    status = partition.status()
    assert (status.state, status.lag, status.reason, status.held_since_ms) == (States.SERVING, 4, "", 0)
    partition.store.applied_offset = 6
    partition.observe(has_room=True, stall_after_s=30)
    assert (partition.state, partition.lag, partition.held.offset) == (States.SERVING, 2, 7)
    log.end = LogEnd(stable=10, end=10)
    partition.store.applied_offset = 9
    partition.observe(has_room=True, stall_after_s=30)
    status = partition.status()
    assert (status.state, status.lag, status.held_since_ms) == (States.SERVING, 0, 0)


@pytest.mark.parametrize(("applied", "end", "is_served"), [(4, 9, True), (-1, 9, False), (-1, 0, True)])
def test_a_suspended_partition_answers_reads_unless_its_store_has_nothing_of_its_log(
    applied: int, end: int, *, is_served: bool
) -> None:
    partition = make_partition("assign", "restore")
    partition.store, partition.end_offset = RecordingStore(3, applied_offset=applied), end
    partition.suspend("partitions were added")
    assert (partition.is_served, partition.is_consuming) == (is_served, False)
    assert partition.blocked == "partitions were added"


def test_a_refusal_is_remembered_through_a_revocation_and_ends_with_the_next_assignment() -> None:
    partition = make_partition("assign", "restore", "catch_up", "serve")
    seen = [(partition.is_served, partition.is_unusable)]
    for name in ("refuse", "revoke", "assign"):
        TRANSITIONS[name](partition)
        seen.append((partition.is_served, partition.is_unusable))
    assert seen == [(True, False), (False, True), (False, True), (False, False)]


def test_lag_counts_what_the_log_is_known_to_hold() -> None:
    partition = make_partition()
    partition.store = None
    assert (partition.applied_offset, partition.lag) == (-1, 0)
    partition.end_offset = 10
    assert partition.lag == 10
    partition.store = RecordingStore(3, applied_offset=6)
    assert partition.lag == 3
    partition.control_offset = 10
    assert partition.lag == 0
    status = partition.status()
    assert (status.partition, status.state, status.applied_offset) == (3, States.ASSIGNED, 6)
