"""Small models as text, run before and after preprocess."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import onnx
import onnx.parser
from numpy.typing import NDArray

from preprocess import Preprocessed, preprocess, validate
from tests.reference import reference

HEAD = '<ir_version: 8, opset_import: ["" : 13]>\n'


def model(text: str, /, **constants: object) -> onnx.ModelProto:
    """Parse `text` (opset 13 unless it has a head of its own) and add `constants` as initializers."""
    parsed = onnx.parser.parse_model(text if text.lstrip().startswith("<") else HEAD + text)
    parsed.graph.initializer.extend(
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()
    )
    onnx.checker.check_model(parsed)
    return parsed


def random_feeds(source: onnx.ModelProto, seed: int = 0, spread: float = 1.0) -> dict[str, NDArray[Any]]:
    """Normal float32 values for every input."""
    rng = np.random.default_rng(seed)
    constants = {tensor.name for tensor in source.graph.initializer}
    return {
        one.name: rng.normal(0, spread, [d.dim_value for d in one.type.tensor_type.shape.dim]).astype(np.float32)
        for one in source.graph.input
        if one.name not in constants
    }


def fold(
    source: onnx.ModelProto, qat_type: str | None = None, *, rtol: float = 0.0, spread: float = 1.0
) -> Preprocessed:
    """Preprocess, check the invariants, and compare with the source in onnxruntime.

    Args:
        rtol: largest difference relative to the largest output; 0 wants equal bits.
    """
    before = source.SerializeToString()
    result = preprocess(source, qat_type)
    assert source.SerializeToString() == before, "preprocess changed its input"
    onnx.checker.check_model(result.model, full_check=True)
    validate(result.model)
    feeds = random_feeds(source, spread=spread)
    for expected, got in zip(reference(source, feeds), reference(result.model, feeds), strict=True):
        assert expected.any(), "a test on zeros proves nothing"
        assert got.shape == expected.shape
        assert got.dtype == expected.dtype
        np.testing.assert_allclose(got, expected, rtol=0, atol=rtol * float(np.abs(expected).max()))
    return result


def ops(source: onnx.ModelProto) -> Counter[str]:
    """Number of nodes by operator."""
    return Counter(node.op_type for node in source.graph.node)


def constant(source: onnx.ModelProto, name: str) -> NDArray[Any]:
    """Value of an initializer."""
    return onnx.numpy_helper.to_array(next(one for one in source.graph.initializer if one.name == name))


def node(source: onnx.ModelProto, op: str, at: int = 0) -> onnx.NodeProto:
    """The `at`th node of type `op`."""
    return [one for one in source.graph.node if one.op_type == op][at]


def inputs(source: onnx.ModelProto, one: onnx.NodeProto) -> list[Any]:
    """Constant inputs of a node, as arrays; None where an input is computed."""
    values = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in source.graph.initializer}
    return [values.get(name) for name in one.input]


def weights_of(source: onnx.ModelProto, layer: str, at: int = 0) -> tuple[NDArray[Any], NDArray[Any], NDArray[Any]]:
    """Integers, scale and zero point of the weights of the `at`th node of type `layer`."""
    name = node(source, layer, at).input[1]
    maker = next(one for one in source.graph.node if name in one.output)
    assert maker.op_type == "DequantizeLinear"
    q, scale, zero_point = inputs(source, maker)
    assert q is not None
    assert scale is not None
    assert zero_point is not None
    return q, scale, zero_point


def normal(*shape: int, seed: int = 1, spread: float = 1.0) -> NDArray[np.float32]:
    """Reproducible normal values."""
    return np.random.default_rng(seed).normal(0, spread, shape).astype(np.float32)


def scales_for(weights: NDArray[np.float32], axis: int, levels: int = 127) -> NDArray[np.float32]:
    """max|w| / levels a channel, as observers choose it."""
    others = tuple(at for at in range(weights.ndim) if at != axis)
    return (np.abs(weights).max(others) / np.float32(levels)).astype(np.float32)
