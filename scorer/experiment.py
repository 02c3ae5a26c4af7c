"""Experiments: several versions of a model serve at the same time, and are compared.

A hash of the experiment's name and the user id assigns a user to an arm: the same on every node as long as the shares
do not change, and independent of the arms of other experiments. The unit of all statistics is the user, because
requests and actions of one user are not independent.
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
"""Below this p-value the numbers of users do not fit the shares, and the results cannot be trusted."""
_CONFIDENCE = 0.95


class Arm(BaseModel):
    """One arm: a version of the configured model, for a share of all users."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    version: Name
    share: Annotated[float, Field(gt=0, le=1)]


class Lift(NamedTuple):
    """A figure of the users of an arm, compared with the control."""

    control: float
    """Mean per user."""
    treated: float
    lift: float
    """Relative difference of the means."""
    low: float
    """Lower end of the 95 % interval."""
    high: float
    p: float
    """Welch's test, two-sided."""


def arm_of(experiment: str, user_id: str, arms: Mapping[str, Arm]) -> str | None:
    """Return the arm of a user; None if the user is in no arm."""
    digest = hashlib.blake2b(f"{experiment}\x00{user_id}".encode(), digest_size=8).digest()
    place = int.from_bytes(digest, "big") / (1 << 64)
    for name in sorted(arms):
        if place < arms[name].share:
            return name
        place -= arms[name].share
    return None


def lift_of(control: NDArray[np.floating], treated: NDArray[np.floating]) -> Lift:
    """Compare a figure per user, float[n] and float[m]; raises ExperimentError if an arm has fewer than two users.

    The interval of the lift is by the delta method.
    """
    if min(len(control), len(treated)) < 2:
        raise ExperimentError("an arm has fewer than two users: wait for more")
    from scipy import stats  # noqa: PLC0415 - a node has arms, and no scipy

    means = float(control.mean()), float(treated.mean())
    if means[0] == 0:
        return Lift(*means, float("nan"), float("nan"), float("nan"), 1.0 if means[1] == 0 else float("nan"))
    ratio = means[1] / means[0]
    deviations = [float(arm.std(ddof=1)) for arm in (control, treated)]
    errors = [deviation**2 / len(arm) for deviation, arm in zip(deviations, (control, treated), strict=True)]
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
    """Return the probability of user counts at least this far from the arms' shares; 1 without users."""
    from scipy import stats  # noqa: PLC0415 - a node has arms, and no scipy

    observed = np.array([counts.get(name, 0) for name in arms], np.float64)
    shares = np.array([arm.share for arm in arms.values()])
    if observed.sum() == 0:
        return 1.0
    return float(stats.chisquare(observed, observed.sum() * shares / shares.sum()).pvalue)
