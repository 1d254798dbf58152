import pytest

from drpai_qat.backends.tflite import context as tflite
from drpai_qat.graph.layer_weights import LEAVES_INT32, NO_RANGE, NO_WEIGHT_GRID
from drpai_qat.lowering.arithmetic import OUTRUN
from drpai_qat.report import remedies
from drpai_qat.report.layers import Layer


@pytest.mark.parametrize(
    ("reason", "makers", "key"),
    [
        (NO_RANGE, ("",), "input"),
        (NO_RANGE, ("Relu", "Add"), "sum"),
        (NO_RANGE, ("Concat",), "concat"),
        (NO_RANGE, ("Conv",), "range"),
        (OUTRUN, ("Add",), "bounded"),
        ("an operand has no trained range", (), "attention"),
        (LEAVES_INT32, (), "overflow"),
        (NO_WEIGHT_GRID, (), "weights"),
        ("computed in float32 between integer tensors", (), "normalization"),
        ("NonZero has no integer kernel", (), "kernel"),
        (f"its output 'y' {tflite.NO_RANGE}", (), "tflite-range"),
        ("TFLite has no layer normalization in integers", (), "tflite"),
        ("its limits are computed", (), "tflite"),
        ("", (), "result"),
        ("a reason of tomorrow", (), "other"),
    ],
)
def test_each_reason_has_its_remedy(reason, makers, key):
    assert remedies.remedy(Layer("n", "Conv", "float32", reason=reason), makers).key == key


def test_what_preprocess_skips():
    assert remedies.of_reason("block-wise scales have no integer kernel: float constant").key == "weights"
    assert remedies.of_reason("weights stay float32: they hold NaN or infinity").key == "weights"
    assert remedies.of_reason("reads another grid than was written: rescaled in float32").key == "activation"


def test_every_remedy_says_what_to_change_in_both_frameworks():
    assert len({one.key for one in remedies.ALL}) == len(remedies.ALL)
    for one in remedies.ALL:
        assert one.why
        assert one.what("pytorch")
        assert one.what("tensorflow")
