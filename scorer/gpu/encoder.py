"""The encoder on a device: a `SequenceEncoder` by Triton kernels."""

from functools import partial
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from lifeline.core.embedding_codec import normalize
from lifeline.core.sequence import EMBEDDING_DIM
from lifeline.scorer.config import WIDTH, ModelConfig
from lifeline.scorer.encoder import Encoder, TokenEmbedding
from lifeline.scorer.features import Tokens
from lifeline.scorer.gpu import kernels
from lifeline.scorer.gpu.graphs import Buffer, DeviceGraph, DeviceGraphs, buffer, capacity
from lifeline.scorer.model import TransAct
from lifeline.scorer.precision import Precision
from lifeline.scorer.selection import Selection, Source
from lifeline.scorer.sequence_encoder import encoder_weights, is_supported, newest_outputs

_BLOCK = 64


class GpuEncoder:
    """A `SequenceEncoder` on a device; safe to use from any thread, and requests run one at a time."""

    def __init__(self, model: TransAct, encoder: Encoder, device: torch.device, precision: Precision) -> None:
        self._config, self._device, self._is_bfloat16 = model.config, device, precision is not Precision.FLOAT32
        with torch.inference_mode():
            weights = {name: torch.from_numpy(array) for name, array in encoder_weights(model, encoder).items()}
            self._tokens = TokenEmbedding(model.config).to(device)
            self._tokens.load_state_dict(encoder.tokens.state_dict())
        # Triton needs a power of two; the padding channels are zero in both matrices.
        missing = capacity(weights["widen"].shape[2], 16) - weights["widen"].shape[2]
        weights["widen"] = functional.pad(weights["widen"], (0, missing))
        weights["narrow"] = functional.pad(weights["narrow"], (0, 0, 0, missing))
        self._weights = {name: array.contiguous().to(device) for name, array in weights.items()}
        self._padded = -(-self._config.selection_length // _BLOCK) * _BLOCK
        self._graphs = DeviceGraphs(self._build)

    @classmethod
    def of(cls, model: TransAct, device: torch.device, precision: Precision) -> Self | None:
        """Prepare a model; None if the kernels do not support it."""
        if not isinstance(model.encoder, Encoder) or not is_supported(model):
            return None
        return cls(model, model.encoder, device, precision)

    @property
    def config(self) -> ModelConfig:
        """The configuration of the model."""
        return self._config

    def parts(
        self, tokens: Tokens, selection: Selection, candidates: NDArray[np.int8], request_ms: int
    ) -> list[Tensor]:
        """Implement `SequenceEncoder.parts`."""
        count, length = selection.index.shape
        with self._graphs.acquire(len(tokens), count) as graph:
            inputs = {name: buffer.host.numpy() for name, buffer in graph.inputs.items()}
            inputs["embedding"][: len(tokens)] = normalize(tokens.embedding)
            inputs["action_types"][: len(tokens)] = tokens.action_types.view(np.int64)
            inputs["surface"][: len(tokens)] = tokens.surface
            inputs["age_s"][: len(tokens)] = np.maximum(request_ms - tokens.timestamp_ms, 0) / np.float32(1000)
            inputs["index"][:count, :length] = selection.index
            inputs["similarity"][:count, :length] = selection.similarity
            inputs["counts"][:] = 1
            inputs["counts"][:count] = selection.valid.sum(axis=1)
            inputs["candidates"][:count, EMBEDDING_DIM:] = normalize(candidates) * np.float32(self._config.input_scale)
            graph.run()
            read_out = graph.outputs["read_out"].host[:count, : self._config.read_out].clone()
            newest = self._config.newest_outputs
            outputs = graph.outputs["outputs"].host[:count, :length].numpy().copy() if newest else None
        if outputs is None:
            return [read_out]
        return [read_out, torch.from_numpy(newest_outputs(outputs, selection.source == Source.RECENT, newest))]

    def _build(self, tokens: int, candidates: int) -> DeviceGraph:
        length, blocks = self._config.selection_length, self._padded // _BLOCK
        make = partial(buffer, device=self._device)
        inputs: dict[str, Buffer] = {
            "embedding": make((tokens, EMBEDDING_DIM), torch.float32),
            "action_types": make((tokens,), torch.int64),
            "surface": make((tokens,), torch.int64),
            "age_s": make((tokens,), torch.float32),
            "index": make((candidates, length), torch.int32),
            "similarity": make((candidates, length), torch.float32),
            "counts": make((candidates,), torch.int32),
            "candidates": make((candidates, WIDTH), torch.float32),
        }
        outputs = {"read_out": make((candidates, WIDTH), torch.float32)}
        if self._config.newest_outputs:
            outputs["outputs"] = make((candidates, self._padded, WIDTH), torch.float32)
        on_device = {name: buffer.device for name, buffer in inputs.items()}
        layer_outputs = [torch.zeros((candidates, self._padded, WIDTH), device=self._device) for _ in range(2)]
        best = torch.zeros((candidates, blocks, WIDTH), device=self._device)
        layers = self._config.layers
        weights = self._weights

        def work() -> None:
            with torch.inference_mode():
                x = self._tokens.table(on_device["embedding"], on_device["action_types"], on_device["surface"])
                age = self._tokens.age_embedding(functional.pad(on_device["age_s"], (0, 1)))
                if age is not None:
                    x = x + age
                for layer in range(layers):
                    out = layer_outputs[layer % 2]
                    kernels.encode_layer[(candidates, blocks)](
                        x,
                        on_device["index"],
                        on_device["similarity"],
                        on_device["counts"],
                        weights["position"],
                        on_device["candidates"],
                        weights["similarity"],
                        tokens,
                        *(weights[name][layer] for name in ("match", "value", "widen", "narrow")),
                        weights["read_out"],
                        weights["read_out_bias"],
                        out,
                        best,
                        LENGTH=length,
                        PADDED=self._padded,
                        BLOCK=_BLOCK,
                        WIDTH=WIDTH,
                        FFN=weights["widen"].shape[2],
                        FIRST=layer == 0,
                        LAST=layer + 1 == layers,
                        KNOTS=self._config.similarity_buckets,
                        LOW=self._is_bfloat16,
                    )
                    x = out
                torch.amax(best, dim=1, out=outputs["read_out"].device)
                if "outputs" in outputs:
                    outputs["outputs"].device.copy_(x)

        return DeviceGraph(inputs, outputs, work, self._device)
