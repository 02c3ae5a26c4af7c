"""The PyTorch backend, in float32: the reference that every other backend is tested against."""

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from lifeline.scorer.features import History, Tokens
from lifeline.scorer.inputs import Pairs
from lifeline.scorer.kernels.instruction_set import InstructionSet
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection import Selection, check_candidates, check_selection, select
from lifeline.scorer.sequence_encoder import cross_input


class TorchBackend:
    """A `Backend` without kernels, with as many threads as torch has."""

    name = "torch"

    def __init__(self, model: TransAct) -> None:
        self._model = model

    def select(self, history: History, candidates: NDArray[np.int8]) -> Selection:
        """Implement `Backend.select`."""
        check_candidates(candidates)
        return select(history, candidates, self._model.config, instruction_set=InstructionSet.NONE)

    def logits(self, tokens: Tokens, selection: Selection, pairs: Pairs) -> Tensor:
        """Implement `Backend.logits`."""
        check_candidates(pairs.embedding)
        check_selection(selection, len(tokens))
        return self._model.heads(cross_input(self._model, None, tokens, selection, pairs))
