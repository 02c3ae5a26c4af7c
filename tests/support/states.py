"""The state of a node's partitions, read from its directory beside it."""

from lifeline.config import Settings
from lifeline.ops.offline import open_partitions
from lifeline.store.recount import recount
from lifeline.store.state import State


def states(settings: Settings) -> dict[int, State]:
    """Return each partition's state, once the stored events have been found to add up to it."""
    found = {}
    with open_partitions(settings) as stores:
        for store in stores:
            assert recount(store) == (store.state.events, store.state.fingerprint), store.partition
            found[store.partition] = store.state
    return found
