"""A comparison: variants trained with several seeds on one task, side by side with rules that need no training.

Trainings of one seed begin with weights from that seed alone, and run in threads of one torch thread each, as many as
asked for: on two cores that is a quarter faster than one training after the other with two threads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import groupby
from typing import NamedTuple

import numpy as np

from scorer.config import Head, ModelConfig
from scorer.evaluate.evaluation import Difference, Evaluation, compare, evaluate, ranked
from scorer.evaluate.tasks import Splits, Task
from scorer.model import TransAct
from scorer.settings import TrainSettings
from scorer.train.checkpoint import Progress
from scorer.train.examples import ExampleSet
from scorer.train.trainer import Data, Step, fit, seeded
from scorer.variants import variant

Tell = Callable[[str, int, Step], None]
"""Called after each step with the variant, the seed, and what the trainer tells."""


@dataclass(frozen=True, slots=True)
class Run:
    """One training, measured on the task's test."""

    variant: str
    seed: int
    evaluation: Evaluation
    progress: Progress
    seconds: float
    examples_per_s: float
    """Training pairs, whole steps."""


class Comparison(NamedTuple):
    """What was measured on one task."""

    task: str
    heads: tuple[Head, ...]
    rules: dict[str, Evaluation]
    """By name, the oracle among them where there is one."""
    runs: list[Run]
    test: ExampleSet
    """Selected for TransActV2, or for whatever came last."""
    requests: tuple[int, int, int]
    """To train on, to stop by, and to measure on."""

    @property
    def names(self) -> list[str]:
        """The variants, in the order that they were asked for."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def of(self, name: str) -> list[Run]:
        """Return the runs of a variant, by seed."""
        return [run for run in self.runs if run.variant == name]

    def mean(self, name: str, measure: str) -> float:
        """Return the mean over the seeds of a variant, or what a rule gives."""
        if name in self.rules:
            return self.rules[name].mean(measure)
        return float(np.mean([run.evaluation.mean(measure) for run in self.of(name)]))

    def differences(self, ours: str, theirs: str, measure: str) -> list[Difference]:
        """Compare two variants seed by seed, or a variant with a rule."""
        found = []
        for run in self.of(ours):
            other = self.rules.get(theirs)
            if other is None:
                other = next(one.evaluation for one in self.of(theirs) if one.seed == run.seed)
            found.append(compare(run.evaluation, other, measure))
        return found

    def gap_closed(self, name: str, measure: str, *, base: str = "none") -> float:
        """Return the share of the way from a base to the oracle that a variant goes."""
        low, high = self.mean(base, measure), self.mean("oracle", measure)
        return (self.mean(name, measure) - low) / (high - low)


def compare_variants(
    task: Task,
    names: Sequence[str],
    seeds: Sequence[int],
    settings: TrainSettings,
    *,
    workers: int = 2,
    tell: Tell = lambda *_: None,
) -> Comparison:
    """Train each variant with each seed, and measure all on the same requests."""
    configs = {name: variant(name, task.heads) for name in names}
    # Those that select alike share their examples; the longest come last, and are at hand when all is measured.
    by_selection = sorted(names, key=lambda name: (configs[name].selected, configs[name].selecting, names.index(name)))
    runs: list[Run] = []
    splits: Splits | None = None
    with seeded(settings):
        for _, alike in groupby(by_selection, key=lambda name: configs[name].selecting):
            group = list(alike)
            splits = task.splits(configs[group[0]])
            runs += _train_all(task, splits, [(name, configs[name]) for name in group], seeds, settings, workers, tell)
    if splits is None:
        raise ValueError("there is no variant: name one at least")
    rules = {name: ranked(splits.test, score, task.heads) for name, score in splits.test.rankings.items()}
    order = {name: place for place, name in enumerate(names)}
    return Comparison(
        task.name,
        task.heads,
        rules,
        sorted(runs, key=lambda run: (order[run.variant], run.seed)),
        splits.test,
        (len(splits.training), len(splits.validation), len(splits.test)),
    )


def _train_all(
    task: Task,
    splits: Splits,
    configs: list[tuple[str, ModelConfig]],
    seeds: Sequence[int],
    settings: TrainSettings,
    workers: int,
    tell: Tell,
) -> Iterator[Run]:
    def train_one(name: str, seed: int, model: TransAct) -> Run:
        own = settings.model_copy(update={"seed": seed})
        last: list[Step] = []
        begun = time.monotonic()

        def note(step: Step) -> None:
            last[:] = [step]
            tell(name, seed, step)

        data = Data(splits.training, splits.validation if len(splits.validation) else None, task.positive_types)
        progress = fit(model, data, own, tell=note)
        seconds = time.monotonic() - begun
        return Run(name, seed, evaluate(model, splits.test), progress, seconds, last[-1].examples_per_s)

    jobs = []
    for name, config in configs:
        for seed in seeds:
            # What is drawn for the weights comes from a generator that all threads share: so it is drawn here.
            with seeded(settings.model_copy(update={"seed": seed})):
                jobs.append((name, seed, TransAct(config)))
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda job: train_one(*job), jobs)
