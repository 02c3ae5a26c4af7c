from dataclasses import replace

import numpy as np
import pytest
import torch

from lifeline.scorer import int8
from lifeline.scorer.encoder import EncoderBlock
from lifeline.scorer.errors import PrecisionError
from lifeline.scorer.inputs import Inputs
from lifeline.scorer.int8 import Calibration, Product, calibrate, operations, products, quantize_model
from lifeline.scorer.model import TransAct
from lifeline.scorer.variants import variant
from tests.support.models import made_inputs
from tests.support.scorer_factories import HEADS, SMALL, embeddings, history


def made(explicit: int = 40, seed: int = 0) -> tuple[TransAct, Inputs]:
    rng = np.random.default_rng(seed)
    torch.manual_seed(seed)
    model = TransAct(SMALL).eval()
    inputs, _ = made_inputs(rng, history(rng, explicit, 9), embeddings(rng, 6))
    return model, inputs


def outputs(model: TransAct, inputs: Inputs) -> torch.Tensor:
    with torch.inference_mode():
        (read_out,) = model.sequence(inputs, model.encode(inputs))
    return read_out


def test_the_products_of_two_layers_and_the_read_out_make_up_the_encoder() -> None:
    model, _ = made()
    found = products(model)
    assert [str(product) for product in found[:2]] == ["layer 1 match", "layer 1 score"]
    assert str(found[-1]) == "read_out"
    assert len(found) == 13
    # 192 tokens: what the floors of the processor are reckoned from.
    published = TransAct(variant("v2", HEADS))
    total = sum(operations(published, product) for product in found)
    assert total == 192 * (64 * 64 * 5 + 2 * 2 * 64 * 32 + 4 * 64 * 193 // 2)


def test_each_product_in_int8_changes_a_little_and_all_of_them_more() -> None:
    model, inputs = made()
    calibration = calibrate(model, [inputs])
    wanted = outputs(model, inputs)
    low = outputs(quantize_model(model, frozenset(), calibration), inputs)
    assert 0 < (low - wanted).abs().max() < 0.05
    for product in products(model):
        found = outputs(quantize_model(model, frozenset({product}), calibration), inputs)
        assert not torch.equal(found, low), product
        assert (found - wanted).abs().max() < 0.15, product
    every = outputs(quantize_model(model, frozenset(products(model)), calibration), inputs)
    assert (low - wanted).abs().mean() < (every - wanted).abs().mean() < 0.05


def test_the_model_itself_stays_as_it_is() -> None:
    model, inputs = made()
    before = outputs(model, inputs)
    quantize_model(model, frozenset(products(model)), calibrate(model, [inputs]))
    assert torch.equal(outputs(model, inputs), before)


def test_a_block_is_the_encoders_but_for_the_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    model, inputs = made()
    calibration = calibrate(model, [inputs])
    monkeypatch.setattr(int8, "_int8", lambda values, _: values)
    monkeypatch.setattr(int8, "_bfloat16", lambda values: values)
    wanted = outputs(model, inputs)
    torch.testing.assert_close(
        outputs(quantize_model(model, frozenset(), calibration), inputs), wanted, rtol=0, atol=1e-5
    )


def test_weights_have_a_scale_for_each_output_channel() -> None:
    weight = torch.randn(8, 64)
    weight[3] *= 1000
    found = int8._weight(weight, True)
    off = (found - weight).abs().amax(dim=1) / weight.abs().amax(dim=1)
    assert (off <= 0.5 / 127 + 1e-6).all()
    assert not torch.equal(found, weight)


def test_calibration_does_not_look_at_padding() -> None:
    model, inputs = made(explicit=2)
    assert not inputs.valid.all()
    garbage = torch.where(inputs.valid, inputs.index, torch.randint(0, len(inputs.embedding), inputs.index.shape))
    for actual, expected in zip(
        calibrate(model, [inputs]), calibrate(model, [replace(inputs, index=garbage)]), strict=True
    ):
        for left, right in zip(actual, expected, strict=True):
            torch.testing.assert_close(left, right)


def test_calibration_takes_the_greatest_of_all_requests() -> None:
    model, first = made(seed=1)
    _, second = made(seed=2)
    both, first_only, second_only = (calibrate(model, of) for of in ([first, second], [first], [second]))
    assert isinstance(both, Calibration)
    for name in Calibration._fields:
        for together, left, right in zip(*(getattr(of, name) for of in (both, first_only, second_only)), strict=True):
            torch.testing.assert_close(together, torch.maximum(left, right))
    block = model.encoder.blocks[0]  # type: ignore[union-attr]
    assert isinstance(block, EncoderBlock)
    assert (both.values[0] > 0).all()


def test_without_requests_or_such_an_encoder_nothing_can_be_measured() -> None:
    model, _ = made()
    with pytest.raises(PrecisionError, match="store longer histories"):
        calibrate(model, [])
    with pytest.raises(PrecisionError, match="measure a model with transact"):
        products(TransAct(variant("bst", HEADS)))
    assert Product(-1, "read_out") in products(model)


def test_every_scale_can_be_divided_by() -> None:
    model, inputs = made()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("value.weight", "widen.weight")):
                parameter[:7] = 0
    tensors = int8.tensors_of(calibrate(model, [inputs]))
    least, greatest = int8.SCALES
    assert all(((scales >= least) & (scales <= greatest)).all() for scales in tensors.values())
    assert int8.calibration_of(tensors).wide[0].min() == torch.tensor(least)
    tensors["wide"][1, 3] = 0
    with pytest.raises(ValueError, match="wide holds a scale"):
        int8.calibration_of(tensors)
