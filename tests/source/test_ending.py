"""--outputs: the network ends where the user says, and computes there what the file does."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.source.ending import end_at
from drpai_qat.source.model_options import ModelOptions
from preprocess import preprocess
from tests.preprocess.building import model, normal
from tests.reference import reference

TEXT = """net (float[2,6] x, float[2,6] other) => (float[2,4] y, int64[2,n] where)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  m = MatMul (d, w)
  y = Relu (m)
  a = Add (y, b)
  t = Sigmoid (other)
  k = MatMul (t, w)
  j = Add (a, k)
  where = NonZero (j)
}"""


def network() -> onnx.ModelProto:
    return model(TEXT, s=np.float32(0.02), z=np.uint8(100), w=normal(6, 4), b=normal(4))


def test_the_part_that_is_named() -> None:
    whole = network()
    before = whole.SerializeToString()
    part = end_at("m.onnx", whole, ("a", "m"))
    assert whole.SerializeToString() == before
    onnx.checker.check_model(part, full_check=True)
    assert [one.name for one in part.graph.output] == ["a", "m"]
    assert [one.name for one in part.graph.input] == ["x"]
    assert len(part.graph.node) == 5
    x = normal(2, 6)
    grid = (np.clip(np.rint(x / np.float32(0.02)) + 100, 0, 255) - 100).astype(np.float32) * np.float32(0.02)
    a, m = reference(part, {"x": x})
    np.testing.assert_allclose(m, grid @ normal(6, 4), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(a, np.maximum(m, 0) + normal(4), rtol=1e-5)
    preprocess(part)


def test_nothing_named_leaves_the_model() -> None:
    whole = network()
    assert end_at("m.onnx", whole, ()) is whole


def test_a_name_that_nothing_makes() -> None:
    with pytest.raises(OptionError, match=r"--outputs wher: no node of m.onnx computes it: did you mean .*where"):
        end_at("m.onnx", network(), ("wher",))


def test_the_error_tells_where_to_end() -> None:
    with pytest.raises(ModelError, match=r"NonZero.*depends on the data.*--outputs j,y$"):
        preprocess(network())


def test_names_are_separated_by_commas() -> None:
    assert ModelOptions(model="m.onnx", outputs=("a, b", "c", "a")).output_names == ("a", "b", "c")
