"""Data-parallel training: the processes that `torchrun` starts, each with its share of every batch.

Every process holds the whole model and draws the same batches; it computes the gradients of its share alone, and those
are summed. So the weights stay the same everywhere, and are those that one process would give, but for the order of
summation.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, distributed


@dataclass(frozen=True, slots=True)
class Group:
    """The processes that train one model."""

    rank: int = 0
    size: int = 1

    @classmethod
    @contextmanager
    def joined(cls) -> Iterator["Group"]:
        """Join the processes that torchrun started, over gloo; a process that was started alone is one of one."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        distributed.init_process_group("gloo")
        try:
            yield cls(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()

    def share(self, count: int) -> NDArray[np.int64]:
        """Return which of so many requests of a batch are this process's."""
        return np.arange(self.rank, count, self.size)

    def add(self, *numbers: float) -> list[float]:
        """Return the sums of every process's numbers."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(total)
        found: list[float] = total.tolist()
        return found

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Give every process the sum of all gradients."""
        if self.size == 1:
            return
        gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        at = 0
        for one in parameters:
            one.grad = flat[at : at + one.numel()].view_as(one)
            at += one.numel()

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return every process's rows, float32[n, d] of any n, one below the other."""
        if self.size == 1:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        distributed.all_reduce(counts)
        most = int(counts.max())
        padded = torch.zeros(most, rows.shape[1])
        padded[: len(rows)] = torch.from_numpy(rows)
        every = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(every, padded)
        return np.concatenate([one[: int(count)].numpy() for one, count in zip(every, counts, strict=True)])

    def wait(self) -> None:
        """Return once every process is here."""
        if self.size > 1:
            distributed.barrier()
