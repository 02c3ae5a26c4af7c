from collections.abc import Callable
from typing import Any, cast

import pytest

from lifeline.stream.bad_record_breaker import BadRecordBreaker
from lifeline.stream.log import LogReader
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
    "pause": (CONSUMING, States.PAUSED),
    "retry": ({States.PAUSED}, States.PAUSED),
    "recover": ({States.PAUSED}, States.CATCHING_UP),
    "refuse": (set(States) - {States.REVOKED}, States.REFUSING),
    "revoke": (set(States), States.REVOKED),
}


class Log:
    """A log whose end was never fetched."""

    end: int | None = None
    is_connected = True

    def known_end(self, partition: int) -> int | None:  # noqa: ARG002
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


@pytest.mark.parametrize("name", ["assign", "pause", "refuse", "revoke"])
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
    log.end, log.is_connected = 5, False
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
