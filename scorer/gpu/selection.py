"""Selection on a device, equal to `scorer.selection` to the bit."""

from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray

from lifeline.core.embedding_codec import inverse_norm
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.scorer.config import ModelConfig
from lifeline.scorer.features import History
from lifeline.scorer.gpu import kernels
from lifeline.scorer.gpu.graphs import Buffer, DeviceGraph, DeviceGraphs, buffer, capacity
from lifeline.scorer.selection import Selection


class GpuSelector:
    """Selects for one configuration; safe to use from any thread, and requests run one at a time."""

    def __init__(self, config: ModelConfig, device: torch.device) -> None:
        self._config, self._device = config, device
        self._graphs = DeviceGraphs(self._build)

    def select(self, history: History, candidates: NDArray[np.int8]) -> Selection:
        """Return S_all for int8[c, 32] candidates, at length `config.selection_length`."""
        count, tokens = len(candidates), len(history.explicit) + len(history.impressions)
        rows = np.concatenate([history.explicit.embedding, history.impressions.embedding])
        recent_from = max(0, len(history.explicit) - self._config.recent_kept)
        with self._graphs.acquire(tokens, count) as graph:
            inputs = {name: buffer.host.numpy() for name, buffer in graph.inputs.items()}
            inputs["tokens"][:, :tokens] = rows.T
            inputs["norms"][:tokens] = inverse_norm(rows)
            inputs["candidates"][:count] = candidates
            inputs["candidate_norms"][:] = 0
            inputs["candidate_norms"][:count] = inverse_norm(candidates)
            inputs["bounds"][:] = (history.real_time_from, recent_from, len(history.explicit), tokens)
            graph.run()
            outputs = {name: buffer.host.numpy()[:count].copy() for name, buffer in graph.outputs.items()}
        index = outputs["index"].astype(np.int64)
        valid = index >= 0
        valid[:, 0] = True
        return Selection(index, valid, outputs["source"], outputs["similarity"])

    def _build(self, tokens: int, candidates: int) -> DeviceGraph:
        config = self._config
        make = partial(buffer, device=self._device)
        inputs = {
            "tokens": make((EMBEDDING_DIM, tokens), torch.int8),
            "norms": make((tokens,), torch.float32),
            "candidates": make((candidates, EMBEDDING_DIM), torch.int8),
            "candidate_norms": make((candidates,), torch.float32),
            "bounds": make((4,), torch.int32),
        }
        outputs: dict[str, Buffer] = {
            "index": make((candidates, config.selection_length), torch.int32),
            "similarity": make((candidates, config.selection_length), torch.float32),
            "source": make((candidates, config.selection_length), torch.uint8),
        }
        small = max(config.real_time_length, config.impression_length, config.recent_kept)

        def work() -> None:
            kernels.select[(candidates,)](
                inputs["tokens"].device,
                tokens,
                *(inputs[name].device for name in ("norms", "candidates", "candidate_norms", "bounds")),
                *(output.device for output in outputs.values()),
                config.lifelong_selected,
                config.real_time_selected,
                config.impressions_selected,
                LENGTH=config.selection_length,
                POOL=tokens,
                SMALL=capacity(small, 16),
                FILL=capacity(config.selection_length, 16),
                CHANNELS=EMBEDDING_DIM,
            )

        return DeviceGraph(inputs, outputs, work, self._device)
