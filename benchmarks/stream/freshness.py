"""Freshness of a node under the load of many users."""

import numpy as np

from benchmarks.freshness import Freshness, measure_freshness
from benchmarks.store.workloads import START_MS, Items, user_names
from benchmarks.stream.environment import READY_S, open_environment
from lifeline.core.vocabulary import Vocabulary
from lifeline.v1.action_pb2 import Action

USERS = 2_000
SAMPLE_EVERY = 50


def freshness(bootstrap_servers: str, vocabulary: Vocabulary, *, per_s: int = 5_000, seconds: int = 60) -> Freshness:
    """Publish `per_s` actions a second for `seconds`, and ask for one in fifty as soon as it is acknowledged."""
    users = [user.decode() for user in user_names(USERS)]
    items = Items(np.random.default_rng(3)).draw(per_s).tolist()
    actions = (
        Action(
            user_id=users[number * 7 % USERS],
            item_id=items[number % per_s],
            timestamp_ms=START_MS + number,
            action_type=1,
        )
        for number in range(per_s * seconds)
    )
    with open_environment(bootstrap_servers, vocabulary) as environment, environment.node("freshness") as node:
        node.start()
        node.wait_ready(READY_S)
        measured = measure_freshness(
            node.address, environment.kafka, actions, per_s=per_s, sample_every=SAMPLE_EVERY, linger_ms=2
        )
        node.stop()
    return measured
