from hypothesis import given
from hypothesis import strategies as st

from tests.support.chaos.schedule import Action, schedule


@given(
    seed=st.integers(0, 1 << 32),
    faults=st.integers(0, 40),
    nodes=st.integers(1, 4),
    actions=st.lists(st.sampled_from(Action), unique=True),
)
def test_every_step_is_possible_and_all_is_well_in_the_end(
    seed: int, faults: int, nodes: int, actions: list[Action]
) -> None:
    made = schedule(seed, faults=faults, nodes=nodes, actions=actions)
    assert made == schedule(seed, faults=faults, nodes=nodes, actions=actions)
    assert {step.action for step in made.steps[:faults]} <= {*actions, Action.THAW, Action.START, Action.BROKER_START}
    running = set(made.nodes[: made.started])
    frozen: set[str] = set()
    broker = True
    for after_s, action, node, at_work in made.steps:
        assert 0 <= after_s <= 4
        assert not at_work or node in running
        match action:
            case Action.START:
                assert node not in running
                running.add(node)
            case Action.KILL | Action.TERMINATE:
                assert node in running - frozen
                running.discard(node)
            case Action.FREEZE:
                assert node in running - frozen
                frozen.add(node)
            case Action.THAW:
                assert node in frozen
                frozen.discard(node)
            case Action.BROKER_KILL | Action.BROKER_STOP:
                assert broker
                broker = False
            case Action.BROKER_START:
                assert not broker
                broker = True
    assert running
    assert not frozen
    assert broker


def test_a_long_schedule_has_every_fault_and_faults_during_recovery() -> None:
    made = schedule(1, faults=200, nodes=4, actions=tuple(Action))
    assert {step.action for step in made.steps} == set(Action)
    short = [step for step in made.steps if step.after_s < 0.5]
    assert len(short) > 60
    assert str(made).count("\n") == len(made.steps)
