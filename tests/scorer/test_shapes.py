import pytest

from lifeline.scorer.config import ModelConfig
from lifeline.scorer.int8 import calibrate, tensors_of
from lifeline.scorer.model import TransAct
from lifeline.scorer.shapes import calibration_shapes, element_count, weight_shapes
from lifeline.scorer.variants import NAMES, variant
from tests.support.scorer_factories import HEADS, SMALL, encoding

CONFIGS = {name: variant(name, HEADS) for name in NAMES} | {
    "small": SMALL,
    "no mlp": SMALL.model_copy(update={"mlp": (), "cross_layers": 0}),
    "one knot embedding": SMALL.model_copy(update={"similarity_buckets": 3}),
    "many layers": SMALL.model_copy(update={"layers": 3, "ffn": 5, "mlp": (7, 6, 5), "cross_layers": 3}),
}


@pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)
def test_the_shapes_are_those_of_the_model(config: ModelConfig) -> None:
    wanted = {name: tuple(tensor.shape) for name, tensor in TransAct(config).state_dict().items()}
    assert weight_shapes(config) == wanted
    assert element_count(wanted) == sum(tensor.numel() for tensor in TransAct(config).state_dict().values())


def test_the_shapes_are_those_of_a_calibration() -> None:
    made = encoding(SMALL, 30, 5, 3)
    calibration = calibrate(made.model, [made.inputs])
    wanted = {name: tuple(tensor.shape) for name, tensor in tensors_of(calibration).items()}
    assert calibration_shapes(SMALL) == wanted
