"""Experiments: versions of a model side by side, and whether one did better.

A user belongs to an arm by a hash of the experiment's name and the user id: to the same one on every node, for as long
as the shares stay, and to one that says nothing of the user's arm in another experiment. The unit of everything is the
user: requests and actions of one user are not independent.
"""

import hashlib
from collections.abc import Mapping
from typing import Annotated, NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from lifeline.scorer.errors import ExperimentError
from lifeline.scorer.versions import Name

CONTROL = "control"
"""The arm that others are compared with."""
SUSPICIOUS_P = 0.001
"""Below it the numbers of users do not fit the shares: what the experiment measured cannot be trusted."""
_CONFIDENCE = 0.95


class Arm(BaseModel):
    """One arm: a version of the configured model, for a share of all users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Name
    share: Annotated[float, Field(gt=0, le=1)]


class Lift(NamedTuple):
    """What users of an arm did, against those of the control."""

    control: float
    """Mean of a user."""
    treated: float
    lift: float
    """Of the mean, relative to the control's."""
    low: float
    """Of the 95 % interval."""
    high: float
    p: float
    """Welch's test, two-sided."""


def arm_of(experiment: str, user_id: str, arms: Mapping[str, Arm]) -> str | None:
    """Return the arm that a user belongs to; None for who is in no arm."""
    digest = hashlib.blake2b(f"{experiment}\x00{user_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / (1 << 64)
    for name in sorted(arms):
        if place < arms[name].share:
            return name
        place -= arms[name].share
    return None


def lift_of(control: NDArray[np.floating], treated: NDArray[np.floating]) -> Lift:
    """Compare a figure of each user, float[n] and float[m]; raises ExperimentError for fewer than two users in one.

    The interval of the lift is by the delta method.
    """
    if min(len(control), len(treated)) < 2:
        raise ExperimentError("an arm has fewer than two users: wait for more")
    from scipy import stats  # noqa: PLC0415 - a node has arms, and no scipy

    means = float(control.mean()), float(treated.mean())
    if means[0] == 0:
        return Lift(*means, float("nan"), float("nan"), float("nan"), 1.0 if means[1] == 0 else float("nan"))
    ratio = means[1] / means[0]
    deviations = [float(one.std(ddof=1)) for one in (control, treated)]
    errors = [deviation**2 / len(one) for deviation, one in zip(deviations, (control, treated), strict=True)]
    spread = np.sqrt(errors[1] + ratio**2 * errors[0]) / means[0]
    wide = float(stats.norm.ppf((1 + _CONFIDENCE) / 2) * spread)
    p = float(means[0] == means[1])
    if sum(errors) > 0:
        p = float(
            stats.ttest_ind_from_stats(
                means[1], deviations[1], len(treated), means[0], deviations[0], len(control), equal_var=False
            ).pvalue
        )
    return Lift(*means, ratio - 1, ratio - 1 - wide, ratio - 1 + wide, p)


def sample_ratio_p(counts: Mapping[str, int], arms: Mapping[str, Arm]) -> float:
    """Return how likely numbers of users as far from the arms' shares are, by chance; 1 with no user."""
    from scipy import stats  # noqa: PLC0415 - a node has arms, and no scipy

    seen = np.array([counts.get(name, 0) for name in arms], np.float64)
    shares = np.array([arm.share for arm in arms.values()])
    if seen.sum() == 0:
        return 1.0
    return float(stats.chisquare(seen, seen.sum() * shares / shares.sum()).pvalue)
