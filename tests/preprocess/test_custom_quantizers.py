"""Quantizers that toolkits export as one node of their own."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import pytest

from drpai_qat.core.errors import QuantizationError
from preprocess import preprocess, reference_model, validate
from tests.preprocess.building import normal, ops, weights_of
from tests.reference import reference

X = normal(2, 4, 6, 6, seed=5)
W = normal(3, 4, 1, 1, seed=6, spread=0.3)


def network(
    activation: onnx.NodeProto, weights: onnx.NodeProto, domain: str, constants: dict[str, Any], opset: int = 13
) -> onnx.ModelProto:
    """x -> `activation` -> a -> Conv by w -> `weights` -> v."""
    float32 = onnx.TensorProto.FLOAT
    graph = oh.make_graph(
        [activation, weights, oh.make_node("Conv", ["a", "v"], ["y"], name="conv", kernel_shape=[1, 1])],
        "net",
        [oh.make_tensor_value_info("x", float32, X.shape)],
        [oh.make_tensor_value_info("y", float32, (2, 3, 6, 6))],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in {"w": W, **constants}.items()],
    )
    opsets = [oh.make_opsetid("", opset), *([oh.make_opsetid(domain, 1)] if domain else [])]
    return oh.make_model(graph, opset_imports=opsets, ir_version=8)


def check(source: onnx.ModelProto, activations: np.ndarray, weights: np.ndarray) -> onnx.ModelProto:
    """The canonical and the reference model compute what the quantizers are defined to give."""
    expected = np.einsum("nchw,oc->nohw", activations, weights[..., 0, 0])
    result = preprocess(source)
    validate(result.model)
    assert weights_of(result.model, "Conv")[0].dtype == np.int8
    for made in (result.model, reference_model(source)):
        onnx.checker.check_model(made, full_check=True)
        np.testing.assert_allclose(reference(made, {"x": X})[0], expected, atol=1e-5)
    return result.model


def affine(x: np.ndarray, scale: Any, point: Any, qmin: int, qmax: int) -> np.ndarray:
    return (np.clip(np.rint(x / scale) + point, qmin, qmax) - point) * scale


SCALES = np.array([0.005, 0.01, 0.003], np.float32)


@pytest.mark.parametrize("domain", ["", "mmrazor", "Sophgo_custom"])
def test_mqbench_with_inputs(domain: str) -> None:
    constants = {
        "s": np.float32(0.02), "z": np.int32(3), "low": np.int64(-128), "high": np.int64(127),
        "sw": SCALES, "zw": np.zeros(3, np.int64), "axis": np.int64(0), "wlow": np.int64(-8), "whigh": np.int64(7),
    }  # fmt: skip
    source = network(
        oh.make_node("LearnablePerTensorAffine", ["x", "s", "z", "low", "high"], ["a"], name="act", domain=domain),
        oh.make_node("FixedPerChannelAffine", ["w", "sw", "zw", "axis", "wlow", "whigh"], ["v"], domain=domain),
        domain, constants, opset=11,
    )  # fmt: skip
    made = check(source, affine(X, 0.02, 3, -128, 127), affine(W, SCALES.reshape(3, 1, 1, 1), 0, -8, 7))
    assert ops(made) == {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1}


def test_mqbench_with_attributes() -> None:
    constants = {
        "s": np.array([0.02], np.float32),
        "z": np.array([0.0], np.float32),
        "sw": SCALES,
        "zw": np.zeros(3, np.float32),
    }
    source = network(
        oh.make_node("FakeQuantizeTqtAffine", ["x", "s", "z"], ["a"], quant_min=0, quant_max=127),
        oh.make_node("FakeQuantizeLearnablePerchannelAffine", ["w", "sw", "zw"], ["v"], quant_min=-128, quant_max=127),
        "", constants,
    )  # fmt: skip
    check(source, affine(X, 0.02, 0, 0, 127), affine(W, SCALES.reshape(3, 1, 1, 1), 0, -128, 127))


MCT: dict[str, Any] = {"domain": "mct_quantizers"}
THRESHOLDS = np.array([0.5, 1.0, 0.25], np.float32)


def test_mct_symmetric() -> None:
    source = network(
        oh.make_node("ActivationPOTQuantizer", ["x"], ["a"], threshold=2.0, signed=1, num_bits=8, **MCT),
        oh.make_node("WeightsSymmetricQuantizer", ["w", "t"], ["v"], num_bits=4, per_channel=1, channel_axis=0, **MCT),
        "mct_quantizers", {"t": THRESHOLDS},
    )  # fmt: skip
    check(source, affine(X, 2 / 128, 0, -128, 127), affine(W, THRESHOLDS.reshape(3, 1, 1, 1) / 8, 0, -8, 7))


def test_mct_uniform() -> None:
    source = network(
        oh.make_node("ActivationUniformQuantizer", ["x"], ["a"], min_range=-1.03, max_range=2.4, num_bits=8, **MCT),
        oh.make_node("WeightsUniformQuantizer", ["w", "l", "h"], ["v"], num_bits=8, per_channel=0, **MCT),
        "mct_quantizers", {"l": np.array([-0.7], np.float32), "h": np.array([0.9], np.float32)},
    )  # fmt: skip
    step, weight_step = 3.43 / 255, 1.6 / 255
    check(
        source,
        affine(X, step, round(1.03 / step), 0, 255),
        affine(W, weight_step, round(0.7 / weight_step), 0, 255),
    )


def test_mct_table_of_weights() -> None:
    table = np.array([-100, -40, -9, 0, 25, 60, 127], np.float32)
    source = network(
        oh.make_node("ActivationSymmetricQuantizer", ["x"], ["a"], threshold=3.0, signed=0, num_bits=8, **MCT),
        oh.make_node("WeightsLUTSymmetricQuantizer", ["w", "lut", "t"], ["v"], lut_values_bitwidth=8, eps=1e-8,
                     per_channel=1, channel_axis=0, **MCT),
        "mct_quantizers", {"lut": table, "t": THRESHOLDS},
    )  # fmt: skip
    along = THRESHOLDS.reshape(3, 1, 1, 1)
    nearest = table[np.abs(np.clip(W / along * 128, -128, 127)[..., None] - table).argmin(-1)]
    made = check(source, affine(X, 3 / 256, 0, 0, 255), nearest / 128 * along)
    assert set(np.unique(weights_of(made, "Conv")[0])) <= set(table)


def test_parameters_that_are_computed_are_refused() -> None:
    source = network(
        oh.make_node("FixedPerTensorAffine", ["x", "x", "z", "z", "z"], ["a"], name="act"),
        oh.make_node("Identity", ["w"], ["v"]), "", {"z": np.int64(0)},
    )  # fmt: skip
    with pytest.raises(QuantizationError, match=r"node act \(FixedPerTensorAffine\): .* computed at run time"):
        preprocess(source)


def test_attributes_that_are_missing_are_named() -> None:
    source = network(
        oh.make_node("ActivationPOTQuantizer", ["x"], ["a"], name="act", num_bits=8, signed=1, **MCT),
        oh.make_node("Identity", ["w"], ["v"]), "mct_quantizers", {},
    )  # fmt: skip
    with pytest.raises(QuantizationError, match=r"node act \(ActivationPOTQuantizer\): its attribute threshold"):
        preprocess(source)
