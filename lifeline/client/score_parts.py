"""How a request for many candidates is split into requests that a node takes, and how their replies are joined."""

from collections.abc import Sequence

import grpc
import numpy as np

from lifeline.client.errors import LifelineError
from lifeline.client.replies import Scores
from lifeline.core.reasons import Reason


class CandidateLimit:
    """The most candidates that a node takes in one request, as far as its refusals have said."""

    def __init__(self) -> None:
        self.value: int | None = None
        """None before the first refusal."""

    def parts(self, count: int, contributions: int) -> list[slice]:
        """Return the slices of `count` candidates, one request each.

        A contribution to explain costs as much as another candidate, and counts against the same limit.
        """
        size = count if self.value is None else max(1, self.value // max(1, contributions))
        return [slice(start, start + size) for start in range(0, count, size)] if count else [slice(0, 0)]

    def learn(self, error: LifelineError) -> bool:
        """Note the limit that a refusal names; returns whether smaller requests may be taken."""
        limit = error.metadata.get("limit", "")
        is_about_count = error.reason == Reason.CANDIDATES_INVALID or error.metadata.get("field") == "contributions"
        if error.code is not grpc.StatusCode.INVALID_ARGUMENT or not is_about_count or not limit.isdecimal():
            return False
        before, self.value = self.value, int(limit)
        return self.value > 0 and self.value != before


def join_scores(parts: Sequence[Scores]) -> Scores:
    """Return the scores of all parts as one reply; all come from one model version.

    `as_of` is the oldest state of them: what it includes, every part includes.
    """
    first = parts[0]
    if len(parts) == 1:
        return first
    return Scores(
        heads=first.heads,
        item_id=np.concatenate([part.item_id for part in parts]),
        score=np.concatenate([part.score for part in parts]),
        probability=np.concatenate([part.probability for part in parts]),
        embedding_known=np.concatenate([part.embedding_known for part in parts]),
        selected=tuple(tokens for part in parts for tokens in part.selected),
        as_of=min((part.as_of for part in parts), key=lambda as_of: as_of.applied_offset),
        model=first.model,
        model_version=first.model_version,
    )
