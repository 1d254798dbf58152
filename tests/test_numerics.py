"""The dense layer that docs/numerics.md works out by hand, integer by integer, wherever it can be computed."""

import importlib.util
import re
from pathlib import Path

import numpy as np
import onnx
import onnx.numpy_helper
import onnxruntime
import pytest

import drpai_qat
from drpai_qat.runtimes.onnxruntime import Reference

PAGE = Path(__file__).parents[1] / "docs/numerics.md"

X_SCALE, W_SCALE, Y_SCALE = (np.float32(value) for value in (1 / 64, 1 / 128, 1 / 16))
X_ZERO, Y_ZERO = 128, 131
X = np.array([228, 108, 135, 188], np.uint8)
W = np.array([[10, 5, 20, 4], [6, -8, -1, 1], [-15, 10, 3, -4], [12, -3, 9, 20]], np.int8)
BIAS = np.array([0, -46, 127, 0], np.int32)

HALF_EVEN = [133, 132, 127, 136]
HALF_UP = [134, 132, 128, 136]
TWICE = [134, 133, 128, 136]


@pytest.fixture(scope="module")
def dense(tmp_path_factory):
    """The layer as a QAT file."""
    text = """<ir_version: 10, opset_import: ["" : 17]> net (float[1,4] x) => (float[1,4] y) {
      xq = QuantizeLinear (x, sx, zx)
      xd = DequantizeLinear (xq, sx, zx)
      wq = QuantizeLinear (w, sw, zw)
      wd = DequantizeLinear (wq, sw, zw)
      g = Gemm <transB = 1> (xd, wd, b)
      yq = QuantizeLinear (g, sy, zy)
      y = DequantizeLinear (yq, sy, zy)
    }"""
    model = onnx.parser.parse_model(text)
    constants = {
        "sx": X_SCALE, "zx": np.uint8(X_ZERO), "sw": W_SCALE, "zw": np.int8(0), "sy": Y_SCALE, "zy": np.uint8(Y_ZERO),
        "w": W * W_SCALE, "b": (BIAS * X_SCALE * W_SCALE).astype(np.float32),
    }  # fmt: skip
    model.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    path = tmp_path_factory.mktemp("dense") / "dense.onnx"
    onnx.save(model, path)
    return path


def reals():
    return ((X.astype(np.int64) - X_ZERO) * X_SCALE).astype(np.float32).reshape(1, 4)


def integers(y):
    return (np.rint(np.asarray(y).reshape(-1) / Y_SCALE) + Y_ZERO).astype(int).tolist()


def test_by_hand():
    accumulators = W.astype(np.int64) @ (X.astype(np.int64) - X_ZERO) + BIAS
    assert accumulators.tolist() == [1280, 767, -1792, 2523]
    steps = accumulators * (float(X_SCALE) * float(W_SCALE) / float(Y_SCALE))
    assert steps.tolist() == [2.5, 767 / 512, -3.5, 2523 / 512]
    assert (np.rint(steps) + Y_ZERO).tolist() == HALF_EVEN
    assert (np.floor(steps + 0.5) + Y_ZERO).tolist() == HALF_UP
    # m = 2^30 and r = 8: the multiplier of fixed-point kernels, 1/512 = 2^30 / 2^31 / 2^8.
    first = (accumulators * 2**30 + 2**30) >> 31
    assert first.tolist() == [640, 384, -896, 1262]
    assert (((first + 128) >> 8) + Y_ZERO).tolist() == TWICE


def test_onnxruntime_and_the_compiled_network(dense, tmp_path):
    assert integers(Reference(dense, "dense").run({"x": reals()})["y"]) == HALF_EVEN
    optimized = onnxruntime.InferenceSession(dense, providers=["CPUExecutionProvider"])
    assert integers(optimized.run(None, {"x": reals()})[0]) == HALF_EVEN
    drpai_qat.compile(dense, output_dir=tmp_path / "out", check="none")
    assert integers(drpai_qat.load(tmp_path / "out").run({"x": reals()})["y"]) == HALF_EVEN


def test_tflite(dense, tmp_path):
    from drpai_qat.runtimes.tflite import LiteNetwork

    drpai_qat.compile(dense, output_dir=tmp_path / "out", target="tflite", check="none")
    (file,) = (tmp_path / "out").glob("*.tflite")
    assert integers(LiteNetwork(file).run({"x": reals()})["y"]) == HALF_EVEN
    assert integers(LiteNetwork(file, plain=True).run({"x": reals()})["y"]) == TWICE


def test_the_page_says_the_same():
    text = PAGE.read_text()
    for name, expected in {"half to even": HALF_EVEN, "half up": HALF_UP, "fixed point, twice": TWICE}.items():
        row = re.search(rf"^\| {name} .*$", text, re.MULTILINE)
        assert row is not None, name
        assert [int(cell) for cell in row[0].split("|")[-5:-1]] == expected


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs the extra pytorch")
def test_pytorchs_fake_quant():
    import torch

    x = torch.fake_quantize_per_tensor_affine(torch.from_numpy(reals()), float(X_SCALE), X_ZERO, 0, 255)
    w = torch.fake_quantize_per_channel_affine(
        torch.from_numpy(W * W_SCALE), torch.full((4,), float(W_SCALE)), torch.zeros(4, dtype=torch.int32), 0, -128, 127
    )
    y = torch.nn.functional.linear(x, w, torch.from_numpy((BIAS * X_SCALE * W_SCALE).astype(np.float32)))
    found = torch.fake_quantize_per_tensor_affine(y, float(Y_SCALE), Y_ZERO, 0, 255)
    assert integers(found.numpy()) == HALF_EVEN


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("tensorflow") is None, reason="needs the extra tensorflow")
def test_tensorflows_fake_quant():
    import tensorflow as tf

    def fake_quant(values, scale, zero):
        ends = (float((low - zero) * scale) for low in (0, 255))
        return tf.quantization.fake_quant_with_min_max_args(values, *ends, num_bits=8)

    y = tf.matmul(fake_quant(reals(), X_SCALE, X_ZERO), (W * W_SCALE).T) + BIAS * X_SCALE * W_SCALE
    assert integers(fake_quant(y, Y_SCALE, Y_ZERO).numpy()) == HALF_UP
