"""The simulator's requests in the form that training and evaluation read."""

from collections.abc import Iterator

import numpy as np

from lifeline.core.action_types import bits_of
from lifeline.core.actions import Kind
from lifeline.core.sequence import Sequence
from lifeline.core.vocabulary import Role
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.evaluate.simulator import KINDS, SimulatedUser, Simulator
from lifeline.scorer.features import History, RequestContext, tokenize
from lifeline.scorer.train.request import Request


def requests_of(
    simulator: Simulator, user: SimulatedUser, number: int, config: ModelConfig, *, test: bool
) -> Iterator[Request]:
    """Yield a user's requests of the training or of the test period, oldest first.

    Their ranking `oracle` is the score of a ranker that knows the user's state.
    """
    explicit, impressions = tokenize(_sequences(simulator, user), config.visit_gap_ms)
    utility = np.array([head.utility for head in config.heads])
    heads_of_kind = [
        [
            place
            for place, head in enumerate(config.heads)
            if simulator.vocabulary.action_types[kind].id in head.action_types
        ]
        for kind in KINDS
    ]
    kind_utility = np.array([utility[places].sum() for places in heads_of_kind])
    bits = np.array([bits_of([simulator.vocabulary.action_types[kind].id]) for kind in KINDS], np.uint64)
    requests = user.requests
    for row in np.flatnonzero(requests.is_test == test).tolist():
        at = int(requests.timestamp_ms[row])
        history = History.of(
            explicit.take(slice(0, int(np.searchsorted(explicit.timestamp_ms, at)))),
            impressions.take(slice(0, int(np.searchsorted(impressions.timestamp_ms, at)))),
            config,
        )
        item = requests.item[row]
        yield Request(
            number,
            history,
            RequestContext(at, int(requests.surface[row])),
            simulator.items.item_id[item],
            simulator.items.embedding[item],
            (requests.done[row] * bits).sum(axis=1).astype(np.uint64),
            {"oracle": (requests.oracle[row] @ kind_utility).astype(np.float32)},
        )


def _sequences(simulator: Simulator, user: SimulatedUser) -> dict[Kind, Sequence]:
    events = user.events
    impression = np.isin(
        events.action_type,
        simulator.vocabulary.ids_with_role(Role.IMPRESSION),
    )
    sequences = {}
    for kind, rows in ((Kind.EXPLICIT, ~impression), (Kind.IMPRESSION, impression)):
        item = events.item[rows]
        sequences[kind] = Sequence(
            len(item),
            len(item),
            events.timestamp_ms[rows],
            simulator.items.item_id[item],
            events.action_type[rows],
            events.surface[rows],
            simulator.items.embedding[item],
        )
    return sequences
