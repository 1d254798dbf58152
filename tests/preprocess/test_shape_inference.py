from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest

from drpai_qat.core.errors import ModelError
from preprocess import preprocess
from tests.preprocess.building import fold, model, ops

BASE = {"s": np.float32(0.02), "z": np.uint8(100)}


def test_shape_arithmetic_becomes_constants() -> None:
    text = """<ir_version: 8, opset_import: ["" : 15]>
net (float[2,4,6] x) => (float[a,b] y)
<int64[1] zero = {0}, int64[1] one = {1}, int64 first = {0}, int64[1] rest = {-1}>
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  shape = Shape (d)
  n = Gather (shape, first)
  n1 = Unsqueeze (n, zero)
  target = Concat <axis=0> (n1, rest)
  r = Reshape (d, target)
  shape2 = Shape <start=1> (r)
  half = Div (shape2, two)
  cut = Slice (r, zero, half, one)
  size = Size (cut)
  f = Cast <to=1> (size)
  y = Mul (cut, f)
}"""
    result = fold(model(text, two=np.array([2]), **BASE))
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Reshape": 1, "Slice": 1, "Mul": 1}
    assert [d.dim_value for d in result.model.graph.output[0].type.tensor_type.shape.dim] == [2, 12]


def test_what_onnx_cannot_infer() -> None:
    """Its function for the operator has no default for the axes."""
    text = """
net (float[1,3,4,4] x) => (float[1,3,4,4] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  n = MeanVarianceNormalization (d)
  y = Relu (n)
}"""
    (found,) = [one for one in fold(model(text, **BASE)).model.graph.value_info if one.name == "n"]
    assert [dim.dim_value for dim in found.type.tensor_type.shape.dim] == [1, 3, 4, 4]


def test_every_tensor_has_a_shape() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  y = Relu (d)
}"""
    graph = fold(model(text, **BASE)).model.graph
    assert {one.name for one in graph.value_info} == {"q", "d"}
    assert all(one.type.tensor_type.shape.dim[0].dim_value == 2 for one in graph.value_info)


def test_shapes_that_contradict_are_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
net (float[2,4] x) => (float[2,3] y)
{ q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  t = MatMul (d, w)
  y = Relu (t) }"""
    source = onnx.parser.parse_model(text)
    source.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in {**BASE, "w": np.zeros((5, 3), np.float32)}.items()
    )
    with pytest.raises(ModelError, match="shapes contradict each other"):
        preprocess(source)


def test_sizes_that_depend_on_the_data_are_refused() -> None:
    text = """
net (float[2,4] x) => (int64[n,m] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  y = NonZero (d)
}"""
    with pytest.raises(ModelError, match=r"node NonZero_y \(NonZero\), tensor y: its size depends on the data"):
        preprocess(model(text, **BASE))


def test_constant_that_cannot_be_evaluated_is_refused() -> None:
    text = """<ir_version: 8, opset_import: ["" : 13]>
net (float[2,4] x) => (float[2,4] y)
{ q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  t = Reshape (w, shape)
  y = Add (d, t) }"""
    source = onnx.parser.parse_model(text)
    source.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name)
        for name, value in {**BASE, "w": np.zeros((5, 3), np.float32), "shape": np.array([4, 4])}.items()
    )
    with pytest.raises(ModelError, match=r"a constant expression: onnxruntime can't run it: .*Reshape"):
        preprocess(source)


def test_random_numbers_are_not_constants() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  noise = RandomNormal <shape=[2,4]> ()
  y = Add (d, noise)
}"""
    assert ops(preprocess(model(text, **BASE)).model)["RandomNormal"] == 1


def test_no_parameter_has_many_readers() -> None:
    """graphsurgeon compares all readers of a constant whenever one goes away."""
    count = 40
    pairs = "".join(
        f"  q{at} = QuantizeLinear (d{at}, s{at % 7}, z)\n  d{at + 1} = DequantizeLinear (q{at}, s{at % 7}, z)\n"
        for at in range(count)
    )
    scales = {f"s{at}": np.float32(0.02 + 0.001 * at) for at in range(7)}
    source = model(f"net (float[2,4] d0) => (float[2,4] d{count})\n{{\n{pairs}}}", z=np.uint8(100), **scales)
    result = fold(source)
    readers = Counter(name for one in result.model.graph.node for name in one.input)
    assert ops(result.model)["QuantizeLinear"] == count
    assert max(readers.values()) <= 4
