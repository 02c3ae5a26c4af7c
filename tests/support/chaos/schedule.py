"""Schedules of faults: seeded, so that one that failed can be run again, and always ending with everything well.

Half of the pauses are so short that a fault meets nodes which still restore, catch up or rebalance; some faults do
not even wait for that, and meet a process that starts.
"""

import random
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple


class Action(StrEnum):
    """What is done to a node, or to the broker."""

    START = "start"
    """A node begins, or begins anew, over the directory it had."""
    KILL = "SIGKILL"
    TERMINATE = "SIGTERM"
    """It stops in its own time, and has to end with 0."""
    FREEZE = "SIGSTOP"
    THAW = "SIGCONT"
    BROKER_KILL = "broker killed"
    BROKER_STOP = "broker stopped"
    BROKER_START = "broker started"


class Step(NamedTuple):
    """One thing that happens."""

    after_s: float
    """Seconds since the step before."""
    action: Action
    node: str = ""
    """Empty for the broker's."""
    at_work: bool = False
    """Whether the pause begins when the node has been given partitions (or is not, for long)."""

    def __str__(self) -> str:
        since = " since it has partitions" if self.at_work else ""
        return f"+{self.after_s:.2f}s{since} {self.node or 'broker'} {self.action}"


class Schedule(NamedTuple):
    """Faults in their order; `nodes` are those that may come, the first `started` run from the start."""

    seed: int
    nodes: tuple[str, ...]
    started: int
    steps: tuple[Step, ...]

    def __str__(self) -> str:
        return "\n".join(
            [f"seed {self.seed}, {self.started} of {len(self.nodes)} nodes started", *map(str, self.steps)]
        )


_NODE_FAULTS = {Action.KILL: 5, Action.TERMINATE: 3, Action.FREEZE: 2, Action.START: 6, Action.THAW: 6}
_BROKER_FAULTS = {Action.BROKER_KILL: 1, Action.BROKER_STOP: 1, Action.BROKER_START: 6}
_FROM = {
    Action.START: "down",
    Action.KILL: "up",
    Action.TERMINATE: "up",
    Action.FREEZE: "up",
    Action.THAW: "frozen",
    Action.BROKER_KILL: "up",
    Action.BROKER_STOP: "up",
    Action.BROKER_START: "down",
}
_TO = {
    Action.START: "up",
    Action.KILL: "down",
    Action.TERMINATE: "down",
    Action.FREEZE: "frozen",
    Action.THAW: "up",
    Action.BROKER_KILL: "down",
    Action.BROKER_STOP: "down",
    Action.BROKER_START: "up",
}
BROKER = ""


def schedule(
    seed: int,
    *,
    faults: int,
    nodes: int = 3,
    actions: Sequence[Action] = tuple(_NODE_FAULTS),
    longest_s: float = 4.0,
) -> Schedule:
    """Return `faults` steps of `actions` over up to `nodes` nodes, and then those that make all well again.

    In the end no node is frozen, the broker is up, and at least one node runs: which of the others do is chance.
    """
    rng = random.Random(seed)
    names = tuple(f"node-{number}" for number in range(1, nodes + 1))
    started = rng.randint(1, nodes)
    where = {name: "up" if number < started else "down" for number, name in enumerate(names)} | {BROKER: "up"}
    steps: list[Step] = []

    def do(after_s: float, action: Action, name: str, *, at_work: bool = False) -> None:
        where[name] = _TO[action]
        steps.append(Step(after_s, action, name, at_work))

    while len(steps) < faults:
        can = [
            (action, name, weight)
            for weights, things in ((_NODE_FAULTS, names), (_BROKER_FAULTS, (BROKER,)))
            for action, weight in weights.items()
            if action in actions
            for name in things
            if where[name] == _FROM[action]
        ]
        if not can:
            break
        action, name, _ = rng.choices(can, [weight for *_, weight in can])[0]
        after_s = rng.uniform(0, 0.5) if rng.random() < 0.5 else rng.uniform(0.5, longest_s)
        do(after_s, action, name, at_work=name != BROKER and where[name] == "up" and rng.random() < 0.8)
    if where[BROKER] == "down":
        do(1.0, Action.BROKER_START, BROKER)
    for name in names:
        if where[name] == "frozen":
            do(0.5, Action.THAW, name)
    if "up" not in (where[name] for name in names):
        do(0.5, Action.START, names[0])
    return Schedule(seed, names, started, tuple(steps))
