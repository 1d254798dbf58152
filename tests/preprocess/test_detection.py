from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from drpai_qat.core.errors import ModelError
from preprocess import preprocess
from preprocess.detection import detect_framework
from tests.preprocess.building import fold, model, normal, scales_for, weights_of

ACTIVATION = "  qx = QuantizeLinear (x, sx, zx)\n  dx = DequantizeLinear (qx, sx, zx)\n"
QUANTIZED = ACTIVATION + "  q = QuantizeLinear <axis=1> (w0, s, z)\n  w = DequantizeLinear <axis=1> (q, s, z)\n"
HEAD = "net (float[2,6] x) => (float[2,4] y) <float sx = {0.03}, uint8 zx = {120}>\n{\n"
W = normal(6, 4)
THROUGH = {"w0": W, "s": scales_for(W, 1), "z": np.zeros(4, np.int8)}


def through() -> onnx.ModelProto:
    return model(HEAD + QUANTIZED + "  y = MatMul (dx, w)\n}", **THROUGH)


def on_grid() -> onnx.ModelProto:
    scale = scales_for(W, 1)
    return model(HEAD + ACTIVATION + "  y = MatMul (dx, w)\n}", w=(np.rint(W / scale) * scale).astype(np.float32))


@pytest.mark.parametrize(
    ("producer", "found"), [("pytorch", "pytorch"), ("tf2onnx", "tensorflow"), ("keras2onnx", "tensorflow")]
)
def test_the_exporter_signs(producer: str, found: str) -> None:
    framework = detect_framework(producer, gs.import_onnx(through()))
    assert (framework.qat_type, framework.certain) == (found, True)


def test_unsigned_files_are_told_by_their_weights() -> None:
    assert detect_framework("", gs.import_onnx(through())).qat_type == "pytorch"
    framework = detect_framework("", gs.import_onnx(on_grid()))
    assert (framework.qat_type, framework.certain) == ("tensorflow", False)


def test_wrong_type_still_works_and_is_noted() -> None:
    source = through()
    source.producer_name = "pytorch"
    result = preprocess(source, "tensorflow")
    assert result.qat_type == "pytorch"
    assert any("looks like a pytorch export" in note.reason for note in result.log)


def test_in_doubt_the_user_is_right() -> None:
    assert preprocess(on_grid(), "pytorch").qat_type == "pytorch"
    assert preprocess(on_grid()).qat_type == "tensorflow"


def test_unknown_type_is_refused() -> None:
    with pytest.raises(ModelError, match="unknown QAT type caffe; choose one of pytorch, tensorflow"):
        preprocess(through(), "caffe")


def test_a_float_model_has_no_fake_quant() -> None:
    with pytest.raises(ModelError, match="no fake-quant in the file"):
        preprocess(model("net (float[2,6] x) => (float[2,4] y)\n{\n  y = MatMul (x, w)\n}", w=W))


@pytest.mark.parametrize("written", [True, False])
def test_weights_alone(written: bool) -> None:
    """Weight-only quantization, behind DequantizeLinear or as float32 on a grid: read, and said."""
    scale = scales_for(normal(16, 4), 1)
    q = np.rint(normal(16, 4) / scale).astype(np.int8)
    text = "net (float[2,16] x) => (float[2,4] y)\n{\n%s y = MatMul (x, w)\n}"
    if written:
        source = model(text % "w = DequantizeLinear <axis = 1> (q, s, z)\n", q=q, s=scale, z=np.zeros(4, np.int8))
    else:
        source = model(text % "", w=q * scale)
    result = fold(source, "pytorch", rtol=1e-6)
    np.testing.assert_array_equal(weights_of(result.model, "MatMul")[0], q)
    assert any("in its weights alone" in note.reason for note in result.log)


def test_weights_written_by_hand_are_no_quantization() -> None:
    """The last layer of YOLOv8's boxes, the mean over 0..15, beside layers of float weights."""
    text = (
        "net (float[2,16] x) => (float[2,1] y)\n{\n  a = MatMul (x, w1)\n  b = MatMul (a, w2)\n  y = MatMul (b, w3)\n}"
    )
    weights = {"w1": normal(16, 16), "w2": normal(16, 16), "w3": np.arange(16, dtype=np.float32).reshape(16, 1)}
    assert preprocess(model(text, **weights), may_be_float=True).is_float
    scale = np.float32(np.abs(weights["w1"]).max() / 127)
    weights["w1"] = np.rint(weights["w1"] / scale) * scale  # one layer of 8 bits is quantization
    assert not preprocess(model(text, **weights), may_be_float=True).is_float
