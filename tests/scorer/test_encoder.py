from dataclasses import replace

import numpy as np
import pytest
import torch

from lifeline.scorer.encoder import BehaviorEncoder, Encoder, EncoderBlock
from tests.support.models import made_inputs, made_model, plain_norm
from tests.support.scorer_factories import SMALL, embeddings, history

BST = SMALL.model_copy(update={"encoder": "bst", "nal_weight": 0.0, "layers": 1})


def test_the_behavior_sequence_transformer_looks_both_ways_and_past_padding() -> None:
    rng = np.random.default_rng(0)
    model = made_model(BST)
    inputs, _ = made_inputs(rng, history(rng, 4, 1, BST), embeddings(rng, 3), BST)
    assert not inputs.valid.all()
    assert isinstance(model.encoder, BehaviorEncoder)
    with torch.inference_mode():
        found = model.encoder(inputs).numpy()
        tokens = model.encoder.tokens(inputs).numpy()
        candidate = model.encoder.candidate.numpy()
    weight = {key: value.numpy().astype(np.float64) for key, value in model.state_dict().items()}
    for row in range(3):
        count = int(inputs.valid[row].sum())
        own = np.concatenate([inputs.candidate[row].numpy(), np.zeros(32)]) + candidate[0]
        x = np.concatenate([own[np.newaxis], tokens[row, :count]]).astype(np.float64)
        q, k, v = (x @ weight[f"encoder.blocks.0.{name}.weight"].T for name in ("query", "key", "value"))
        score = np.exp(q @ k.T / 8)
        y = plain_norm(x + score / score.sum(axis=1, keepdims=True) @ v)
        wide = np.maximum(y @ weight["encoder.blocks.0.widen.weight"].T, 0)
        expected = plain_norm(y + wide @ weight["encoder.blocks.0.narrow.weight"].T)
        np.testing.assert_allclose(found[row, : count + 1], expected, atol=1e-5)


@pytest.mark.parametrize("option", ["similarity_buckets", "age_buckets"])
def test_knots_are_interpolated(option: str) -> None:
    rng = np.random.default_rng(1)
    config = SMALL.model_copy(update={option: 5})
    model = made_model(config)
    inputs, _ = made_inputs(rng, history(rng, 40, 9, config), embeddings(rng, 2), config)
    assert isinstance(model.encoder, Encoder)
    embedding = model.encoder.tokens
    knots = embedding.similarity if option == "similarity_buckets" else embedding.age
    assert knots is not None
    with torch.inference_mode():
        with_knots = embedding(inputs)
        place = (inputs.similarity + 1) / 2 if option == "similarity_buckets" else inputs.age_s.log1p() / 21
        at = place.numpy().clip(0, 1) * 4
        low = np.minimum(np.floor(at).astype(int), 3)
        table = knots.numpy()
        share = (at - low)[..., np.newaxis]
        expected = (1 - share) * table[low] + share * table[low + 1]
        knots.zero_()
        np.testing.assert_allclose((with_knots - embedding(inputs)).numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("scale", [1.0, 5.0])
def test_with_matching_initialisation_attention_starts_with_the_tokens_that_match(scale: float) -> None:
    rng = np.random.default_rng(2)
    config = SMALL.model_copy(update={"matching_init": True, "input_scale": scale})
    torch.manual_seed(0)
    encoder = Encoder(config)
    torch.nn.init.zeros_(encoder.tokens.position)
    for weight in encoder.parameters():
        if weight.dim() > 1:
            torch.nn.init.zeros_(weight)
    encoder.init_matching()
    inputs, _ = made_inputs(rng, history(rng, 40, 9, config), embeddings(rng, 2), config)
    (block, _) = encoder.blocks
    assert isinstance(block, EncoderBlock)
    with torch.inference_mode():
        x = encoder.tokens(inputs)
        x = x + torch.nn.functional.pad(inputs.candidate * scale, (32, 0))[:, None]
        score = block.query(x)[:, -1:] @ block.key(x).transpose(1, 2) / 8
    np.testing.assert_allclose(score[:, 0].numpy(), 8 * inputs.similarity.numpy(), atol=1e-4)


def test_a_token_that_is_hidden_by_causality_may_be_anything() -> None:
    rng = np.random.default_rng(3)
    config = SMALL.model_copy(update={"similarity_buckets": 4, "age_buckets": 4})
    model = made_model(config)
    inputs, _ = made_inputs(rng, history(rng, 40, 9, config), embeddings(rng, 2), config)
    assert model.encoder is not None
    with torch.inference_mode():
        before = model.encoder(inputs)
        later = replace(
            inputs,
            similarity=torch.cat([inputs.similarity[:, :5], -inputs.similarity[:, 5:]], dim=1),
            age_s=torch.cat([inputs.age_s[:, :5], inputs.age_s[:, 5:] + 1e6], dim=1),
        )
        after = model.encoder(later)
    assert torch.equal(before[:, :5], after[:, :5])
    assert not torch.equal(before[:, 5:], after[:, 5:])


def test_reduced_precision_is_near_and_float32_comes_back() -> None:
    rng = np.random.default_rng(4)
    model = made_model()
    inputs, _ = made_inputs(rng, history(rng, 40, 9), embeddings(rng, 5))
    with torch.inference_mode():
        exact = model(inputs)
        model.use_bfloat16(enabled=True)
        near = model(inputs)
        model.use_bfloat16(enabled=False)
        again = model(inputs)
    assert torch.equal(exact, again)
    assert not torch.equal(exact, near)
    np.testing.assert_allclose(near.numpy(), exact.numpy(), atol=0.15, rtol=0.05)


def test_reduced_precision_is_causal_too() -> None:
    rng = np.random.default_rng(5)
    model = made_model()
    model.use_bfloat16(enabled=True)
    inputs, _ = made_inputs(rng, history(rng, 40, 9), embeddings(rng, 2))
    assert model.encoder is not None
    index = inputs.index.clone()
    index[:, 6] = (index[:, 6] + 1) % len(inputs.embedding)
    with torch.inference_mode():
        before, after = model.encoder(inputs), model.encoder(replace(inputs, index=index))
    assert torch.equal(before[:, :6], after[:, :6])
    assert not torch.equal(before[:, 6:], after[:, 6:])
