"""What can be set about scoring, and about training."""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lifeline.core.limits import MAX_CANDIDATES
from lifeline.core.vocabulary import MAX_ACTION_TYPES
from lifeline.scorer.experiment import CONTROL, Arm
from lifeline.scorer.versions import Name

TrainingPrecision = Literal["float32", "bfloat16"]
Device = Literal["auto", "cpu", "cuda"]
ServedPrecision = Literal["auto", "float32", "bfloat16", "int8"]
Negatives = Literal["recent", "older", "popular", "random", "own", "surface"]
"""Where items come from that a user might have acted on: see `scorer.train.corpus`."""


class ScorerSettings(BaseModel):
    """Which model answers, and what one request and all requests together may cost a node."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    models_dir: Annotated[Path, Field(description="where models/<name>/<version>/ are kept")] = Path("models")
    model: Annotated[Name, Field(description="the model's name")] = "transact"
    version: Annotated[Name | None, Field(description="its version; none: the newest")] = None
    max_candidates: Annotated[int, Field(ge=1, le=MAX_CANDIDATES, description="candidates in one request")] = 512
    threads: Annotated[
        int, Field(ge=1, le=256, description="threads of one request: of the kernels, or torch's without them")
    ] = 1
    precision: Annotated[
        ServedPrecision,
        Field(
            description="of the encoder's products, where kernels and processor have it; auto: bfloat16 for a version "
            "that lifeline quantize has accepted in it; int8 is for those alone that it has accepted in that"
        ),
    ] = "auto"
    device: Annotated[
        Device, Field(description="what selects and encodes; auto: a GPU where there is one, else the processor")
    ] = "auto"
    max_concurrent: Annotated[int, Field(ge=1, le=256, description="requests scored at the same time")] = 2
    max_queue_ms: Annotated[int, Field(ge=0, description="how long a request waits for its turn")] = 250
    token_tables_mib: Annotated[
        float, Field(ge=0, description="histories of the users scored last, kept until they act; 0: none")
    ] = 64
    experiment: Annotated[str, Field(description="the name of an experiment that is under way; none: empty")] = ""
    arms: Annotated[
        dict[str, Arm], Field(description="its arms, control among them: a version, and a share of all users")
    ] = {}
    log_share: Annotated[
        float, Field(ge=0, le=1, description="share of the requests whose selected tokens are logged, to train from")
    ] = 0.0

    @model_validator(mode="after")
    def _check(self) -> Self:
        if bool(self.experiment) != bool(self.arms):
            raise ValueError("scorer.experiment and scorer.arms belong together: set both, or neither")
        if self.arms and (CONTROL not in self.arms or len(self.arms) < 2):
            raise ValueError(f"scorer.arms needs an arm {CONTROL!r} and another one: add it")
        share = sum(arm.share for arm in self.arms.values())
        if share > 1 + 1e-9:
            raise ValueError(f"the shares of scorer.arms add up to {share:g}: lower them to 1 at most")
        return self


class TrainSettings(BaseModel):
    """How long to train, and on what: the defaults take about a minute on two cores."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    seed: Annotated[int, Field(ge=0, description="of everything that is drawn")] = 0
    steps: Annotated[int, Field(ge=1, description="optimizer steps")] = 200
    max_seconds: Annotated[
        float | None, Field(gt=0, description="anneal to end by then; none: every step, reproducible")
    ] = None
    requests_per_step: Annotated[int, Field(ge=1, description="requests in a batch")] = 16
    candidates: Annotated[int, Field(ge=2, description="candidates of a request, positives included")] = 12
    candidates_drawn: Annotated[
        int | None, Field(ge=1, description="of those, drawn anew for each step; none: all")
    ] = None
    max_positives: Annotated[int, Field(ge=1, description="positives of a request")] = 4
    max_acts: Annotated[
        int | None, Field(ge=1, description="items of a visit: with more it is no request; none: however many")
    ] = None
    negatives: Annotated[
        dict[Negatives, Annotated[int, Field(ge=1)]], Field(min_length=1, description="in which proportion, by kind")
    ] = {"recent": 1, "popular": 1, "random": 1, "own": 1}
    recent_events: Annotated[int, Field(ge=1, description="recent negatives: among so many events")] = 400
    older_events: Annotated[int, Field(ge=1, description="older negatives: among so many events")] = 20_000
    ending_types: Annotated[
        tuple[Annotated[int, Field(ge=1, le=MAX_ACTION_TYPES)], ...],
        Field(description="ids of action types after which an item is gone until somebody acts on it again"),
    ] = ()
    learning_rate: Annotated[float, Field(gt=0, description="the peak of the one-cycle schedule")] = 3e-3
    warm_up: Annotated[float, Field(gt=0, lt=1, description="share of the steps before the peak")] = 0.1
    weight_decay: Annotated[float, Field(ge=0, description="of AdamW")] = 0.01
    clip_norm: Annotated[float, Field(gt=0, description="of the gradient")] = 1.0
    hidden_hours: Annotated[
        float,
        Field(ge=0, description="random time window mask: hide actions of up to so many hours before a request"),
    ] = 0.0
    label_window_ms: Annotated[
        int, Field(ge=1, description="of logged requests: for how long actions on a candidate count as its answer")
    ] = 86_400_000
    min_history: Annotated[int, Field(ge=1, description="earlier tokens that a request's user has")] = 20
    from_timestamp_ms: Annotated[
        int | None, Field(description="no request before: the end of the window the embeddings saw")
    ] = None
    validation_users: Annotated[
        float, Field(ge=0, lt=1, description="share of the users that only say when to stop")
    ] = 0.1
    validate_every: Annotated[int, Field(ge=1, description="steps between validations, and checkpoints")] = 200
    max_validated: Annotated[int, Field(ge=1, description="requests of a validation")] = 300
    patience: Annotated[int, Field(ge=0, description="validations without a better one before it stops; 0: never")] = 0
    held_out: Annotated[float, Field(gt=0, lt=1, description="newest share of requests, for metrics")] = 0.1
    gap_ms: Annotated[int, Field(ge=0, description="between training and held-out requests")] = 86_400_000
    max_held_out: Annotated[int, Field(ge=1, description="held-out requests that are measured")] = 300
    threads: Annotated[int, Field(ge=1, le=256, description="torch threads")] = 1
    precision: Annotated[TrainingPrecision, Field(description="of the encoder's products in training")] = "float32"
