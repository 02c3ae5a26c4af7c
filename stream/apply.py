"""Applies decoded records to a store."""

from collections.abc import Sequence

from lifeline.stream.decode import ActionRun, Erasure
from lifeline.stream.stores import Store


def apply_steps(store: Store, steps: Sequence[ActionRun | Erasure]) -> None:
    """Apply decoded steps in order. Each is one write, which also moves the applied offset."""
    for step in steps:
        match step:
            case ActionRun(batch, offset):
                store.apply(batch, offset=offset)
            case Erasure(user_id, offset):
                store.erase(user_id, offset=offset)
