"""Work on a device with fixed buffers: on a GPU a CUDA graph, captured once, with inputs in pinned memory."""

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor

_WARM_UPS = 3
_MIN_TOKENS, _MIN_CANDIDATES = 1_024, 32


class Buffer(NamedTuple):
    """A tensor on the host and on the device; without a GPU they are the same."""

    host: Tensor
    device: Tensor


def buffer(shape: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Buffer:
    """Return a buffer of zeros."""
    if device.type == "cpu":
        zeros = torch.zeros(shape, dtype=dtype)
        return Buffer(zeros, zeros)
    return Buffer(torch.zeros(shape, dtype=dtype, pin_memory=True), torch.zeros(shape, dtype=dtype, device=device))


class DeviceGraph:
    """Copies inputs to the device, runs the work, copies outputs to the host, and waits.

    Only one caller may use it at a time, because every run uses the same buffers.
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
            self._graph = self._capture(device)

    def run(self) -> None:
        """Run once; the outputs are on the host when it returns."""
        if self._graph is None:
            self._steps()
            return
        self._graph.replay()
        torch.cuda.current_stream().synchronize()

    def _steps(self) -> None:
        for buffer in self.inputs.values():
            if buffer.device is not buffer.host:
                buffer.device.copy_(buffer.host, non_blocking=True)
        self._work()
        for buffer in self.outputs.values():
            if buffer.device is not buffer.host:
                buffer.host.copy_(buffer.device, non_blocking=True)

    def _capture(self, device: torch.device) -> torch.cuda.CUDAGraph:
        # Warm-up runs compile kernels and allocate memory, which is not allowed during capture.
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            for _ in range(_WARM_UPS):
                self._steps()
        torch.cuda.current_stream(device).wait_stream(stream)
        torch.cuda.synchronize(device)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._steps()
        return graph


class DeviceGraphs:
    """Graphs for any number of tokens and candidates, one for each capacity; safe to use from any thread."""

    def __init__(self, build: Callable[[int, int], DeviceGraph]) -> None:
        """`build` builds a graph with a capacity for tokens and for candidates."""
        self._build = build
        self._graphs: dict[tuple[int, int], DeviceGraph] = {}
        self._lock = threading.Lock()

    @contextmanager
    def acquire(self, tokens: int, candidates: int) -> Iterator[DeviceGraph]:
        """Give exclusive use of a graph with at least this capacity."""
        key = (capacity(tokens, _MIN_TOKENS), capacity(candidates, _MIN_CANDIDATES))
        with self._lock:
            if key not in self._graphs:
                self._graphs[key] = self._build(*key)
            yield self._graphs[key]


def capacity(count: int, least: int) -> int:
    """Return the next power of two, at least `least`, so that few shapes are captured."""
    return max(least, 1 << max(0, count - 1).bit_length())
