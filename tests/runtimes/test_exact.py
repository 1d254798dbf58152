"""The exact evaluator as a whole: values before and after rounding, tensors that are given, what is not evaluated."""

from __future__ import annotations

import tracemalloc

import numpy as np
import onnx
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drpai_qat.core.errors import ModelError
from drpai_qat.runtimes.exact import ExactNetwork, Missing, Quantized
from drpai_qat.runtimes.onnxruntime import Reference
from tests.lowering.running import grid, model, qdq
from tests.small_models import qdq_model


def quantized(network: ExactNetwork, feeds, integers) -> dict[str, Quantized]:
    found = dict(network.quantized(feeds, integers))
    assert not any(isinstance(one, Missing) for one in found.values())
    return {name: one for name, one in found.items() if isinstance(one, Quantized)}


def output(source: onnx.ModelProto, feeds) -> np.ndarray:
    found = ExactNetwork(source).run(feeds)["y"]
    assert isinstance(found, np.ndarray)
    return found


def test_values_before_and_after_rounding():
    source = model("(float[5] x) => (float[5] y)", qdq("x", "y"), **grid("y", 0.5, 3))
    x = np.array([0.0, 0.25, 0.75, -9.0, 1000.0], np.float32)
    found = quantized(ExactNetwork(source), {"x": x}, {"q_y": np.zeros(5, np.uint8)})["q_y"]
    np.testing.assert_array_equal(found.steps, [3.0, 3.5, 4.5, -15.0, 2003.0])
    np.testing.assert_array_equal(found.integers, [3, 3, 5, 0, 255])  # x / scale is rounded half to even, then + 3
    assert found.integers.dtype == np.uint8


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("int8", -128, 127), ("int16", -32768, 32767), ("uint16", 0, 65535)]
)
def test_each_type_has_its_range(dtype, low, high):
    source = model("(float[2] x) => (float[2] y)", qdq("x", "y"), **grid("y", 1.0, 0, dtype))
    found = ExactNetwork(source).run({"x": np.array([-1e9, 1e9], np.float32)})["y"]
    np.testing.assert_array_equal(found, [low, high])


def test_what_is_given_is_what_is_read():
    source = model("(float[2] x) => (float[2] y)", qdq("x", "a") + "b = Mul(a, two)\n" + qdq("b", "y"), two=2.0,
                   **grid("a", 1.0, 0), **grid("y", 1.0, 0))  # fmt: skip
    network = ExactNetwork(source)
    integers = {"q_a": np.array([7, 8], np.uint8), "q_y": np.array([0, 0], np.uint8)}
    found = quantized(network, {"x": np.array([1.4, 2.4], np.float32)}, integers)
    np.testing.assert_allclose(found["q_a"].steps, [1.4, 2.4], rtol=1e-7)  # as computed, though another was given
    np.testing.assert_array_equal(found["q_y"].steps, [14.0, 16.0])


def test_a_value_near_a_boundary_is_told_to_the_last_bit():
    """float32 sums of 4,096 products are off by more than the distance that is asked for here."""
    random = np.random.default_rng(0)
    weights = random.integers(-127, 128, (1, 4096)).astype(np.int8)
    constants = {**grid("a", 0.02, 0), "w": weights, "sw": np.float32(0.003), "zw": np.int8(0), **grid("y", 0.01, 128)}
    body = qdq("x", "a") + "v = DequantizeLinear(w, sw, zw)\n g = Gemm<transB=1>(a, v)\n" + qdq("g", "y")
    source = model("(float[1,4096] x) => (float[1,1] y)", body, **constants)
    integers = random.integers(0, 256, (1, 4096)).astype(np.uint8)
    found = quantized(
        ExactNetwork(source), {"x": np.zeros((1, 4096), np.float32)}, {"q_a": integers, "q_y": np.zeros((1, 1))}
    )
    total = int(integers.astype(np.int64)[0] @ weights.astype(np.int64)[0])
    expected = total * float(np.float32(0.02)) * float(np.float32(0.003)) / float(np.float32(0.01)) + 128
    assert found["q_y"].steps[0, 0] == pytest.approx(expected, rel=1e-13)


def test_operators_of_others_are_missing_to_the_next_given_tensor():
    body = qdq("x", "a") + "p = LpPool<kernel_shape=[3,3]>(a)\n" + qdq("p", "b") + "y = Relu(b)"
    source = model("(float[1,1,4,4] x) => (float[1,1,2,2] y)", body, **grid("a", 1.0, 0), **grid("b", 1.0, 0))
    network = ExactNetwork(source)
    feeds = {"x": np.ones((1, 1, 4, 4), np.float32)}
    whole = network.run(feeds)["y"]
    assert isinstance(whole, Missing)
    assert "LpPool" in whole.reason
    integers = {"q_a": np.ones((1, 1, 4, 4), np.uint8), "q_b": np.full((1, 1, 2, 2), 3, np.uint8)}
    values = dict(network.walk(feeds, integers, integers))
    assert isinstance(values["q_b"], Missing)
    np.testing.assert_array_equal(values["y"], np.full((1, 1, 2, 2), 3.0))


def test_a_domain_of_others_is_missing():
    source = model("(float[4] x) => (float[4] y)", "y = Relu(x)")
    source.graph.node[0].domain = "com.microsoft"
    found = ExactNetwork(source).run({"x": np.zeros(4, np.float32)})["y"]
    assert isinstance(found, Missing)
    assert "com.microsoft.Relu" in found.reason


def test_a_whole_network_is_within_float32_of_onnxruntime():
    source = qdq_model()
    feeds = {"x": np.random.default_rng(3).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)}
    np.testing.assert_allclose(output(source, feeds), Reference(source, "r").run(feeds)["y"], rtol=1e-6)


@pytest.mark.parametrize("to", ["FLOAT16", "BFLOAT16", "DOUBLE"])
def test_casts_between_floats_are_exact(to):
    kind = getattr(onnx.TensorProto, to)
    source = model("(float[3] x) => (float[3] y)", f"h = Cast<to={kind}>(x)\n y = Cast<to=1>(h)")
    x = np.array([1 / 3, 1e-9, 12345.678], np.float32)
    np.testing.assert_array_equal(ExactNetwork(source).run({"x": x})["y"], x.astype(np.float64))


def test_casts_to_integers_cut_the_fraction_off():
    source = model("(float[3] x) => (uint8[3] y)", "y = Cast<to=2>(x)")
    found = ExactNetwork(source).run({"x": np.array([0.9, 1.5, 254.999], np.float32)})["y"]
    np.testing.assert_array_equal(found, np.array([0, 1, 254], np.uint8))


@st.composite
def windows(draw):
    """Attributes of a window over an image, and the image's sides."""
    rank = draw(st.integers(1, 3))
    sides = [draw(st.integers(1, 7)) for _ in range(rank)]
    kernel = [draw(st.integers(1, 3)) for _ in range(rank)]
    attributes = {"kernel_shape": kernel, "strides": [draw(st.integers(1, 3)) for _ in range(rank)]}
    attributes["dilations"] = [draw(st.integers(1, 2)) for _ in range(rank)]
    attributes["pads"] = [draw(st.integers(0, k - 1)) for k in kernel * 2]
    for side, k, d, begin, end in zip(sides, kernel, attributes["dilations"], attributes["pads"][:rank],
                                      attributes["pads"][rank:], strict=True):  # fmt: skip
        assume(side + begin + end >= (k - 1) * d + 1)
    return sides, attributes


def both(op: str, feeds: dict[str, np.ndarray], attributes: dict[str, object]) -> tuple[np.ndarray, np.ndarray]:
    """A node's output in the evaluator and in onnxruntime."""
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape) for name, value in feeds.items()
    ]
    node = onnx.helper.make_node(op, list(feeds), ["y"], **attributes)
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    source = onnx.helper.make_model(
        onnx.helper.make_graph([node], op, inputs, [result]),
        opset_imports=[onnx.helper.make_opsetid("", 19)],
        ir_version=9,
    )
    try:
        expected = Reference(source, op).run(feeds)["y"]
    except ModelError:  # it knows fewer forms than ONNX
        assume(False)
    return output(source, feeds), expected


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


@given(windows(), st.sampled_from([(1, 2, 3), (2, 2, 1), (3, 1, 2), (4, 1, 1)]), st.booleans())
def test_convolutions_are_onnxruntimes(window, channels, biased):
    sides, attributes = window
    groups, inside, outside = channels
    feeds = {
        "x": normal(2, groups * inside, *sides),
        "w": normal(groups * outside, inside, *attributes["kernel_shape"]),
    }
    if biased:
        feeds["b"] = normal(groups * outside)
    found, expected = both("Conv", feeds, {**attributes, "group": groups})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@given(windows(), st.sampled_from([(1, 2, 3), (2, 2, 1)]))
def test_transposed_convolutions_are_onnxruntimes(window, channels):
    sides, attributes = window
    groups, inside, outside = channels
    feeds = {
        "x": normal(1, groups * inside, *sides),
        "w": normal(groups * inside, outside, *attributes["kernel_shape"]),
    }
    found, expected = both("ConvTranspose", feeds, {**attributes, "group": groups})
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@given(windows(), st.sampled_from(["MaxPool", "AveragePool"]), st.booleans(), st.booleans())
def test_pooling_is_onnxruntimes(window, op, ceil, padded):
    sides, attributes = window
    more = {"ceil_mode": int(ceil)} | ({"count_include_pad": int(padded)} if op == "AveragePool" else {})
    found, expected = both(op, {"x": normal(1, 2, *sides)}, {**attributes, **more})
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_a_large_convolution_takes_bounded_memory():
    """The image is copied some rows at a time: as one matrix, it would take 3.5 GB."""
    feeds = {"x": np.ones((1, 64, 224, 224), np.float32), "w": np.ones((8, 64, 3, 3), np.float32)}
    inputs = [
        onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, value.shape) for name, value in feeds.items()
    ]
    node = onnx.helper.make_node("Conv", ["x", "w"], ["y"], pads=[1, 1, 1, 1])
    result = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)
    source = onnx.helper.make_model(onnx.helper.make_graph([node], "c", inputs, [result]))
    tracemalloc.start()
    found = output(source, feeds)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert found[0, 0, 5, 5] == 64 * 9
    assert peak < 200e6
