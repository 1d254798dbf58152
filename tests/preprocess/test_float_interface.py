"""Integer inputs and outputs: the canonical model takes their reals, and computes what the source does."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray

from drpai_qat.data.samples import make_samples
from preprocess import preprocess, reference_model
from tests.preprocess.building import model, normal, ops
from tests.reference import reference

BYTES = np.random.default_rng(0).integers(0, 256, (1, 6, 6, 3)).astype(np.uint8)
LAYER = {
    "w": normal(4, 3, 3, 3, spread=0.1), "sx": np.float32(0.02), "zx": np.uint8(114),
    "mean": np.array([123, 117, 104], np.float32).reshape(1, 3, 1, 1),
    "std": np.array([58, 57, 56], np.float32).reshape(1, 3, 1, 1),
}  # fmt: skip
NORMALIZED = """
  s = Sub (f, mean)
  n = Div (s, std)
  q = QuantizeLinear (n, sx, zx)
  d = DequantizeLinear (q, sx, zx)
  y = Conv (d, w)
}"""


def outputs(source: onnx.ModelProto, qat_type: str, x: NDArray[Any], reals: NDArray[Any]) -> list[NDArray[Any]]:
    """Of the source on `x`, of the canonical model and of the reference's form on `reals`."""
    made = preprocess(source, qat_type).model
    (given,) = made.graph.input
    assert given.type.tensor_type.elem_type == onnx.TensorProto.FLOAT
    (expected,) = reference(source, {"x": x})
    assert expected.any()
    (got,) = reference(made, {"x": reals})
    (again,) = reference(reference_model(source), {"x": reals})
    return [expected, got, again]


@pytest.mark.parametrize("qat_type", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("order", ["f0 = Cast <to = 1> (x)\n f = Transpose <perm = [0,3,1,2]> (f0)",
                                   "t = Transpose <perm = [0,3,1,2]> (x)\n f = Cast <to = 1> (t)"])  # fmt: skip
def test_bytes_with_normalization_inside(qat_type: str, order: str) -> None:
    source = model(f"net (uint8[1,6,6,3] x) => (float[1,4,4,4] y)\n{{\n {order}{NORMALIZED}", **LAYER)
    expected, got, again = outputs(source, qat_type, BYTES, BYTES.astype(np.float32))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(again, expected)
    assert not ops(preprocess(source, qat_type).model)["Cast"]


@pytest.mark.parametrize("qat_type", ["pytorch", "tensorflow"])
@pytest.mark.parametrize("point", ["", ", zx"])
def test_bytes_on_a_grid(qat_type: str, point: str) -> None:
    source = model(
        f"net (uint8[1,6,6,3] x) => (float[1,4,4,4] y)\n{{\n t = Transpose <perm = [0,3,1,2]> (x)\n"
        f"d = DequantizeLinear (t, sx{point})\n y = Conv (d, w)\n}}",
        **LAYER,
    )
    zero_point = np.float32(114 if point else 0)
    expected, got, again = outputs(source, qat_type, BYTES, (BYTES - zero_point) * np.float32(0.02))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("qat_type", ["pytorch", "tensorflow"])
def test_bytes_that_are_used_as_integers(qat_type: str) -> None:
    """No float32 is made of them at once: they stay integers behind the grid of scale 1."""
    source = model(
        "net (uint8[1,6,6,3] x) => (float[1,6,6,3] y)\n{\n i = Cast <to = 6> (x)\n k = Add (i, one)\n"
        "f = Cast <to = 1> (k)\n q = QuantizeLinear (f, sx, zx)\n y = DequantizeLinear (q, sx, zx)\n}",
        one=np.int32(-100), **LAYER,
    )  # fmt: skip
    expected, got, again = outputs(source, qat_type, BYTES, BYTES.astype(np.float32))
    np.testing.assert_array_equal(got, expected)
    np.testing.assert_array_equal(again, expected)


@pytest.mark.parametrize("qat_type", ["pytorch", "tensorflow"])
def test_integer_inputs_and_outputs_become_reals_of_the_same_name(qat_type: str) -> None:
    source = model(
        """
net (int8[1,4,6,6] x) => (int8[1,6,6,3] y)
{
  r = DequantizeLinear (x, sx, zx)
  c = Conv (r, w)
  q = QuantizeLinear (c, sy, zy)
  y = Transpose <perm = [0,2,3,1]> (q)
}""",
        w=normal(3, 4, 1, 1), sx=np.float32(0.05), zx=np.int8(-3), sy=np.float32(0.1), zy=np.int8(5),
    )  # fmt: skip
    result = preprocess(source, qat_type)
    integers = np.random.default_rng(0).integers(-128, 128, (1, 4, 6, 6)).astype(np.int8)
    (expected,) = reference(source, {"x": integers})
    (got,) = reference(result.model, {"x": (integers.astype(np.float32) + 3) * np.float32(0.05)})
    np.testing.assert_array_equal(got, (expected.astype(np.float32) - 5) * np.float32(0.1))
    assert [note.node for note in result.log if note.pass_name == "use_float_interface"] == ["x", "y"]


@pytest.mark.parametrize("kind", ["int64", "int32"])
def test_indices_stay_integers(kind: str) -> None:
    source = model(
        f"net ({kind}[2,5] x) => (float[2,5,6] y)\n{{\n t = DequantizeLinear (w, s, z)\n g = Gather (t, x)\n"
        "q = QuantizeLinear (g, p, k)\n y = DequantizeLinear (q, p, k)\n}",
        w=np.arange(60, dtype=np.int8).reshape(10, 6), s=np.float32(0.02), z=np.int8(3), p=np.float32(0.03),
        k=np.uint8(9),
    )  # fmt: skip
    made = preprocess(source, "pytorch").model
    assert made.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.INT32
    x = np.random.default_rng(0).integers(0, 10, (2, 5)).astype(kind)
    (expected,) = reference(source, {"x": x})
    for runnable in (made, reference_model(source)):
        np.testing.assert_array_equal(reference(runnable, {"x": x.astype(np.int32)})[0], expected)
    (samples,) = make_samples(made, 1, 0)
    assert samples["x"].dtype == np.int32
    assert 2 < samples["x"].max() < 10
