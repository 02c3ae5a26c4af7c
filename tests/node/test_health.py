from dataclasses import replace

import pytest

from lifeline.node.health import Check, all_ok
from lifeline.stream.partition import PartitionState
from lifeline.stream.standby_status import StandbyState, StandbyStatus
from tests.support.node_health import SERVING, health


def failed(checks: list[Check]) -> list[str]:
    return [check.name for check in checks if not check.ok]


@pytest.mark.parametrize("state", PartitionState)
def test_a_node_is_ready_when_all_it_has_serves_and_dead_only_when_one_is_stalled(state: PartitionState) -> None:
    node = health(SERVING, replace(SERVING, partition=4, state=state, reason="because"))
    assert all_ok(node.ready()) == (state is PartitionState.SERVING)
    assert all_ok(node.live()) == (state is not PartitionState.STALLED)
    if state is not PartitionState.SERVING:
        assert failed(node.ready()) == ["partition-4"]
        assert Check("partition-4", ok=False, detail=f"{state.value}: because") in node.ready()


def test_a_pause_takes_a_node_that_answers_out_of_nothing() -> None:
    paused = replace(SERVING, state=PartitionState.PAUSED, reason="no dead letter is acknowledged", is_served=True)
    assert all_ok(health(paused).ready())
    assert all_ok(health(paused).live())
    assert failed(health(replace(paused, is_served=False)).ready()) == ["partition-3"]


def test_before_the_assignment_the_items_and_after_the_stop_it_is_not_ready() -> None:
    node = health()
    assert all_ok(node.ready())
    node.is_assigned = False
    assert failed(node.ready()) == ["assigned"]
    node.is_assigned, node.has_synced_items = True, False
    assert failed(node.ready()) == ["items"]
    node.has_synced_items, node.is_stopping = True, True
    assert failed(node.ready()) == ["running"]
    assert all_ok(node.live())


def test_an_event_loop_that_hangs_is_dead() -> None:
    node = health(SERVING, stall_after_s=0.0)
    assert failed(node.live()) == ["event-loop"]
    alive = health(SERVING)
    alive.tick()
    assert all_ok(alive.live())


def test_standbys_are_remarks() -> None:
    standbys = [
        StandbyStatus(number, state, 9, 0, "why" if state is StandbyState.DIVERGED else "")
        for number, state in enumerate(StandbyState)
    ]
    node = health(SERVING, standbys=standbys)
    assert all_ok(node.ready())
    assert failed(node.remarks()) == ["standby-2", "standby-3", "standby-4"]
    assert node.remarks()[4].detail == "diverged: why"
