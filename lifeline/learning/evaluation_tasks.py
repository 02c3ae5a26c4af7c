"""The tasks that models are evaluated on: the simulator's requests, and those of real histories.

A request of a history is a visit to a few items by a user with some history. Its candidates are the items that the user
acted on, and negatives: items that anybody or this user acted on recently or long ago, popular items, and items of the
same surface (for files: the same directory). A deleted file is no candidate until it exists again.

A request of MovieLens is the next film that a user rates: its users rate many films in one sitting, from the site's own
lists. So every rating starts a visit, and most negatives are drawn by popularity.
"""

from collections.abc import Iterator, Mapping
from itertools import pairwise

import numpy as np

from lifeline.core.actions import Kind
from lifeline.core.sequence import EMBEDDING_DIM, Sequence
from lifeline.core.vocabulary import Role, Vocabulary
from lifeline.learning import movielens
from lifeline.scorer.evaluate.simulator import Simulator, SimulatorSettings
from lifeline.scorer.evaluate.tasks import HistoryTask, SimulatedTask
from lifeline.scorer.settings import TrainSettings
from lifeline.sources.history import History

EMBEDDED_SHARE = 0.7
"""The share of a history, its beginning, that its embeddings were made from: no request is taken from it."""
_NEIGHBOURS = 1_000


def evaluation_settings(steps: int, **changes: object) -> TrainSettings:
    """Return the settings that models are trained with for evaluation; `changes` are fields of TrainSettings."""
    settings = {
        "steps": steps,
        "precision": "bfloat16",
        "candidates": 32,
        "candidates_drawn": 16,
        "max_positives": 5,
        "min_history": 100,
        "max_acts": 20,
        "negatives": {"recent": 8, "popular": 6, "surface": 8, "own": 5, "older": 2},
    }
    return TrainSettings.model_validate(settings | changes)


def simulated_task(world: int, users: int, settings: TrainSettings) -> SimulatedTask:
    """Return the requests of one of the simulator's worlds."""
    return SimulatedTask(Simulator(SimulatorSettings(seed=world, users=users)), settings)


def history_task(history: History, settings: TrainSettings) -> HistoryTask:
    """Return requests of a real history, all later than its embeddings' data; raises TrainingDataError."""
    deleted = [number for name, number in _ids(history.vocabulary).items() if name == "delete"]
    # Some authors' clocks are far off: take the median of the times around the boundary.
    place = int(EMBEDDED_SHARE * len(history))
    around = history.timestamp_ms[max(0, place - _NEIGHBOURS // 2) : place + _NEIGHBOURS // 2]
    own = settings.model_copy(
        update={"from_timestamp_ms": int(np.median(around)), "ending_types": (*settings.ending_types, *deleted)}
    )
    return HistoryTask(history.name, _sequences(history), history.vocabulary, own)


def ratings_task(history: History, settings: TrainSettings) -> HistoryTask:
    """Return requests for the next item that a user rates, after at least 40; raises TrainingDataError."""
    known = history.timestamp_ms[int(movielens.EMBEDDED_SHARE * len(history))]
    own = settings.model_copy(
        update={
            "from_timestamp_ms": int(known),
            "min_history": 40,
            "max_positives": 3,
            "negatives": {"popular": 3, "random": 1},
        }
    )
    return HistoryTask(history.name, _sequences(history), history.vocabulary, own, visit_gap_ms=1)


def _ids(vocabulary: Vocabulary) -> dict[str, int]:
    return {name: action.id for name, action in vocabulary.action_types.items()}


def _sequences(history: History) -> Iterator[Mapping[Kind, Sequence]]:
    """Yield each user's events as a store would: in order, and without repeats."""
    users, user = np.unique(np.array(history.user_id), return_inverse=True)
    columns = np.column_stack(
        [
            user.astype(np.uint64),
            history.timestamp_ms.astype(np.uint64),
            history.item_id,
            history.action_type.astype(np.uint64),
            history.surface.astype(np.uint64),
        ]
    )
    # Sorted by user and time, each once.
    columns = np.unique(columns, axis=0)
    embedded = np.argsort(history.embeddings.item_id)
    ids = history.embeddings.item_id[embedded]
    place = np.minimum(np.searchsorted(ids, columns[:, 2]), len(ids) - 1)
    embedding = np.zeros((len(columns), EMBEDDING_DIM), np.int8)
    known = ids[place] == columns[:, 2]
    embedding[known] = history.embeddings.embedding[embedded[place[known]]]
    impressions = history.vocabulary.ids_with_role(Role.IMPRESSION)
    is_impression = np.isin(columns[:, 3], impressions)
    bounds = np.searchsorted(columns[:, 0], np.arange(len(users) + 1, dtype=np.uint64)).tolist()
    for begin, end in pairwise(bounds):
        found = {}
        for kind, wanted in ((Kind.EXPLICIT, ~is_impression), (Kind.IMPRESSION, is_impression)):
            rows = begin + np.flatnonzero(wanted[begin:end])
            found[kind] = Sequence(
                len(rows),
                len(rows),
                columns[rows, 1].astype(np.int64),
                columns[rows, 2],
                columns[rows, 3].astype(np.uint8),
                columns[rows, 4].astype(np.uint8),
                embedding[rows],
            )
        yield found
