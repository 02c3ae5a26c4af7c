"""A comparison: variants trained with several seeds on one task, beside rules that need no training.

The initial weights of a run depend on its seed alone. Runs execute in parallel threads with one torch thread each: on
two cores that is a quarter faster than one run after the other with two torch threads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lifeline.scorer.config import Head, ModelConfig
from lifeline.scorer.evaluate.evaluation import Difference, Evaluation, compare, evaluate, evaluate_ranking
from lifeline.scorer.evaluate.run_cache import Run, RunCache
from lifeline.scorer.evaluate.tasks import Splits, Task
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.examples import ExampleSet
from lifeline.scorer.train.trainer import Step, TrainingData, fit, seed_torch
from lifeline.scorer.variants import variant

StepListener = Callable[[str, int, Step], None]
"""Called after each step with the variant, the seed and the step."""


class Comparison(NamedTuple):
    """The evaluations of all variants and rules on one task."""

    task: str
    heads: tuple[Head, ...]
    rules: dict[str, Evaluation]
    """By name; the oracle is one of them if the task has one."""
    runs: list[Run]
    test: ExampleSet
    """The test set, selected for the variant with the longest selection."""
    requests: tuple[int, int, int]
    """Numbers of requests for training, early stopping and test."""
    settings: TrainSettings
    """The training settings of all runs, except the seed."""

    @property
    def names(self) -> list[str]:
        """The variants, in the requested order."""
        return list(dict.fromkeys(run.variant for run in self.runs))

    def of(self, name: str) -> list[Run]:
        """Return the runs of a variant, by seed."""
        return [run for run in self.runs if run.variant == name]

    def mean(self, name: str, measure: str) -> float:
        """Return the mean of a measure: over the seeds of a variant, or of a rule."""
        if name in self.rules:
            return self.rules[name].mean(measure)
        return float(np.mean([run.evaluation.mean(measure) for run in self.of(name)]))

    def differences(self, ours: str, theirs: str, measure: str) -> list[Difference]:
        """Compare two variants seed by seed, or a variant with a rule."""
        differences = []
        for run in self.of(ours):
            other = self.rules.get(theirs)
            if other is None:
                other = next(reference.evaluation for reference in self.of(theirs) if reference.seed == run.seed)
            differences.append(compare(run.evaluation, other, measure))
        return differences

    def gap_closed(self, name: str, measure: str, *, base: str = "none") -> float:
        """Return the share of the gap between a base and the oracle that a variant closes."""
        low, high = self.mean(base, measure), self.mean("oracle", measure)
        return (self.mean(name, measure) - low) / (high - low)


def compare_variants(
    task: Task,
    names: Sequence[str],
    seeds: Sequence[int],
    settings: TrainSettings,
    *,
    workers: int = 2,
    cache_dir: Path | None = None,
    on_step: StepListener = lambda *_: None,
) -> Comparison:
    """Train each variant with each seed, and evaluate all on the same requests.

    Runs in `cache_dir` are reused, and new ones are written there. Raises RunCacheError, and ValueError without a
    variant.
    """
    configs = {name: variant(name, task.heads) for name in names}
    cache = RunCache(cache_dir, task.identity, settings) if cache_dir is not None else None
    # Variants with equal selection settings share examples. The longest come last: their test set is in the comparison.
    by_selection = sorted(
        names, key=lambda name: (configs[name].selection_length, configs[name].selection_settings, names.index(name))
    )
    runs: list[Run] = []
    splits: Splits | None = None
    with seed_torch(settings):
        for _, variants in groupby(by_selection, key=lambda name: configs[name].selection_settings):
            group = list(variants)
            requested = [(name, seed) for name in group for seed in seeds]
            cached = [cache.get(name, seed, configs[name]) if cache is not None else None for name, seed in requested]
            runs += [run for run in cached if run is not None]
            missing = [job for job, run in zip(requested, cached, strict=True) if run is None]
            if not missing and group[-1] != by_selection[-1]:
                continue
            splits = task.splits(configs[group[0]])
            for run in _train_all(
                task, splits, [(*job, configs[job[0]]) for job in missing], settings, workers, on_step
            ):
                if cache is not None:
                    cache.put(run, configs[run.variant])
                runs.append(run)
    if splits is None:
        raise ValueError("there is no variant: name at least one")
    rules = {name: evaluate_ranking(splits.test, score, task.heads) for name, score in splits.test.rankings.items()}
    order = {name: place for place, name in enumerate(names)}
    return Comparison(
        task.name,
        task.heads,
        rules,
        sorted(runs, key=lambda run: (order[run.variant], run.seed)),
        splits.test,
        (len(splits.training), len(splits.validation), len(splits.test)),
        settings,
    )


def _train_all(
    task: Task,
    splits: Splits,
    jobs: list[tuple[str, int, ModelConfig]],
    settings: TrainSettings,
    workers: int,
    on_step: StepListener,
) -> Iterator[Run]:
    def train(name: str, seed: int, model: TransAct) -> Run:
        run_settings = settings.model_copy(update={"seed": seed})
        last: list[Step] = []
        started = time.monotonic()

        def note(step: Step) -> None:
            last[:] = [step]
            on_step(name, seed, step)

        data = TrainingData(splits.training, splits.validation if len(splits.validation) else None, task.positive_types)
        progress = fit(model, data, run_settings, on_step=note)
        seconds = time.monotonic() - started
        return Run(name, seed, evaluate(model, splits.test), progress, seconds, last[-1].examples_per_s)

    models = []
    for name, seed, config in jobs:
        # The threads share one random generator, so the initial weights are drawn here, before they start.
        with seed_torch(settings.model_copy(update={"seed": seed})):
            models.append((name, seed, TransAct(config)))
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda job: train(*job), models)
