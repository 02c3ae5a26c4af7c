"""The trainer: steps of AdamW on L = L_CE + nal_weight * L_NAL, until they are done or validation gets worse.

    L_CE = sum_h -w_h [ y_h log f_h + (1 - y_h) log(1 - f_h) ]

What a step draws depends on the seed and the step's number alone. So a run that resumes from a checkpoint, and one that
is shared by several processes, does what one that ran through in one process does; but with `max_seconds` the learning
rate follows the clock, and two runs differ.
"""

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.checkpoint import Checkpoint, Progress
from lifeline.scorer.train.examples import Batch, Draw, ExampleSource
from lifeline.scorer.train.next_action import Pool, next_action_losses
from lifeline.scorer.train.parallel import Group

ORDER, DRAW, VALIDATE = 0, 1, 2
"""What the generators of a seed are for."""
_SMOOTHED = 50
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Step(NamedTuple):
    """What is told after each step."""

    step: int
    total: int
    """With `max_seconds` an estimate."""
    loss: float
    """Mean of the last steps."""
    examples_per_s: float
    """Pairs, of all processes."""


class ScalarWriter(Protocol):
    """Where curves go: TensorBoard's SummaryWriter fits."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Note one point."""


class Data(NamedTuple):
    """What to train on, and what to stop by."""

    training: ExampleSource
    validation: ExampleSource | None
    """Of other users; without it every step is done, and the last weights count."""
    positive_types: list[int]
    """Ids of action types that next actions may be of."""


class Place(NamedTuple):
    """Where a run leaves what is left of it."""

    checkpoints: Path | None = None
    """Directory; a checkpoint that is there is gone on from."""
    run: str = ""
    """Names settings, configuration and data."""
    curves: ScalarWriter | None = None


@dataclass(slots=True)
class _Run:
    model: TransAct
    optimiser: torch.optim.AdamW
    progress: Progress
    best: dict[str, Tensor] | None = None


def fit(
    model: TransAct,
    data: Data,
    settings: TrainSettings,
    *,
    tell: Callable[[Step], None] = lambda _: None,
    place: Place | None = None,
    group: Group | None = None,
) -> Progress:
    """Train a model in place, and leave it in evaluation mode with its best weights; the same in every process.

    Raises CheckpointError, and ValueError where there are more processes than requests in a step.
    """
    place, group = place or Place(), group or Group()
    if settings.requests_per_step < group.size:
        raise ValueError(
            f"{settings.requests_per_step} requests a step are too few for {group.size} processes: raise "
            "requests_per_step, or start fewer"
        )
    run = _Run(
        model,
        torch.optim.AdamW(model.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay),
        Progress(),
    )
    if place.checkpoints is not None and (found := Checkpoint.read(place.checkpoints, place.run)) is not None:
        _restore(run, found)
    begun, seen = time.monotonic(), 0.0
    recent: list[float] = []
    order = _Order(len(data.training), settings)
    model.train()
    model.reduce_precision(reduced=settings.precision == "bfloat16")
    done = _done(run.progress, settings, begun, group)
    while done < 1 and not _is_stale(run.progress, settings):
        share = one_cycle(done, settings.warm_up)
        for param_group in run.optimiser.param_groups:
            param_group["lr"] = settings.learning_rate * share
        loss, pairs = _step(run, data, order.rows(run.progress.step), settings, group)
        run.progress.step += 1
        step = run.progress.step
        done = _done(run.progress, settings, begun, group)
        recent.append(loss)
        seen += pairs
        rate = seen / max(time.monotonic() - begun, 1e-9)
        tell(Step(step, max(step, round(step / done)), float(np.mean(recent[-_SMOOTHED:])), rate))
        if place.curves is not None and group.rank == 0:
            place.curves.add_scalar("loss/training", loss, step)
            place.curves.add_scalar("learning_rate", settings.learning_rate * share, step)
            place.curves.add_scalar("examples_per_s", rate, step)
        if step % settings.validate_every == 0 or done >= 1:
            _validate(run, data, settings, float(np.mean(recent)), place, group)
            recent.clear()
    if run.best is not None:
        model.load_state_dict(run.best)
    model.eval()
    model.reduce_precision(reduced=False)
    return run.progress


def validation_loss(model: TransAct, source: ExampleSource, settings: TrainSettings, group: Group) -> float:
    """Return the mean L_CE over a source, each of its requests once."""
    draw = Draw(model.config.heads, None, ())
    total, pairs = 0.0, 0.0
    model.eval()
    with torch.inference_mode():
        for start in range(0, len(source), settings.requests_per_step):
            rows = np.arange(start, min(len(source), start + settings.requests_per_step))
            own = group.share(len(rows))
            if len(own) == 0:
                continue
            rngs = [np.random.default_rng([settings.seed, VALIDATE, int(row)]) for row in rows[own]]
            batch = source.batch(rows[own], rngs, draw)
            total += float(_cross_entropy(model, batch, model.encode(batch.inputs)))
            pairs += len(batch.labels)
    model.train()
    total, pairs = group.add(total, pairs)
    return total / max(pairs, 1.0)


def one_cycle(done: float, warm_up: float) -> float:
    """Return the learning rate's share of its peak: up in a straight line, down as a cosine."""
    if done < warm_up:
        return max(0.04, done / warm_up)
    return 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))


@contextmanager
def seeded(settings: TrainSettings) -> Iterator[None]:
    """Seed torch and set its threads, and put both back afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _done(progress: Progress, settings: TrainSettings, begun: float, group: Group) -> float:
    """Return the share of the run that is done; 1 and more at its end."""
    done = progress.step / settings.steps
    if settings.max_seconds:
        # One clock for all: every process has to take the same steps.
        elapsed = sum(group.add(time.monotonic() - begun)) / group.size
        done = max(done, elapsed / settings.max_seconds)
    return done


class _Order:
    """Which requests each step reads: every one once, in another order, before any comes again."""

    def __init__(self, count: int, settings: TrainSettings) -> None:
        self._count, self._settings = count, settings
        self._known: dict[int, NDArray[np.int64]] = {}

    def rows(self, step: int) -> NDArray[np.int64]:
        places = step * self._settings.requests_per_step + np.arange(self._settings.requests_per_step)
        epochs = places // self._count
        for epoch in np.unique(epochs).tolist():
            if epoch not in self._known:
                rng = np.random.default_rng([self._settings.seed, ORDER, epoch])
                self._known[epoch] = rng.permutation(self._count)
        for old in [epoch for epoch in self._known if epoch < epochs[0]]:
            del self._known[old]
        return np.array(
            [self._known[int(epoch)][place % self._count] for epoch, place in zip(epochs, places, strict=True)]
        )


def _step(run: _Run, data: Data, rows: NDArray[np.int64], settings: TrainSettings, group: Group) -> tuple[float, float]:
    """Take one step; return the loss, and the pairs of all processes."""
    model, config = run.model, run.model.config
    own = group.share(len(rows))
    rngs = [np.random.default_rng([settings.seed, DRAW, run.progress.step, int(place)]) for place in own]
    positive_types = data.positive_types if config.nal_weight else ()
    draw = Draw(config.heads, settings.candidates_drawn, positive_types, settings.hidden_hours)
    batch = data.training.batch(rows[own], rngs, draw)
    encoded = model.encode(batch.inputs)
    entropy = _cross_entropy(model, batch, encoded)
    pairs, *_ = group.add(float(len(batch.labels)))
    loss = entropy / pairs
    told = entropy.item() / pairs
    if config.nal_weight and encoded is not None:
        pool = _gathered(
            Pool.of(batch.next_actions), np.repeat(own, [len(one.target) for one in batch.next_actions]), group
        )
        projected = model.next_action(encoded[torch.from_numpy(batch.first)])
        nal = next_action_losses(projected, batch.next_actions, pool, config, rngs)
        positions, *_ = group.add(float(len(nal)))
        weighted = config.nal_weight * nal.sum() / max(positions, 1.0)
        loss, told = loss + weighted, told + weighted.item()
    run.optimiser.zero_grad()
    torch.autograd.backward(loss)
    parameters = list(model.parameters())
    group.add_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    run.optimiser.step()
    total, *_ = group.add(told)
    return total, pairs


def _cross_entropy(model: TransAct, batch: Batch, encoded: Tensor | None) -> Tensor:
    """Return L_CE summed over the pairs."""
    weight = torch.tensor([head.loss_weight for head in model.config.heads])
    losses = functional.binary_cross_entropy_with_logits(
        model.rank(batch.inputs, encoded), batch.labels, reduction="none"
    )
    return (losses * weight).sum()


def _gathered(pool: Pool, place: NDArray[np.int64], group: Group) -> Pool:
    """Return the pools of all processes, in the order of the requests; `place` is that of each row's request."""
    # A user's number is exact in two float32 halves.
    columns = [pool.target, pool.user & 0xFFFF, pool.user >> 16, place]
    rows = group.gather(np.column_stack(columns).astype(np.float32))
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    low, high = rows[:, -3].astype(np.int64), rows[:, -2].astype(np.int64)
    return Pool(np.ascontiguousarray(rows[:, :-3]), low | (high << 16))


def _validate(run: _Run, data: Data, settings: TrainSettings, training_loss: float, place: Place, group: Group) -> None:
    progress = run.progress
    if data.validation is not None:
        loss = validation_loss(run.model, data.validation, settings, group)
        progress.curve.append((progress.step, training_loss, loss))
        if place.curves is not None and group.rank == 0:
            place.curves.add_scalar("loss/validation", loss, progress.step)
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            run.best = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    else:
        progress.curve.append((progress.step, training_loss, math.nan))
    if place.checkpoints is not None and group.rank == 0:
        Checkpoint(place.run, replace(progress), _tensors(run)).write(place.checkpoints)
    group.wait()


def _is_stale(progress: Progress, settings: TrainSettings) -> bool:
    return bool(
        progress.best_step
        and settings.patience
        and progress.step - progress.best_step >= settings.patience * settings.validate_every
    )


def _tensors(run: _Run) -> dict[str, Tensor]:
    found = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    found |= {f"best.{name}": tensor for name, tensor in (run.best or {}).items()}
    for name, parameter in run.model.named_parameters():
        for moment in _MOMENTS:
            found[f"{moment}.{name}"] = run.optimiser.state[parameter][moment]
    return found


def _restore(run: _Run, checkpoint: Checkpoint) -> None:
    def of(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
        }

    run.model.load_state_dict(of("model."))
    run.best = of("best.") or None
    moments = {moment: of(f"{moment}.") for moment in _MOMENTS}
    for name, parameter in run.model.named_parameters():
        run.optimiser.state[parameter] = {
            "step": torch.tensor(float(checkpoint.progress.step)),
            **{moment: moments[moment][name] for moment in _MOMENTS},
        }
    run.progress = checkpoint.progress
