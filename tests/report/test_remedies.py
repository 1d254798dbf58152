import pytest

from drpai_qat.backends.tflite import context as tflite
from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.layer_weights import LEAVES_INT32, NO_OPERAND_RANGE, NO_RANGE, NO_WEIGHT_GRID, OTHER_AXIS
from drpai_qat.graph.remedies import ALL, EDGE, of_maker, of_reason, told
from drpai_qat.lowering.arithmetic import OUTRUN
from drpai_qat.lowering.context import FLOAT_INPUT, FLOAT_OUTPUT
from drpai_qat.report import remedies
from drpai_qat.report.layers import Layer

GRID = QuantParams.of(0.1)


def layer(op="Conv", *, reason="", inputs=(0,), fused=(), grid=None, compute="float32"):
    return Layer("n", op, compute, reason=reason, inputs=inputs, fused=fused, grid=grid)


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        (OUTRUN, "bounded"),
        (OTHER_AXIS, "axis"),
        (FLOAT_OUTPUT, "edge"),
        ("its output has no trained range", "result"),
        (LEAVES_INT32, "overflow"),
        (NO_WEIGHT_GRID, "weights"),
        ("computed in float32 between integer tensors", "normalization"),
        ("NonZero has no integer kernel", "kernel"),
        (f"its output 'y' {tflite.NO_RANGE}", "tflite-range"),
        ("TFLite has no layer normalization in integers", "tflite"),
        ("its limits are computed", "tflite"),
        ("a reason of tomorrow", "other"),
    ],
)
def test_each_reason_has_its_remedy(reason, key):
    assert remedies.remedy(layer(reason=reason), [layer()]).key == key


@pytest.mark.parametrize(
    ("maker", "key"),
    [
        (layer(fused=("Add", "Relu")), "sum"),
        (layer("Add", fused=("Clip",)), "sum"),
        (layer(fused=("Sigmoid", "Mul")), "function"),
        (layer("Gelu"), "function"),
        (layer("Mul"), "product"),
        (layer("Concat"), "concat"),
        (layer("MatMul"), "attention"),
        (layer(fused=("Relu",)), "range"),
    ],
)
def test_a_missing_range_is_that_of_what_made_the_tensor(maker, key):
    reader = layer(reason=NO_RANGE, inputs=(1,))
    view = layer("Split", compute="view")
    assert remedies.remedy(reader, [maker, view]).key == key
    assert remedies.remedy(layer("MaxPool", inputs=(1,)), [maker, view]).key == key  # backends may give no reason
    assert remedies.remedy(layer("Add", reason=NO_OPERAND_RANGE, inputs=(1,)), [maker, view]).key == key
    assert remedies.remedy(reader, [maker, layer("Reshape", compute="view", inputs=(-1,))]).key == "input"


def test_edges_results_and_imported_operators_without_a_reason():
    assert remedies.remedy(layer("Quantize", inputs=(-1,)), []).key == "edge"
    assert remedies.remedy(layer("Quantize", reason=FLOAT_INPUT, inputs=(-1,)), []).key == "edge"
    assert remedies.remedy(layer("Mul", reason=FLOAT_INPUT, inputs=(-1,)), []).key == "input"
    scores = layer("MatMul", reason=NO_OPERAND_RANGE, inputs=(0, 1))
    assert remedies.remedy(scores, [layer(), layer("Softmax")]).key == "attention"
    assert remedies.remedy(layer("GlobalAveragePool"), [layer(grid=GRID)]).key == "result"
    assert remedies.remedy(layer("Foo", compute="tvm"), [layer(grid=GRID)]).key == "kernel"


def test_what_preprocess_skips():
    assert of_reason("block-wise scales have no integer kernel: float constant").key == "weights"
    assert of_reason("weights stay float32: they hold NaN or infinity").key == "weights"
    assert of_reason("reads another grid than was written: rescaled in float32").key == "activation"


def test_every_remedy_says_what_to_change_in_both_frameworks():
    assert len({one.key for one in ALL}) == len(ALL)
    for one in ALL:
        assert one.why
        assert bool(one.what("pytorch")) == bool(one.what("tensorflow")) == (one is not EDGE)


def test_a_model_that_was_not_trained_is_told_nothing_of_training():
    for one in ALL:
        if one.key in ("axis", "activation"):  # forms of trained grids: calibration makes none
            continue
        text = one.because("float") + one.what("float")
        assert "QuantStub" not in text
        assert "FloatFunctional" not in text
        assert "tfmot" not in text
        assert "training put" not in text
        assert "training left" not in text
    assert told(NO_RANGE, "float") == "its input has no range"
    assert told(NO_RANGE, "pytorch") == NO_RANGE


@pytest.mark.parametrize(
    ("op", "framework", "brief"),
    [
        ("", "PyTorch", "a QuantStub at the network's input"),
        ("Add", "PyTorch", "FloatFunctional.add in place of +"),
        ("Sigmoid", "PyTorch", "a QuantStub behind it"),
        ("", "TensorFlow", "tfmot's quantize_model, which puts a QuantizeLayer at the input"),
        ("", "unknown", "a fake-quant at the network's input"),
        ("Add", "unknown", "a fake-quant behind it"),
    ],
)
def test_what_inspect_says_of_a_tensor_without_a_range(op, framework, brief):
    assert of_maker(op).range_from(framework) == brief
