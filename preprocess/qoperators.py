"""Operators that compute on integers, as onnxruntime's QOperator format and its optimizer write them, as Q/DQ.

    QLinearConv(x, w, b: int32)  =>  DQ(x), DQ(w), DQ(b, s_x * s_w) -> Conv -> Q(s_y, z_y)
    QLinearAdd(a, b)             =>  DQ(a), DQ(b) -> Add -> Q(s_y, z_y)          and so on: f -> DQ.., f, Q
    QGemm without s_y            =>  DQ(a), DQ(b), DQ(c, alpha * s_a * s_b) -> Gemm

By definition such an operator is the float operator between these nodes, so each translation is exact;
onnxruntime's own kernels compute the float part otherwise (and saturate on CPUs without VNNI), which moves single
roundings.
Source: ONNX QLinearConv-10, QLinearMatMul-21; onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from preprocess.passlog import PassLog
from preprocess.surgery import value_of
from preprocess.writing import Writer, taken_apart

_Translation: TypeAlias = Callable[[gs.Node, Writer, int], None]
"""Of a node, to be written with the Writer in the operator set of that version."""

_CONV_ATTRIBUTES = (
    "auto_pad",
    "dilations",
    "group",
    "kernel_shape",
    "output_padding",
    "output_shape",
    "pads",
    "strides",
)
_POOL_ATTRIBUTES = ("auto_pad", "ceil_mode", "count_include_pad", "kernel_shape", "pads", "strides")
_AXES_ARE_INPUT = 18


def translate_qoperators(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every operator on integers by its float form between DequantizeLinear and QuantizeLinear.

    Raises: ModelError: one in onnxruntime's internal layout, or with scales that are computed at run time.
    """
    writer, counts = Writer(graph), dict[str, int]()
    for node in list(graph.nodes):
        translation = QOPERATORS.get(node.op)
        if translation is None:
            continue
        if node.attrs.get("channels_last", 0):
            raise ModelError(
                f"node {node.name} ({node.op}): in onnxruntime's internal layout (channels last); "
                "compile the file as it was before optimization"
            )
        writer.base = node.name
        counts[node.op] = counts.get(node.op, 0) + 1
        translation(node, writer, graph.opset)
    for op, count in counts.items():
        log.note(op, f"{count} integer operators became float ones between Q/DQ nodes")
    return writer.finish()


def _grid(scale: gs.Tensor, point: gs.Tensor, like: gs.Tensor, writer: Writer) -> list[gs.Tensor]:
    """Scale and zero point; an omitted one is 0 in the type of `like`."""
    if point.is_empty():
        return [scale, writer.constant(0, like.dtype or np.uint8)]
    return [scale, point]


def _layer(node: gs.Node, writer: Writer, opset: int) -> None:
    """QLinearConv and onnxruntime's QLinearConvTranspose."""
    op = node.op.removeprefix("QLinear")
    attrs = {name: node.attrs[name] for name in _CONV_ATTRIBUTES if name in node.attrs}
    axis = 0 if op == "Conv" else 1
    name = node.name
    (x, xs, xz, w, ws, wz, ys, yz, *bias), output = taken_apart(node)
    reals = [
        writer.dequantize(x, _grid(xs, xz, x, writer)),
        writer.dequantize(w, _grid(ws, wz, w, writer), axis if _size(ws) != 1 else None),
    ]
    if bias and not bias[0].is_empty():
        reals.append(_bias(bias[0], [xs, ws], 1.0, writer, name))
    writer.quantize(writer.emit(op, reals, **attrs), _grid(ys, yz, x, writer), output)


def _matmul(node: gs.Node, writer: Writer, opset: int) -> None:
    (a, as_, az, b, bs, bz, ys, yz), output = taken_apart(node)
    reals = [
        writer.dequantize(a, _grid(as_, az, a, writer), -2 if _size(as_) != 1 else None),
        writer.dequantize(b, _grid(bs, bz, b, writer), -1 if _size(bs) != 1 else None),
    ]
    writer.quantize(writer.emit("MatMul", reals), _grid(ys, yz, a, writer), output)


def _gemm(node: gs.Node, writer: Writer, opset: int) -> None:
    attrs, name = {key: node.attrs[key] for key in ("alpha", "transA", "transB") if key in node.attrs}, node.name
    (a, as_, az, b, bs, bz, *rest), output = taken_apart(node)
    c, ys, yz = [*rest, *[gs.Variable.empty()] * (3 - len(rest))]
    axis = 0 if attrs.get("transB", 0) else 1
    reals = [
        writer.dequantize(a, _grid(as_, az, a, writer)),
        writer.dequantize(b, _grid(bs, bz, b, writer), axis if _size(bs) != 1 else None),
    ]
    if not c.is_empty():
        reals.append(_bias(c, [as_, bs], float(attrs.get("alpha", 1.0)), writer, name))
    if ys.is_empty():
        writer.emit("Gemm", reals, output, **attrs)
    else:
        writer.quantize(writer.emit("Gemm", reals, **attrs), _grid(ys, yz, a, writer), output)


def _bias(bias: gs.Tensor, scales: list[gs.Tensor], factor: float, writer: Writer, node: str) -> gs.Tensor:
    """Reals of an int32 bias, which lies on the accumulators' grid."""
    x, w = (value_of(scale) for scale in scales)
    if x is None or w is None:
        raise ModelError(f"node {node}: scale is computed at run time; export with constant, trained scales")
    product = factor * x.reshape(-1).astype(np.float64) * w.reshape(-1).astype(np.float64)
    scale = product if product.size > 1 else product.reshape(())
    return writer.dequantize(
        bias, [writer.constant(scale), writer.constant(np.zeros(scale.shape), np.int32)], 0 if scale.ndim else None
    )


def _binary(node: gs.Node, writer: Writer, opset: int) -> None:
    op = node.op.removeprefix("QLinear")
    (a, as_, az, b, bs, bz, ys, yz), output = taken_apart(node)
    reals = [writer.dequantize(a, _grid(as_, az, a, writer)), writer.dequantize(b, _grid(bs, bz, b, writer))]
    writer.quantize(writer.emit(op, reals), _grid(ys, yz, a, writer), output)


def _unary(op: str, *attributes: str) -> _Translation:
    """An operator of one tensor, with those of its attributes that the float form has."""

    def translate(node: gs.Node, writer: Writer, opset: int) -> None:
        attrs = {name: node.attrs[name] for name in attributes if name in node.attrs}
        (x, xs, xz, ys, yz), output = taken_apart(node)
        reals = [writer.dequantize(x, _grid(xs, xz, x, writer))]
        if "axes" in attrs and opset >= _AXES_ARE_INPUT:
            reals.append(writer.constant(attrs.pop("axes"), np.int64))
        writer.quantize(writer.emit(op, reals, **attrs), _grid(ys, yz, x, writer), output)

    return translate


def _softmax(node: gs.Node, writer: Writer, opset: int) -> None:
    if int(node.attrs.get("opset", 13)) < 13 and int(node.attrs.get("axis", 1)) != -1:
        raise ModelError(f"node {node.name}: QLinearSoftmax as before opset 13; quantize the file at opset 13 or later")
    _unary("Softmax", "axis")(node, writer, opset)


def _concat(node: gs.Node, writer: Writer, opset: int) -> None:
    axis = int(node.attrs["axis"])
    (ys, yz, *parts), output = taken_apart(node)
    triples = [parts[at : at + 3] for at in range(0, len(parts), 3)]
    reals = [writer.dequantize(x, _grid(scale, point, x, writer)) for x, scale, point in triples]
    writer.quantize(writer.emit("Concat", reals, axis=axis), [ys, yz], output)


def _where(node: gs.Node, writer: Writer, opset: int) -> None:
    (condition, x, xs, xz, y, ys, yz, zs, zz), output = taken_apart(node)
    reals = [writer.dequantize(x, _grid(xs, xz, x, writer)), writer.dequantize(y, _grid(ys, yz, y, writer))]
    writer.quantize(writer.emit("Where", [condition, *reals]), _grid(zs, zz, x, writer), output)


def _size(scale: gs.Tensor) -> int | None:
    """Number of scales; None if it isn't known."""
    return None if scale.shape is None else int(np.prod(scale.shape))


QOPERATORS: dict[str, _Translation] = {
    "QLinearConv": _layer,
    "QLinearConvTranspose": _layer,
    "QLinearMatMul": _matmul,
    "QGemm": _gemm,
    "QLinearAdd": _binary,
    "QLinearMul": _binary,
    "QLinearSigmoid": _unary("Sigmoid"),
    "QLinearLeakyRelu": _unary("LeakyRelu", "alpha"),
    "QLinearSoftmax": _softmax,
    "QLinearAveragePool": _unary("AveragePool", *_POOL_ATTRIBUTES),
    "QLinearGlobalAveragePool": _unary("GlobalAveragePool"),
    "QLinearReduceMean": _unary("ReduceMean", "axes", "keepdims"),
    "QLinearConcat": _concat,
    "QLinearWhere": _where,
}
"""By operator; those of the domain com.microsoft have names of their own."""
