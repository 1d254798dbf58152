"""Operators in float64: own ones where onnx's reference is slow, computes in float32 or has none; else the reference.

`TAKEN` lists the operators that are taken from `onnx.reference`: each was seen to compute float64 in float64
(tests/runtimes). Anything else is not evaluated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx.reference import ReferenceEvaluator

from drpai_qat.runtimes.exact.quantizers import dequantize
from drpai_qat.runtimes.exact.values import (
    FLOAT_TYPES,
    Array,
    Attributes,
    NotEvaluatedError,
    Operator,
    exact_array,
)
from drpai_qat.runtimes.exact.windows import average_pool, conv, conv_transpose, max_pool

TAKEN = frozenset({
    # computing
    "Attention", "Ceil", "Cos", "CumSum", "Einsum", "Elu", "Exp", "Floor", "GRU", "InstanceNormalization", "LSTM",
    "LayerNormalization", "LeakyRelu", "Log", "LogSoftmax", "LpNormalization", "Mean", "Mish", "Mod", "PRelu",
    "Pow", "RMSNormalization", "RNN", "Reciprocal", "ReduceL1", "ReduceL2", "ReduceLogSumExp", "ReduceMax",
    "ReduceMean", "ReduceMin", "ReduceProd", "ReduceSum", "ReduceSumSquare", "Resize", "Round", "Selu", "Sign", "Sin",
    "Softmax", "Softplus", "Softsign", "Sqrt", "Sum", "Tan", "ThresholdedRelu", "Upsample",
    # moving and selecting
    "ArgMax", "ArgMin", "Compress", "Concat", "Constant", "DepthToSpace", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "OneHot", "Pad", "Range", "Reshape", "ReverseSequence", "ScatterElements",
    "ScatterND", "Shape", "Size", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "TopK", "Transpose", "Trilu",
    "Unsqueeze", "Where",
    # comparing
    "And", "Equal", "Greater", "GreaterOrEqual", "IsInf", "IsNaN", "Less", "LessOrEqual", "Not", "Or", "Xor",
})  # fmt: skip
"""Operators evaluated by onnx.reference."""

_FUNCTIONS = {"LSTM": {b"Sigmoid", b"Tanh"}, "GRU": {b"Sigmoid", b"Tanh"}, "RNN": {b"Tanh"}}
"""Of recurrent operators, those that onnx.reference knows."""

_PRECISIONS = ("softmax_precision", "stash_type")
"""Attributes that name a type to compute in: it is float64 here."""


def operator_of(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Operator:
    """What evaluates a node.

    Raises: NotEvaluatedError: nothing here does.
    """
    if node.domain not in ("", "ai.onnx"):
        raise NotEvaluatedError(f"{node.domain}.{node.op_type}")
    own = OWN.get(node.op_type)
    if own is not None:
        return own
    if node.op_type not in TAKEN:
        raise NotEvaluatedError(node.op_type)
    usual = _FUNCTIONS.get(node.op_type, set())
    for one in node.attribute if usual else ():
        if one.name in ("clip", "input_forget") or (one.name == "activations" and set(one.strings) - usual):
            raise NotEvaluatedError(f"{node.op_type} with {one.name}, which onnx.reference ignores")
    return _taken(node, opsets)


def _taken(node: onnx.NodeProto, opsets: Mapping[str, int]) -> Operator:
    """The node alone, in onnx's reference evaluator."""
    alone = onnx.NodeProto()
    alone.CopyFrom(node)
    del alone.attribute[:]
    alone.attribute.extend(one for one in node.attribute if one.name not in _PRECISIONS)
    inputs = [onnx.helper.make_empty_tensor_value_info(name) for name in dict.fromkeys(node.input) if name]
    outputs = [onnx.helper.make_empty_tensor_value_info(name) for name in node.output if name]
    graph = onnx.helper.make_graph([alone], "node", inputs, outputs)
    versions = [onnx.helper.make_opsetid(domain, version) for domain, version in opsets.items()]
    evaluator = ReferenceEvaluator(onnx.helper.make_model(graph, opset_imports=versions))
    names = list(node.input)

    def run(values: Sequence[Any], attributes: Attributes) -> Sequence[Any]:
        feeds = {name: value for name, value in zip(names, values, strict=False) if name}
        found = iter(evaluator.run(None, feeds))
        return [_checked(node.op_type, next(found)) if name else None for name in node.output]

    return run


def _checked(op_type: str, value: Any) -> Array:
    """Outputs of the reference are float64 if they are floats; constants are widened."""
    if not isinstance(value, np.ndarray | np.generic):
        raise NotEvaluatedError(f"{op_type} that makes no tensor")
    array = np.asarray(value)
    if array.dtype in (np.float32, np.float16) and op_type != "Constant":
        raise NotEvaluatedError(f"{op_type}, which onnx.reference computes in {array.dtype}")
    return exact_array(array)


def _elementwise(function: Callable[..., Array]) -> Operator:
    return lambda inputs, attributes: (np.asarray(function(*(one for one in inputs if one is not None))),)


def _sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind != "f":  # ONNX truncates
        return (np.sign(a) * np.sign(b) * (np.abs(a) // np.abs(b))).astype(a.dtype)
    return a / b


_erf = np.vectorize(math.erf, otypes=[np.float64])


def _gelu(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    x = inputs[0]
    if attributes.get("approximate", "none") == "tanh":
        return (0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),)
    return (0.5 * x * (1 + _erf(x / math.sqrt(2))),)


def _clip(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    x = inputs[0]
    low = inputs[1] if len(inputs) > 1 else attributes.get("min")
    high = inputs[2] if len(inputs) > 2 else attributes.get("max")
    if low is not None:
        x = np.maximum(x, low)
    return (x if high is None else np.minimum(x, high),)


def _hard_sigmoid(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    alpha, beta = attributes.get("alpha", 0.2), attributes.get("beta", 0.5)
    return (np.clip(inputs[0] * np.float64(np.float32(alpha)) + np.float64(np.float32(beta)), 0, 1),)


def _swish(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    return (inputs[0] * _sigmoid(attributes.get("alpha", 1.0) * inputs[0]),)


def _cast(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """Floats of any width are exact, so casts between them change nothing; casts to integers cut the fraction off."""
    to = attributes["to"]
    if to in FLOAT_TYPES:
        return (inputs[0].astype(np.float64),)
    if to == onnx.TensorProto.BOOL:
        return (inputs[0] != 0,)
    return (exact_array(inputs[0].astype(np.int64).astype(onnx.helper.tensor_dtype_to_np_dtype(to))),)


def _constant_of_shape(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    value = attributes.get("value", np.zeros(1))
    return (np.full(tuple(inputs[0]), value.reshape(()), value.dtype),)


def _gemm(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    a = inputs[0].T if attributes.get("transA", 0) else inputs[0]
    b = inputs[1].T if attributes.get("transB", 0) else inputs[1]
    result = attributes.get("alpha", 1.0) * (a @ b)
    if len(inputs) > 2 and inputs[2] is not None:
        result = result + attributes.get("beta", 1.0) * inputs[2]
    return (result,)


def _batch_normalization(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """With the trained statistics (onnx.reference takes those of the batch below opset 14)."""
    if attributes.get("training_mode", 0):
        raise NotEvaluatedError("BatchNormalization in training mode")
    x, *parameters = inputs
    shape = (-1, *(1,) * (x.ndim - 2))
    gamma, beta, mean, variance = (one.reshape(shape) for one in parameters)
    return ((x - mean) * (gamma / np.sqrt(variance + attributes.get("epsilon", 1e-5))) + beta,)


def _group_normalization(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    x, scale, bias = inputs
    groups = attributes["num_groups"]
    parts = x.reshape(x.shape[0], groups, -1)
    mean, variance = parts.mean(axis=2, keepdims=True), parts.var(axis=2, keepdims=True)
    normal = ((parts - mean) / np.sqrt(variance + attributes.get("epsilon", 1e-5))).reshape(x.shape)
    shape = (-1, *(1,) * (x.ndim - 2))
    repeats = x.shape[1] // scale.size  # below opset 21 one scale for each group
    return (normal * np.repeat(scale, repeats).reshape(shape) + np.repeat(bias, repeats).reshape(shape),)


def _global(function: Callable[..., Array]) -> Operator:
    return lambda inputs, attributes: (function(inputs[0], axis=tuple(range(2, inputs[0].ndim)), keepdims=True),)


def _many(function: Callable[[Array, Array], Array]) -> Operator:
    def run(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
        result = inputs[0]
        for other in inputs[1:]:
            result = function(result, other)
        return (result,)

    return run


def _dropped(inputs: Sequence[Any], attributes: Attributes) -> Sequence[Any]:
    """Dropout does nothing once a network is trained."""
    if len(inputs) > 2 and inputs[2] is not None and inputs[2].any():
        raise NotEvaluatedError("Dropout in training mode")
    return (inputs[0], np.ones(inputs[0].shape, bool))


OWN: dict[str, Operator] = {
    "Abs": _elementwise(np.abs),
    "Add": _elementwise(np.add),
    "AveragePool": average_pool,
    "BatchNormalization": _batch_normalization,
    "Cast": _cast,
    "Clip": _clip,
    "ConstantOfShape": _constant_of_shape,
    "Conv": conv,
    "ConvTranspose": conv_transpose,
    "DequantizeLinear": dequantize,
    "Div": _elementwise(_divide),
    "Dropout": _dropped,
    "Erf": _elementwise(_erf),
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _global(np.mean),
    "GlobalMaxPool": _global(np.max),
    "GroupNormalization": _group_normalization,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _elementwise(lambda x: x * np.clip(x / 6 + 0.5, 0, 1)),
    "MatMul": _elementwise(np.matmul),
    "Max": _many(np.maximum),
    "MaxPool": max_pool,
    "Min": _many(np.minimum),
    "Mul": _elementwise(np.multiply),
    "Neg": _elementwise(np.negative),
    "Relu": _elementwise(lambda x: np.maximum(x, 0)),
    "Sigmoid": _elementwise(_sigmoid),
    "Sub": _elementwise(np.subtract),
    "Swish": _swish,
    "Tanh": _elementwise(np.tanh),
}  # fmt: skip
