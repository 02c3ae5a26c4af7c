"""The model's configuration: every decision of the architecture that the weights depend on.

The manifest stores it beside the weights. Defaults are those of the published model, if it has the option.
"""

from typing import Annotated, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.core.vocabulary import MAX_ACTION_TYPES, Role, Vocabulary

WIDTH = 2 * EMBEDDING_DIM
"""Channels of a token in the encoder: the token's embedding and the candidate's."""

UTILITY = {Role.POSITIVE: 1.0, Role.NEUTRAL: 0.2, Role.NEGATIVE: -1.0}
"""Default utility of a head, by the role of its action type."""

MAX_SELECTED = 1_024
"""The most tokens that the encoder reads for a candidate."""
MAX_CHANNELS = 4_096
"""The most channels of a layer."""
MAX_LAYERS = 32
"""The most layers of one kind."""
_MAX_KNOTS = 1_024
_MAX_TOKENS = 1 << 20
_YEAR_MS = 365 * 86_400_000


class Head(BaseModel):
    """One logit: the probability that the user does one of `action_types` to the candidate."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: Annotated[str, Field(max_length=256)]
    action_types: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_ACTION_TYPES)], ...],
        Field(min_length=1, max_length=MAX_ACTION_TYPES),
    ]
    loss_weight: Annotated[float, Field(gt=0)] = 1.0
    utility: float


class SelectionSettings(NamedTuple):
    """All settings that a selection depends on: models with equal settings can share selected tokens."""

    visit_gap_ms: int
    real_time_length: int
    impression_length: int
    lifelong_selected: int
    recent_kept: int
    real_time_selected: int
    impressions_selected: int
    last_touch: bool


class ModelConfig(BaseModel):
    """Sizes, heads and named options of one TransActV2 model.

    Each number has a bound, because a configuration may come from an untrusted file.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    heads: Annotated[tuple[Head, ...], Field(min_length=1, max_length=MAX_ACTION_TYPES)]

    visit_gap_ms: Annotated[int, Field(ge=0, le=_YEAR_MS, description="a longer pause starts a new visit")] = (
        30 * 60_000
    )
    real_time_length: Annotated[int, Field(ge=1, le=_MAX_TOKENS, description="tokens of S_RT")] = 128
    impression_length: Annotated[int, Field(ge=0, le=_MAX_TOKENS, description="tokens of S_imp")] = 128
    lifelong_selected: Annotated[int, Field(ge=0, le=MAX_SELECTED, description="K_LL: nearest of S_LL")] = 64
    recent_kept: Annotated[int, Field(ge=0, le=MAX_SELECTED, description="r: newest of S_RT, always kept")] = 64
    real_time_selected: Annotated[
        int, Field(ge=0, le=MAX_SELECTED, description="K_RT: nearest of the rest of S_RT")
    ] = 32
    impressions_selected: Annotated[int, Field(ge=0, le=MAX_SELECTED, description="K_imp: nearest of S_imp")] = 32

    encoder: Annotated[
        Literal["transact", "bst", "none"],
        Field(description="transact; bst: Behavior Sequence Transformer, the candidate as a token; none: no sequence"),
    ] = "transact"
    layers: Annotated[int, Field(ge=1, le=MAX_LAYERS)] = 2
    ffn: Annotated[int, Field(ge=1, le=MAX_CHANNELS)] = 32
    read_out: Annotated[int, Field(ge=1, le=MAX_CHANNELS, description="channels of the sequence output")] = 64
    cross_layers: Annotated[int, Field(ge=0, le=MAX_LAYERS)] = 2
    mlp: Annotated[tuple[Annotated[int, Field(ge=1, le=MAX_CHANNELS)], ...], Field(max_length=MAX_LAYERS)] = (128, 64)

    nal_weight: Annotated[float, Field(ge=0, description="of the Next Action Loss; 0 is off")] = 0.01
    nal_negatives: Annotated[int, Field(ge=1, le=MAX_CHANNELS, description="negatives of a position, at most")] = 32
    nal_source: Literal["impressions", "in_batch"] = "impressions"

    # Named deviations from the published model; each description has the published value.
    input_scale: Annotated[
        float, Field(gt=0, le=1_000, description="factor on item embeddings in the encoder; published: 1")
    ] = 1.0
    newest_outputs: Annotated[
        int, Field(ge=0, description="newest recent outputs appended to the read-out; published: 0")
    ] = 0
    matching_init: Annotated[
        bool, Field(description="layer 1's attention is initialized to match candidate and token; published: false")
    ] = False
    similarity_buckets: Annotated[
        int,
        Field(ge=0, le=_MAX_KNOTS, description="knots of the embedding of a token's similarity; 0 and published: none"),
    ] = 0
    age_buckets: Annotated[
        int, Field(ge=0, le=_MAX_KNOTS, description="knots of the embedding of a token's age; 0 and published: none")
    ] = 0
    sequence_gate: Annotated[
        bool, Field(description="a gate for each channel of the read-out, initially closed; published: none")
    ] = False
    selection_statistics: Annotated[
        Literal["none", "few", "all"],
        Field(description="statistics of the selected similarities are inputs of the cross; published: none"),
    ] = "none"
    last_touch: Annotated[
        bool, Field(description="the time of the user's last action on the candidate is a context feature")
    ] = True

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.recent_kept > self.real_time_length:
            raise ValueError(
                f"recent_kept {self.recent_kept} exceeds real_time_length {self.real_time_length}: lower it"
            )
        if self.newest_outputs > self.recent_kept:
            raise ValueError(f"newest_outputs {self.newest_outputs} exceeds recent_kept: lower it")
        if self.sequence_gate and self.encoder == "none":
            raise ValueError("sequence_gate has no read-out without an encoder: set it to false")
        if self.encoder != "transact" and (self.nal_weight or self.newest_outputs or self.matching_init):
            raise ValueError(
                f"encoder {self.encoder} has no causal outputs: set nal_weight and newest_outputs to 0, and "
                "matching_init to false"
            )
        for name, knots in (("similarity_buckets", self.similarity_buckets), ("age_buckets", self.age_buckets)):
            if knots == 1:
                raise ValueError(f"{name} is 1, and an embedding needs two knots: set 0 for none, or at least 2")
        if self.selection_length > MAX_SELECTED:
            raise ValueError(
                f"{self.selection_length} tokens are selected for a candidate: lower them to {MAX_SELECTED}"
            )
        if not self.selection_length:
            raise ValueError("no token is selected at all: raise recent_kept or lifelong_selected")
        names = [head.name for head in self.heads]
        if len(set(names)) != len(names):
            raise ValueError(f"two heads have the same name among {names}: give each head its own name")
        return self

    @property
    def selection_length(self) -> int:
        """Length of S_all: the tokens that the encoder reads for a candidate."""
        return self.lifelong_selected + self.recent_kept + self.real_time_selected + self.impressions_selected

    @property
    def selection_settings(self) -> SelectionSettings:
        """The settings that the selection and the context features depend on."""
        return SelectionSettings(*(getattr(self, name) for name in SelectionSettings._fields))

    @property
    def context_features(self) -> int:
        """Number of columns of `scorer.features.context`."""
        return 7 if self.last_touch else 5


def default_heads(vocabulary: Vocabulary) -> tuple[Head, ...]:
    """Return one head for each action type except impressions, by id, with the utility of its role."""
    types = sorted(vocabulary.action_types.items(), key=lambda item: item[1].id)
    return tuple(
        Head(name=name, action_types=(action.id,), utility=UTILITY[action.role])
        for name, action in types
        if action.role is not Role.IMPRESSION
    )
