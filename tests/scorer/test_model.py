from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.encoder import EncoderBlock
from lifeline.scorer.features import History
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.model import TransAct
from lifeline.scorer.selection import Selection, Source
from lifeline.scorer.variants import NAMES, variant
from tests.support.models import made_inputs, made_model, plain_norm
from tests.support.scorer_factories import HEADS, SMALL, embeddings, history


def small(name: str) -> ModelConfig:
    """Return a variant whose blocks are a few tokens long."""
    config = variant(name, HEADS)
    lengths = {
        field: min(getattr(config, field), getattr(SMALL, field))
        for field in ("lifelong_selected", "recent_kept", "real_time_selected", "impressions_selected")
    }
    sizes = {field: getattr(SMALL, field) for field in ("real_time_length", "impression_length", "read_out", "mlp")}
    return config.model_copy(update=lengths | sizes | {"newest_outputs": min(config.newest_outputs, 2)})


def forward(model: TransAct, inputs: Inputs) -> NDArray[np.float32]:
    with torch.inference_mode():
        return model(inputs).numpy()  # type: ignore[no-any-return]


def encode(model: TransAct, inputs: Inputs) -> NDArray[np.float32]:
    with torch.inference_mode():
        encoded = model.encode(inputs)
    assert encoded is not None
    found: NDArray[np.float32] = encoded.numpy()
    return found


def plain_forward(
    model: TransAct, h: History, selection: Selection, candidates: NDArray[np.int8], inputs: Inputs, row: int
) -> NDArray[np.float64]:
    """Return the logits of one candidate, token after token, in float64."""
    weight = {key: value.numpy().astype(np.float64) for key, value in model.state_dict().items()}
    table = h.tokens

    def unit(vector: NDArray[np.int8]) -> NDArray[np.float64]:
        length = np.linalg.norm(vector.astype(np.float64))
        return vector / length if length else np.zeros(32)

    rows = []
    for place in range(int(selection.valid[row].sum())):
        index = int(selection.index[row, place])
        own, bits, surface = np.zeros(32), 0, 0
        if index >= 0:
            own, bits, surface = unit(table.embedding[index]), int(table.action_types[index]), int(table.surface[index])
        x = np.concatenate([own, unit(candidates[row])]) + weight["encoder.tokens.surface"][surface]
        x = x + weight["encoder.tokens.position"][place]
        for number in range(64):
            if bits >> number & 1:
                x = x + weight["encoder.tokens.action"][number]
        rows.append(x)
    x = np.stack(rows)
    for layer in range(model.config.layers):
        block = f"encoder.blocks.{layer}"
        q, k, v = (x @ weight[f"{block}.{name}.weight"].T for name in ("query", "key", "value"))
        attended = np.zeros_like(x)
        for place in range(len(x)):
            score = k[: place + 1] @ q[place] / np.sqrt(64)
            share = np.exp(score - score.max())
            attended[place] = share / share.sum() @ v[: place + 1]
        y = plain_norm(x + attended)
        wide = np.maximum(y @ weight[f"{block}.widen.weight"].T, 0)
        x = plain_norm(y + wide @ weight[f"{block}.narrow.weight"].T)
    read = (x @ weight["read_out.weight"].T + weight["read_out.bias"]).max(axis=0)
    recent = [place for place in range(len(x)) if selection.source[row, place] == Source.RECENT][::-1]
    newest = [
        x[recent[number]] if number < len(recent) else np.zeros(64) for number in range(model.config.newest_outputs)
    ]
    surface = int(inputs.context_surface[row])
    first = np.concatenate(
        [read, unit(candidates[row]), inputs.context[row].numpy(), weight["context_surface"][surface], *newest]
    )
    crossed = first
    for layer in range(model.config.cross_layers):
        crossed = first * (weight[f"cross.{layer}.linear.weight"] @ crossed + weight[f"cross.{layer}.linear.bias"]) + (
            crossed
        )
    names = [key[: -len(".weight")] for key in weight if key.startswith("mlp") and key.endswith(".weight")]
    for name in names[:-1]:
        crossed = np.maximum(weight[f"{name}.weight"] @ crossed + weight[f"{name}.bias"], 0)
    return weight[f"{names[-1]}.weight"] @ crossed + weight[f"{names[-1]}.bias"]  # type: ignore[no-any-return]


@pytest.mark.parametrize(("explicit", "shown"), [(40, 9), (8, 0), (2, 3), (1, 0), (0, 2), (0, 0)])
@pytest.mark.parametrize("newest", [0, 2])
def test_it_equals_a_plain_reimplementation(explicit: int, shown: int, newest: int) -> None:
    rng = np.random.default_rng(explicit)
    config = SMALL.model_copy(update={"newest_outputs": newest})
    model, h, c = made_model(config), history(rng, explicit, shown), embeddings(rng, 3)
    c[1] = 0
    inputs, selection = made_inputs(rng, h, c, config)
    found = forward(model, inputs)
    for row in range(len(c)):
        expected = plain_forward(model, h, selection, c, inputs, row)
        np.testing.assert_allclose(found[row], expected, atol=1e-5, rtol=1e-5)


def test_a_layer_has_the_published_number_of_weights() -> None:
    config = ModelConfig(heads=HEADS)
    assert sum(weight.numel() for weight in EncoderBlock(config.ffn).parameters()) == 16_384


def test_a_later_token_never_changes_an_earlier_output() -> None:
    rng = np.random.default_rng(1)
    model = made_model()
    inputs, _ = made_inputs(rng, history(rng, 40, 9), embeddings(rng, 4))
    before = encode(model, inputs)
    for place in (1, 5, SMALL.selection_length - 1):
        index = inputs.index.clone()
        index[:, place] = (index[:, place] + 1) % len(inputs.embedding)
        after = encode(model, replace(inputs, index=index))
        np.testing.assert_array_equal(after[:, :place], before[:, :place])
        assert (after[:, place:] != before[:, place:]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", NAMES)
def test_padding_changes_nothing(name: str) -> None:
    rng = np.random.default_rng(2)
    config = small(name)
    model = made_model(config)
    inputs, selection = made_inputs(rng, history(rng, 2, 1, config), embeddings(rng, 3), config)
    if config.selection_length == 1:
        assert inputs.valid.all()
        return
    expected = forward(model, inputs)
    garbage = torch.where(inputs.valid, inputs.index, torch.randint(0, len(inputs.embedding), inputs.index.shape))
    np.testing.assert_array_equal(forward(model, replace(inputs, index=garbage)), expected)
    short = selection.trim()
    assert short.index.shape[1] < selection.index.shape[1]
    trimmed = replace(
        inputs,
        index=torch.from_numpy(short.index),
        valid=torch.from_numpy(short.valid),
        source=torch.from_numpy(short.source),
        similarity=torch.from_numpy(short.similarity),
        age_s=inputs.age_s[:, : short.index.shape[1]],
    )
    np.testing.assert_allclose(forward(model, trimmed), expected, atol=1e-5)


@pytest.mark.parametrize("explicit", [1, 3, 5, 7, 40])
@pytest.mark.parametrize("shown", [0, 1, 9])
def test_blocks_that_are_not_full_leave_no_trace(explicit: int, shown: int) -> None:
    # A short block is closed up, and the row is padded on the right: what is left out is as if it had never been.
    rng = np.random.default_rng(6)
    model, h, c = made_model(), history(rng, explicit, shown), embeddings(rng, 2)
    c[1] = 0
    inputs, selection = made_inputs(rng, h, c)
    for row in range(2):
        count = int(selection.valid[row].sum())
        assert selection.valid[row, :count].all()
        alone = replace(
            inputs,
            index=inputs.index[row : row + 1, :count],
            valid=inputs.valid[row : row + 1, :count],
            source=inputs.source[row : row + 1, :count],
            similarity=inputs.similarity[row : row + 1, :count],
            age_s=inputs.age_s[row : row + 1, :count],
            candidate=inputs.candidate[row : row + 1],
            context=inputs.context[row : row + 1],
            context_surface=inputs.context_surface[row : row + 1],
        )
        np.testing.assert_allclose(forward(model, alone)[0], forward(model, inputs)[row], atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_candidates_do_not_know_each_other(name: str) -> None:
    rng = np.random.default_rng(3)
    config = small(name)
    model = made_model(config)
    inputs, _ = made_inputs(rng, history(rng, 40, 9, config), embeddings(rng, 17), config)
    together = forward(model, inputs)

    def rows(of: torch.Tensor) -> Inputs:
        return replace(
            inputs,
            index=inputs.index[of],
            valid=inputs.valid[of],
            source=inputs.source[of],
            similarity=inputs.similarity[of],
            age_s=inputs.age_s[of],
            candidate=inputs.candidate[of],
            context=inputs.context[of],
            context_surface=inputs.context_surface[of],
        )

    order = torch.randperm(17)
    np.testing.assert_allclose(forward(model, rows(order)), together[order.numpy()], atol=1e-5)
    for row in (0, 16):
        alone = forward(model, rows(torch.tensor([row])))
        np.testing.assert_allclose(alone[0], together[row], atol=1e-5)


def test_each_feature_of_a_token_matters() -> None:
    rng = np.random.default_rng(4)
    model = made_model()
    inputs, _ = made_inputs(rng, history(rng, 40, 9), embeddings(rng, 2))
    before = forward(model, inputs)
    changes = [
        replace(inputs, embedding=inputs.embedding.roll(1, 0)),
        replace(inputs, action_types=inputs.action_types ^ 1),
        replace(inputs, surface=(inputs.surface + 1) % 4),
        replace(inputs, candidate=-inputs.candidate),
        replace(inputs, context=inputs.context + 1),
        replace(inputs, context_surface=inputs.context_surface + 1),
    ]
    for changed in changes:
        assert (np.abs(forward(model, changed) - before) > 1e-6).any()


@pytest.mark.parametrize("name", NAMES)
def test_every_weight_learns(name: str) -> None:
    rng = np.random.default_rng(5)
    config = small(name)
    model = made_model(config)
    inputs, _ = made_inputs(rng, history(rng, 40, 9, config), embeddings(rng, 8), config)
    encoded = model.encode(inputs)
    loss = model.rank(inputs, encoded).square().sum()
    if config.nal_weight and encoded is not None:
        loss = loss + model.next_action(encoded).sum()
    torch.autograd.backward(loss)
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.any(), name


def test_a_gate_starts_closed_and_then_scales_the_read_out() -> None:
    rng = np.random.default_rng(7)
    config = SMALL.model_copy(update={"sequence_gate": True})
    torch.manual_seed(0)
    model = TransAct(config).eval()
    inputs, _ = made_inputs(rng, history(rng, 40, 9), embeddings(rng, 3))
    other = replace(inputs, index=(inputs.index + 1) % len(inputs.embedding))
    np.testing.assert_array_equal(forward(model, inputs), forward(model, other))
    without = TransAct(SMALL).eval()
    without.load_state_dict({name: value for name, value in model.state_dict().items() if name != "sequence_gate"})
    with torch.no_grad():
        model.sequence_gate.fill_(1)
    np.testing.assert_allclose(forward(model, inputs), forward(without, inputs), atol=1e-6)
    assert (forward(model, inputs) != forward(model, other)).any()
