"""Files that are likely not what their user takes them for: one warning each."""

from __future__ import annotations

import numpy as np
import onnx

from preprocess import preprocess
from tests.preprocess.building import model, normal

TEXT = """net (float[2,4,6,6] x) => (float[2,4,6,6] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  r = Neg (d)
  p = QuantizeLinear (r, t, z)
  o = DequantizeLinear (p, t, z)
  i = Neg (o)
  h = QuantizeLinear (i, u, z)
  e = DequantizeLinear (h, u, z)
  %s
}"""
GRID = {"s": np.float32(0.02), "t": np.float32(0.03), "u": np.float32(0.04), "z": np.uint8(100)}
HEAD = '<ir_version: 8, opset_import: ["" : 15]>\n'
BATCHNORM = {name: np.abs(normal(4, seed=at)) + 1 for at, name in enumerate(("g", "b", "m", "v"))}
PLAIN = "y = Sigmoid (e)"


def warned(source: onnx.ModelProto, qat_type: str | None = "pytorch") -> list[str]:
    return [note.reason for note in preprocess(source, qat_type).log if note.action == "warning"]


def test_nothing_is_said_of_a_usual_file() -> None:
    assert warned(model(TEXT % PLAIN, **GRID)) == []


def test_training_mode() -> None:
    step = "n, a, c = BatchNormalization <training_mode = 1> (e, g, b, m, v)\n l, k = Dropout (n, half, yes)\n"
    step += "y = Relu (l)"
    source = model(HEAD + TEXT % step, **GRID, **BATCHNORM, half=np.float32(0.5), yes=np.array(True))
    (text,) = warned(source)
    assert "training mode (1 BatchNormalization and 1 Dropout)" in text
    assert "model.eval()" in text


def test_dropout_in_evaluation_form_is_no_training() -> None:
    assert (
        warned(model(HEAD + TEXT % "y, k = Dropout (e, half, no)", **GRID, half=np.float32(0.5), no=np.array(False)))
        == []
    )


def test_never_calibrated() -> None:
    one = np.float32(1)
    (text,) = warned(model(TEXT % PLAIN, **(GRID | {"s": one, "t": one, "u": one})))
    assert "never calibrated" in text
    assert warned(model(TEXT % PLAIN, **(GRID | {"s": one, "t": one}))) == []


def test_another_framework_than_named() -> None:
    source = model(TEXT % PLAIN, **GRID)
    source.producer_name = "tf2onnx"
    (text,) = warned(source)
    assert "not pytorch" in text
    assert warned(source, None) == []


def test_quantized_after_training() -> None:
    source = model(TEXT % PLAIN, **GRID)
    source.producer_name = "onnx.quantize"
    assert "calibrated, not trained" in warned(source)[0]
