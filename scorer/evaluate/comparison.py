"""A comparison: variants trained with several seeds on one task, side by side with rules that need no training.

Trainings of one seed begin with weights from that seed alone, and run in threads of one torch thread each, as many as
asked for: on two cores that is a quarter faster than one training after the other with two threads.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np

from lifeline.scorer.config import Head, ModelConfig
from lifeline.scorer.evaluate.evaluation import Difference, Evaluation, compare, evaluate, ranked
from lifeline.scorer.evaluate.run_cache import KeptRuns, Run
from lifeline.scorer.evaluate.tasks import Splits, Task
from lifeline.scorer.model import TransAct
from lifeline.scorer.settings import TrainSettings
from lifeline.scorer.train.examples import ExampleSet
from lifeline.scorer.train.trainer import Data, Step, fit, seeded
from lifeline.scorer.variants import variant

Tell = Callable[[str, int, Step], None]
"""Called after each step with the variant, the seed, and what the trainer tells."""


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
    settings: TrainSettings
    """How all were trained, but for the seed."""

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
    kept: Path | None = None,
    tell: Tell = lambda *_: None,
) -> Comparison:
    """Train each variant with each seed, and measure all on the same requests.

    Runs that are in the directory `kept` are not made again, and what is made is left there. Raises ValueError where no
    variant is named, and KeptRunError.
    """
    configs = {name: variant(name, task.heads) for name in names}
    store = KeptRuns(kept, task.identity, settings) if kept is not None else None
    # Those that select alike share their examples; the longest come last, and are at hand when all is measured.
    by_selection = sorted(names, key=lambda name: (configs[name].selected, configs[name].selecting, names.index(name)))
    runs: list[Run] = []
    splits: Splits | None = None
    with seeded(settings):
        for _, alike in groupby(by_selection, key=lambda name: configs[name].selecting):
            group = list(alike)
            wanted = [(name, seed) for name in group for seed in seeds]
            found = [store.find(name, seed, configs[name]) if store is not None else None for name, seed in wanted]
            runs += [run for run in found if run is not None]
            missing = [job for job, run in zip(wanted, found, strict=True) if run is None]
            if not missing and group[-1] != by_selection[-1]:
                continue
            splits = task.splits(configs[group[0]])
            for run in _train_all(task, splits, [(*job, configs[job[0]]) for job in missing], settings, workers, tell):
                if store is not None:
                    store.keep(run, configs[run.variant])
                runs.append(run)
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
        settings,
    )


def _train_all(
    task: Task,
    splits: Splits,
    jobs: list[tuple[str, int, ModelConfig]],
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

    made = []
    for name, seed, config in jobs:
        # What is drawn for the weights comes from a generator that all threads share: so it is drawn here.
        with seeded(settings.model_copy(update={"seed": seed})):
            made.append((name, seed, TransAct(config)))
    with ThreadPoolExecutor(workers) as pool:
        yield from pool.map(lambda job: train_one(*job), made)
