"""One of the processes of a data-parallel run: started by torchrun, in a test."""

import sys
from pathlib import Path

import numpy as np
import torch

from lifeline.scorer.model import TransAct
from lifeline.scorer.train.parallel import Group
from lifeline.scorer.train.trainer import Step, TrainingData, fit, seed_torch
from tests.support.scorer_factories import SMALL
from tests.support.training_sets import SETTINGS, made_set


def main(directory: Path) -> None:
    config = SMALL.model_copy(update={"nal_source": "in_batch"})
    steps: list[Step] = []
    with Group.join() as group, seed_torch(SETTINGS):
        assert group.size == 2
        model = TransAct(config)
        progress = fit(
            model,
            TrainingData(made_set(0, 10, config), made_set(1, 6, config), [1, 2]),
            SETTINGS,
            on_step=steps.append,
            group=group,
        )
        np.savez(
            directory / f"{group.rank}.npz",
            losses=[at.loss for at in steps],
            validation=[loss for *_, loss in progress.curve],
            weights=torch.cat([weight.reshape(-1) for weight in model.state_dict().values()]).numpy(),
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
