"""Selection: the tokens of a user that the encoder reads for a candidate.

    S_all = NN(S_LL, c) ++ S_RT[:r] ++ NN(S_RT[r:], c) ++ NN(S_imp, c)

NN is the exact top K by cosine. Dot products of int8 vectors are below 2**24, and therefore exact in float32 in any
order of summation. So a cosine is one well-defined float32: dot * (1/||c||) * (1/||x||), rounded after each product,
with inverse norms from `lifeline.core.embedding_codec.inverse_norm`. Of equal cosines the newer token is selected. If a
token or the candidate is a zero vector, the token is never selected by similarity.

Within each block tokens are ordered from oldest to newest. Valid tokens come first, padding is on the right. If nothing
is selected, because the history is empty, position 0 holds one neutral token (index -1, valid): no embedding, no
action, surface unknown. So position 0 is always valid.
"""

from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from lifeline.core.embedding_codec import inverse_norm
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.errors import KernelInputError
from lifeline.scorer.features import History
from lifeline.scorer.kernels import selection as kernels
from lifeline.scorer.kernels.arrays import check_array
from lifeline.scorer.kernels.instruction_set import InstructionSet, active

CANDIDATES_AT_ONCE = 64
"""Bounds the similarity matrix of PyTorch: 64 x 16,640 float32 are 4 MiB."""

_Number = TypeVar("_Number", bound=np.generic)
_NOTHING = torch.iinfo(torch.int64).min


class Source(IntEnum):
    """The block of S_all that a token is in; the numbers are those of the wire contract's TokenSource."""

    NONE = 0
    LIFELONG = 1
    RECENT = 2
    REAL_TIME = 3
    IMPRESSION = 4


@dataclass(frozen=True, slots=True)
class Selection:
    """S_all of c candidates, each of length L."""

    index: NDArray[np.int64]
    """int64[c, L]: rows of `History.tokens`; -1 for the neutral token and for padding."""
    valid: NDArray[np.bool_]
    """bool[c, L]: False for padding; True for a prefix of every row, at least one column."""
    source: NDArray[np.uint8]
    """uint8[c, L]: a `Source`; NONE if the index is -1."""
    similarity: NDArray[np.float32]
    """float32[c, L]: cosine with the candidate; 0 if either has no embedding."""

    def trim(self) -> "Selection":
        """Return the same selection without the columns that are padding in every row."""
        longest = int(self.valid.sum(axis=1).max(initial=1))
        return Selection(
            self.index[:, :longest],
            self.valid[:, :longest],
            self.source[:, :longest],
            self.similarity[:, :longest],
        )

    def remove(self, row: NDArray[np.integer], column: NDArray[np.integer]) -> "Selection":
        """Return the rows int64[n] `row`, each without the token at int64[n] `column`; later tokens move left."""
        length = self.index.shape[1]
        # Column `length` is padding: it moves into the last column.
        place = np.arange(length) + (np.arange(length) >= column[:, np.newaxis])

        def shift(values: NDArray[_Number], padding: int) -> NDArray[_Number]:
            padded = np.pad(values[row], ((0, 0), (0, 1)), constant_values=padding)
            return np.take_along_axis(padded, place, axis=1)

        index, valid = shift(self.index, -1), shift(self.valid, 0)
        valid[:, 0] = True
        return Selection(index, valid, shift(self.source, int(Source.NONE)), shift(self.similarity, 0))

    @classmethod
    def concatenate(cls, parts: list["Selection"]) -> "Selection":
        """Return the rows of all parts, one below the other; all have the same L."""
        return cls(
            np.concatenate([part.index for part in parts]),
            np.concatenate([part.valid for part in parts]),
            np.concatenate([part.source for part in parts]),
            np.concatenate([part.similarity for part in parts]),
        )


def select(
    history: History,
    candidates: NDArray[np.int8],
    config: ModelConfig,
    *,
    instruction_set: InstructionSet | None = None,
    threads: int | None = None,
) -> Selection:
    """Return S_all for int8[c, 32] candidates, at length `config.selection_length`.

    Uses the kernels of `instruction_set`, by default the process's, with `threads`, by default as many as torch has.
    Raises KernelsError if the instruction set is not available.
    """
    instruction_set = active() if instruction_set is None else instruction_set
    if instruction_set is InstructionSet.NONE:
        return _select_by_torch(history, candidates, config)
    selected = kernels.select(
        history.explicit.embedding,
        history.impressions.embedding,
        candidates,
        history.real_time_from,
        (config.lifelong_selected, config.recent_kept, config.real_time_selected, config.impressions_selected),
        instruction_set=instruction_set,
        threads=threads or torch.get_num_threads(),
    )
    return Selection(selected.index, selected.valid, selected.source, selected.similarity)


def check_candidates(candidates: NDArray[np.int8]) -> None:
    """Raise KernelInputError if candidates are not int8[c, 32]."""
    check_array("candidates", candidates, np.int8, None, EMBEDDING_DIM)


def check_selection(selection: Selection, tokens: int) -> None:
    """Raise KernelInputError if an index is outside the tokens, or position 0 of a row is not valid."""
    if selection.index.max(initial=-1) >= tokens or not selection.valid[:, 0].all():
        raise KernelInputError(
            f"a selection has an index outside the {tokens} tokens, or no valid place: select from these"
        )


def _select_by_torch(history: History, candidates: NDArray[np.int8], config: ModelConfig) -> Selection:
    """Select with PyTorch: the reference that the kernels are tested against."""
    tokens = np.concatenate([history.explicit.embedding, history.impressions.embedding])
    return Selection.concatenate(
        [
            _select(history, tokens, candidates[start : start + CANDIDATES_AT_ONCE], config)
            for start in range(0, max(1, len(candidates)), CANDIDATES_AT_ONCE)
        ]
    )


def cosines(candidates: NDArray[np.int8], tokens: NDArray[np.int8]) -> NDArray[np.float32]:
    """Return the cosines of all pairs, float32[c, n]; 0 if either embedding is unknown."""
    similarity: NDArray[np.float32] = _cosine(candidates, tokens)[0].numpy()
    return similarity


def similarity_of(
    candidates: NDArray[np.int8], tokens: NDArray[np.int8], index: NDArray[np.integer]
) -> NDArray[np.float32]:
    """Return the cosines of candidates and the rows `index` of int8[n, 32] tokens, float32[c, L]; 0 for the row -1.

    They equal those of `select` to the bit.
    """
    if len(tokens) == 0:
        return np.zeros(index.shape, np.float32)
    dots = np.einsum("cd,cld->cl", candidates.astype(np.float32), tokens[index].astype(np.float32))
    similarity: NDArray[np.float32] = dots * inverse_norm(candidates)[:, np.newaxis] * inverse_norm(tokens)[index]
    return np.where(index >= 0, similarity + np.float32(0), np.float32(0))


def restore(
    index: NDArray[np.int64],
    source: NDArray[np.uint8],
    candidates: NDArray[np.int8],
    tokens: NDArray[np.int8],
    similarity: NDArray[np.float32] | None = None,
) -> Selection:
    """Return the trimmed selection with this index, int64[c, L], and source, uint8[c, L].

    Without `similarity`, float32[c, L], it is computed from int8[c, 32] candidates and int8[n, 32] tokens.
    """
    valid = index >= 0
    valid[:, 0] = True
    if similarity is not None:
        return Selection(index, valid, source, similarity).trim()
    # Trimmed first: then there are fewer cosines to compute.
    trimmed = Selection(index, valid, source, np.broadcast_to(np.float32(0), index.shape)).trim()
    return replace(trimmed, similarity=similarity_of(candidates, tokens, trimmed.index))


def _select(history: History, tokens: NDArray[np.int8], candidates: NDArray[np.int8], config: ModelConfig) -> Selection:
    similarity, known = _cosine(candidates, tokens)
    recent_from = max(0, len(history.explicit) - config.recent_kept)
    rows = len(candidates)
    recent = torch.arange(recent_from, len(history.explicit)).expand(rows, -1)
    nearest = {
        Source.LIFELONG: (0, history.real_time_from, config.lifelong_selected),
        Source.REAL_TIME: (history.real_time_from, recent_from, config.real_time_selected),
        Source.IMPRESSION: (len(history.explicit), len(tokens), config.impressions_selected),
    }
    blocks = {source: _nearest(similarity, known, *pool) for source, pool in nearest.items()}
    blocks[Source.RECENT] = torch.nn.functional.pad(recent, (0, config.recent_kept - recent.shape[1]), value=-1)

    order = (Source.LIFELONG, Source.RECENT, Source.REAL_TIME, Source.IMPRESSION)
    index = torch.cat([blocks[source] for source in order], dim=1)
    source = torch.cat([torch.full_like(blocks[source], source) for source in order], dim=1)
    # A stable sort by one bit moves valid tokens to the front, in their order.
    first = torch.argsort((index < 0).to(torch.uint8), dim=1, stable=True)
    index, source = index.gather(1, first), source.gather(1, first)
    selected = index >= 0
    if len(tokens):
        similarity = similarity.gather(1, index.clamp(min=0)).where(selected, 0.0)
    else:
        similarity = torch.zeros(index.shape)
    valid = selected.clone()
    valid[:, 0] = True
    return Selection(
        index.numpy(),
        valid.numpy(),
        source.where(selected, int(Source.NONE)).to(torch.uint8).numpy(),
        similarity.numpy(),
    )


def _cosine(candidates: NDArray[np.int8], tokens: NDArray[np.int8]) -> tuple[Tensor, Tensor]:
    """Return float32[c, n] cosines, and bool[c, n]: whether both embeddings are known."""
    rows, columns = (torch.from_numpy(inverse_norm(embedding)) for embedding in (candidates, tokens))
    dots = torch.from_numpy(candidates).float() @ torch.from_numpy(tokens).float().T
    # Adding zero turns -0.0 into 0.0, so that the two tie.
    similarity = dots * rows[:, None] * columns + 0.0
    return similarity, (rows > 0)[:, None] & (columns > 0)


def _nearest(similarity: Tensor, known: Tensor, start: int, stop: int, count: int) -> Tensor:
    """Return the `count` nearest of the tokens start..stop, int64[c, count] ascending, padded with -1."""
    pool = torch.arange(start, stop)
    bits = similarity[:, start:stop].contiguous().view(torch.int32)
    # The bits of a float32, with the lower ones flipped if it is negative, order as the number does. The row in the
    # lower half of the key breaks ties: the newer token has the greater key.
    ascending = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    keys = (ascending.to(torch.int64) << 32 | pool).where(known[:, start:stop], _NOTHING)
    keys = keys.topk(min(count, len(pool)), dim=1, sorted=False).values
    missing = keys == _NOTHING
    index = (keys & 0xFFFFFFFF).masked_fill(missing, stop).sort(dim=1).values
    index = index.masked_fill(index == stop, -1)
    return torch.nn.functional.pad(index, (0, count - index.shape[1]), value=-1)
