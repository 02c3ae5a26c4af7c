"""Variants: the rows of the evaluation tables, each a configuration of the model.

The published table: the ranker without a sequence, the Behavior Sequence Transformer, TransAct V1, V1 with the Next
Action Loss and its two kinds of negatives, and TransActV2. Then ablations of V2, and variants that were never
published: a base ranker without the last-touch feature, encoders initialized to match candidate and tokens, hand
features (statistics of the selection, without an encoder), and the best variant so far: all statistics, and an encoder
whose gate opens during training.
"""

from collections.abc import Mapping
from typing import Any

from lifeline.scorer.config import Head, ModelConfig

_REAL_TIME = {"lifelong_selected": 0, "recent_kept": 100, "real_time_selected": 0, "impressions_selected": 0}
_NO_ENCODER = {"encoder": "none", "nal_weight": 0.0}
_V1 = {**_REAL_TIME, "newest_outputs": 10, "nal_weight": 0.0}
_V2: dict[str, Any] = {}
_MATCHING = {"matching_init": True, "similarity_buckets": 16, "age_buckets": 16, "input_scale": 5.0}
_BEST = {**_MATCHING, "selection_statistics": "all", "sequence_gate": True}

PUBLISHED = ("none", "bst", "v1", "v1_nal_in_batch", "v1_nal_impressions", "v2")
"""The rows of the published table, in its order."""

_CHANGES: Mapping[str, Mapping[str, Any]] = {
    "none": {**_REAL_TIME, **_NO_ENCODER, "recent_kept": 1},
    "none_without_last_touch": {**_REAL_TIME, **_NO_ENCODER, "recent_kept": 1, "last_touch": False},
    "bst": {**_REAL_TIME, "encoder": "bst", "layers": 1, "nal_weight": 0.0},
    "v1": _V1,
    "v1_nal_in_batch": {**_V1, "nal_weight": 0.01, "nal_source": "in_batch"},
    "v1_nal_impressions": {**_V1, "nal_weight": 0.01},
    "v2": _V2,
    "v2_without_nal": {**_V2, "nal_weight": 0.0},
    "v2_without_impressions": {**_V2, "impressions_selected": 0, "lifelong_selected": 96},
    "v1_matching": {**_V1, **_MATCHING},
    "v2_matching": {**_V2, **_MATCHING},
    "hand_real_time": {**_REAL_TIME, **_NO_ENCODER, "selection_statistics": "few"},
    "hand": {**_NO_ENCODER, "selection_statistics": "few"},
    "statistics": {**_NO_ENCODER, "selection_statistics": "all"},
    "best": _BEST,
    "best_without_gate": {**_BEST, "sequence_gate": False},
    "best_without_nal": {**_BEST, "nal_weight": 0.0},
}

NAMES = tuple(_CHANGES)


def variant(name: str, heads: tuple[Head, ...]) -> ModelConfig:
    """Return a variant's configuration; raises KeyError for a name that is not in NAMES."""
    return ModelConfig(heads=heads, **_CHANGES[name])
