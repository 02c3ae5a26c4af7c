"""The trainer: steps of AdamW on L = L_CE + nal_weight * L_NAL, until the last step or early stopping.

    L_CE = sum_h -w_h [ y_h log f_h + (1 - y_h) log(1 - f_h) ]

The random draws of a step depend on the seed and the step's number alone. So a run that resumes from a checkpoint, or
is shared by several processes, equals an uninterrupted run in one process. With `max_seconds` runs are not
reproducible, because the learning rate follows the clock.
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
"""Purposes of the random generators of a seed."""
_SMOOTHED = 50
_MOMENTS = ("exp_avg", "exp_avg_sq")


class Step(NamedTuple):
    """The progress after a step."""

    step: int
    total: int
    """The number of steps; an estimate with `max_seconds`."""
    loss: float
    """Mean of the last 50 steps."""
    examples_per_s: float
    """Pairs per second, over all processes."""


class ScalarWriter(Protocol):
    """Receives the training curves; TensorBoard's SummaryWriter is one."""

    def add_scalar(self, tag: str, scalar_value: float, global_step: int) -> object:
        """Add one point."""


class TrainingData(NamedTuple):
    """The training set and the early-stopping set."""

    training: ExampleSource
    validation: ExampleSource | None
    """The early-stopping set, of other users; None: all steps are done, and the last weights are kept."""
    positive_types: list[int]
    """Ids of the action types that count as positive next actions."""


class RunFiles(NamedTuple):
    """The outputs of a run besides the model."""

    checkpoints: Path | None = None
    """A directory; the run resumes from an existing checkpoint."""
    run: str = ""
    """Identity of settings, configuration and data."""
    curves: ScalarWriter | None = None


@dataclass(slots=True)
class _Run:
    model: TransAct
    optimizer: torch.optim.AdamW
    progress: Progress
    best: dict[str, Tensor] | None = None


def fit(
    model: TransAct,
    data: TrainingData,
    settings: TrainSettings,
    *,
    on_step: Callable[[Step], None] = lambda _: None,
    files: RunFiles | None = None,
    group: Group | None = None,
) -> Progress:
    """Train a model in place, and leave it in evaluation mode with its best weights; the same in every process.

    Raises CheckpointError, and ValueError if there are more processes than requests in a step.
    """
    files, group = files or RunFiles(), group or Group()
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
    if files.checkpoints is not None and (checkpoint := Checkpoint.read(files.checkpoints, files.run)) is not None:
        _restore(run, checkpoint)
    started, trained_pairs = time.monotonic(), 0.0
    recent: list[float] = []
    order = _Order(len(data.training), settings)
    model.train()
    model.use_bfloat16(enabled=settings.precision == "bfloat16")
    done = _done(run.progress, settings, started, group)
    while done < 1 and not _is_stale(run.progress, settings):
        share = one_cycle(done, settings.warm_up)
        for param_group in run.optimizer.param_groups:
            param_group["lr"] = settings.learning_rate * share
        loss, pairs = _step(run, data, order.rows(run.progress.step), settings, group)
        run.progress.step += 1
        step = run.progress.step
        done = _done(run.progress, settings, started, group)
        recent.append(loss)
        trained_pairs += pairs
        rate = trained_pairs / max(time.monotonic() - started, 1e-9)
        on_step(Step(step, max(step, round(step / done)), float(np.mean(recent[-_SMOOTHED:])), rate))
        if files.curves is not None and group.rank == 0:
            files.curves.add_scalar("loss/training", loss, step)
            files.curves.add_scalar("learning_rate", settings.learning_rate * share, step)
            files.curves.add_scalar("examples_per_s", rate, step)
        if step % settings.validate_every == 0 or done >= 1:
            _validate(run, data, settings, float(np.mean(recent)), files, group)
            recent.clear()
    if run.best is not None:
        model.load_state_dict(run.best)
    model.eval()
    model.use_bfloat16(enabled=False)
    return run.progress


def validation_loss(model: TransAct, source: ExampleSource, settings: TrainSettings, group: Group) -> float:
    """Return the mean L_CE over all requests of a source."""
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
    """Return the learning rate as a share of its peak: a linear warm-up, then a cosine decay."""
    if done < warm_up:
        return max(0.04, done / warm_up)
    return 0.5 + 0.5 * math.cos(math.pi * (done - warm_up) / (1 - warm_up))


@contextmanager
def seed_torch(settings: TrainSettings) -> Iterator[None]:
    """Seed torch and set its number of threads; restore both afterwards."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        torch.set_num_threads(settings.threads)
        try:
            yield
        finally:
            torch.set_num_threads(threads)


def _done(progress: Progress, settings: TrainSettings, started: float, group: Group) -> float:
    """Return the share of the run that is done; at least 1 at its end."""
    done = progress.step / settings.steps
    if settings.max_seconds:
        # The mean of all clocks, because every process has to do the same steps.
        elapsed = sum(group.add(time.monotonic() - started)) / group.size
        done = max(done, elapsed / settings.max_seconds)
    return done


class _Order:
    """The requests of each step: each epoch is a random permutation of all requests."""

    def __init__(self, count: int, settings: TrainSettings) -> None:
        self._count, self._settings = count, settings
        self._permutations: dict[int, NDArray[np.int64]] = {}

    def rows(self, step: int) -> NDArray[np.int64]:
        places = step * self._settings.requests_per_step + np.arange(self._settings.requests_per_step)
        epochs = places // self._count
        for epoch in np.unique(epochs).tolist():
            if epoch not in self._permutations:
                rng = np.random.default_rng([self._settings.seed, ORDER, epoch])
                self._permutations[epoch] = rng.permutation(self._count)
        for old in [epoch for epoch in self._permutations if epoch < epochs[0]]:
            del self._permutations[old]
        return np.array(
            [self._permutations[int(epoch)][place % self._count] for epoch, place in zip(epochs, places, strict=True)]
        )


def _step(
    run: _Run, data: TrainingData, rows: NDArray[np.int64], settings: TrainSettings, group: Group
) -> tuple[float, float]:
    """Do one step; return the loss, and the number of pairs of all processes."""
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
    reported_loss = entropy.item() / pairs
    if config.nal_weight and encoded is not None:
        pool = _gather_pools(
            Pool.of(batch.next_actions), np.repeat(own, [len(actions.target) for actions in batch.next_actions]), group
        )
        projected = model.next_action(encoded[torch.from_numpy(batch.first)])
        nal = next_action_losses(projected, batch.next_actions, pool, config, rngs)
        positions, *_ = group.add(float(len(nal)))
        weighted = config.nal_weight * nal.sum() / max(positions, 1.0)
        loss, reported_loss = loss + weighted, reported_loss + weighted.item()
    run.optimizer.zero_grad()
    torch.autograd.backward(loss)
    parameters = list(model.parameters())
    group.add_gradients(parameters)
    torch.nn.utils.clip_grad_norm_(parameters, settings.clip_norm)
    run.optimizer.step()
    total, *_ = group.add(reported_loss)
    return total, pairs


def _cross_entropy(model: TransAct, batch: Batch, encoded: Tensor | None) -> Tensor:
    """Return L_CE summed over the pairs."""
    weight = torch.tensor([head.loss_weight for head in model.config.heads])
    losses = functional.binary_cross_entropy_with_logits(
        model.rank(batch.inputs, encoded), batch.labels, reduction="none"
    )
    return (losses * weight).sum()


def _gather_pools(pool: Pool, place: NDArray[np.int64], group: Group) -> Pool:
    """Return the pools of all processes, in the order of the requests; `place` is the place of each row's request."""
    # Two 16-bit halves of a user's number are exact in float32.
    columns = [pool.target, pool.user & 0xFFFF, pool.user >> 16, place]
    rows = group.gather(np.column_stack(columns).astype(np.float32))
    rows = rows[np.argsort(rows[:, -1], kind="stable")]
    low, high = rows[:, -3].astype(np.int64), rows[:, -2].astype(np.int64)
    return Pool(np.ascontiguousarray(rows[:, :-3]), low | (high << 16))


def _validate(
    run: _Run, data: TrainingData, settings: TrainSettings, training_loss: float, files: RunFiles, group: Group
) -> None:
    progress = run.progress
    if data.validation is not None:
        loss = validation_loss(run.model, data.validation, settings, group)
        progress.curve.append((progress.step, training_loss, loss))
        if files.curves is not None and group.rank == 0:
            files.curves.add_scalar("loss/validation", loss, progress.step)
        if loss < progress.best_loss:
            progress.best_loss, progress.best_step = loss, progress.step
            run.best = {name: tensor.clone() for name, tensor in run.model.state_dict().items()}
    else:
        progress.curve.append((progress.step, training_loss, math.nan))
    if files.checkpoints is not None and group.rank == 0:
        Checkpoint(files.run, replace(progress), _tensors(run)).write(files.checkpoints)
    group.wait()


def _is_stale(progress: Progress, settings: TrainSettings) -> bool:
    return bool(
        progress.best_step
        and settings.patience
        and progress.step - progress.best_step >= settings.patience * settings.validate_every
    )


def _tensors(run: _Run) -> dict[str, Tensor]:
    tensors = {f"model.{name}": tensor for name, tensor in run.model.state_dict().items()}
    tensors |= {f"best.{name}": tensor for name, tensor in (run.best or {}).items()}
    for name, parameter in run.model.named_parameters():
        for moment in _MOMENTS:
            tensors[f"{moment}.{name}"] = run.optimizer.state[parameter][moment]
    return tensors


def _restore(run: _Run, checkpoint: Checkpoint) -> None:
    def of(prefix: str) -> dict[str, Tensor]:
        return {
            name.removeprefix(prefix): tensor for name, tensor in checkpoint.tensors.items() if name.startswith(prefix)
        }

    run.model.load_state_dict(of("model."))
    run.best = of("best.") or None
    moments = {moment: of(f"{moment}.") for moment in _MOMENTS}
    for name, parameter in run.model.named_parameters():
        run.optimizer.state[parameter] = {
            "step": torch.tensor(float(checkpoint.progress.step)),
            **{moment: moments[moment][name] for moment in _MOMENTS},
        }
    run.progress = checkpoint.progress
