"""Data-parallel training: `torchrun` starts several processes, and each one takes a share of every batch.

Every process holds the whole model and draws the same batches. It computes the gradients of its share, and the
gradients of all processes are summed. So all processes have the same weights; they equal those of one process except
for the order of summation.
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
    def join(cls) -> Iterator["Group"]:
        """Join the processes that torchrun started, over gloo; without torchrun, the group has one process."""
        if int(os.environ.get("WORLD_SIZE", "1")) == 1:
            yield cls()
            return
        distributed.init_process_group("gloo")
        try:
            yield cls(distributed.get_rank(), distributed.get_world_size())
        finally:
            distributed.destroy_process_group()

    def share(self, count: int) -> NDArray[np.int64]:
        """Return this process's share of `count` requests of a batch, as their places."""
        return np.arange(self.rank, count, self.size)

    def add(self, *numbers: float) -> list[float]:
        """Return the sums of each number over all processes."""
        if self.size == 1:
            return list(numbers)
        total = torch.tensor(numbers, dtype=torch.float64)
        distributed.all_reduce(total)
        totals: list[float] = total.tolist()
        return totals

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Replace each gradient by its sum over all processes."""
        if self.size == 1:
            return
        gradients = [
            torch.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in parameters
        ]
        flat = torch.cat([gradient.reshape(-1) for gradient in gradients])
        distributed.all_reduce(flat)
        at = 0
        for parameter in parameters:
            parameter.grad = flat[at : at + parameter.numel()].view_as(parameter)
            at += parameter.numel()

    def gather(self, rows: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return the rows of all processes, float32[n, d], concatenated; n may differ."""
        if self.size == 1:
            return rows
        counts = torch.zeros(self.size, dtype=torch.int64)
        counts[self.rank] = len(rows)
        distributed.all_reduce(counts)
        longest = int(counts.max())
        padded = torch.zeros(longest, rows.shape[1])
        padded[: len(rows)] = torch.from_numpy(rows)
        gathered = [torch.empty_like(padded) for _ in range(self.size)]
        distributed.all_gather(gathered, padded)
        return np.concatenate([part[: int(count)].numpy() for part, count in zip(gathered, counts, strict=True)])

    def wait(self) -> None:
        """Wait until every process has called this."""
        if self.size > 1:
            distributed.barrier()
