"""Work on a device between fixed buffers: on a GPU recorded once as a CUDA graph, and staged through pinned memory."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

_WARM_UPS = 3
_LEAST_TOKENS, _LEAST_CANDIDATES = 1_024, 32


class Buffer(NamedTuple):
    """One tensor on either side; on a CPU they are one."""

    host: Tensor
    device: Tensor


def buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Buffer:
    """Return a buffer of zeros."""
    if device.type == "cpu":
        made = torch.zeros(shape, dtype=dtype)
        return Buffer(made, made)
    return Buffer(torch.zeros(shape, dtype=dtype, pin_memory=True), torch.zeros(shape, dtype=dtype, device=device))


class Recorded:
    """Copies the inputs over, works, and copies the outputs back: `run` does all three, and waits.

    One at a time: the buffers are those of the next run as well.
    """

    def __init__(
        self,
        inputs: Mapping[str, Buffer],
        outputs: Mapping[str, Buffer],
        work: Callable[[], None],
        device: torch.device,
    ) -> None:
        self.inputs, self.outputs = inputs, outputs
        self._work, self._graph = work, None
        if device.type == "cuda":
            self._graph = self._record(device)

    def run(self) -> None:
        """Do it; the outputs' host sides are whole when it returns."""
        if self._graph is None:
            self._all()
            return
        self._graph.replay()
        torch.cuda.current_stream().synchronize()

    def _all(self) -> None:
        for one in self.inputs.values():
            if one.device is not one.host:
                one.device.copy_(one.host, non_blocking=True)
        self._work()
        for one in self.outputs.values():
            if one.device is not one.host:
                one.host.copy_(one.device, non_blocking=True)

    def _record(self, device: torch.device) -> torch.cuda.CUDAGraph:
        """Kernels are compiled, and memory is taken, before anything is recorded."""
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._all()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._all()
        return graph


class Recordings:
    """Work for any number of tokens and candidates, recorded for each size that there is room for; safe in threads."""

    def __init__(self, record: Callable[[int, int], Recorded]) -> None:
        """`record` records for so many tokens and candidates."""
        self._record = record
        self._recorded: dict[tuple[int, int], Recorded] = {}
        self._lock = threading.Lock()

    @contextmanager
    def of(self, tokens: int, candidates: int) -> Iterator[Recorded]:
        """Give what has room for so many; nobody else has it meanwhile."""
        key = (room(tokens, _LEAST_TOKENS), room(candidates, _LEAST_CANDIDATES))
        with self._lock:
            if key not in self._recorded:
                self._recorded[key] = self._record(*key)
            yield self._recorded[key]


def room(count: int, least: int) -> int:
    """Return for how many there is to be room: a power of two, so that few shapes are ever recorded."""
    return max(least, 1 << max(0, count - 1).bit_length())
