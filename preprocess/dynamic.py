"""Layers whose activations are quantized while the network runs, as float ones with integer weights.

onnxruntime's quantize_dynamic and PyTorch's dynamic modules find the range of an activation anew in each run:

    xq, xs, xz = DynamicQuantizeLinear(x)           xq = round(x / xs) + xz,   xs = (max(x, 0) - min(x, 0)) / 255
    y = Cast(MatMulInteger(xq, wq, xz, wz)) * (xs * ws)
      = sum_k (xq - xz) xs * (wq - wz) ws  ~  MatMul(x, DQ(wq, ws, wz))

But for the rounding of x, that is a float layer with weights on a grid. So

    MatMulInteger, ConvInteger -> Cast -> Mul(xs, ws)     =>  MatMul, Conv of x and DQ(wq, ws, wz)
    the same with a bias in front of the Cast (dynamic_bias.py)                      =>  and Add
    MatMulIntegerToFloat, DynamicQuantizeMatMul           =>  MatMul -> [Add bias]
    DynamicQuantizeLSTM(x, wq, rq, ...)                   =>  LSTM(x, DQ(wq), DQ(rq), ...), gates in front of the inputs
    DynamicQuantizeLinear -> DequantizeLinear             =>  x
    QuantizeLinear of a scale that ReduceMin, ReduceMax of x give, in place of DynamicQuantizeLinear: the same
    Div(x, s) -> Round -> Clip -> Mul(s) with such a scale (dynamic_arithmetic.py)                    =>  x

with the integers, scales and zero points of the weights as they are. Calibration then gives x a range that stays.
Source: ONNX DynamicQuantizeLinear-11, MatMulInteger-10, ConvInteger-10; onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn, TypeAlias

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from drpai_qat.core.moving import PLACED
from preprocess.dynamic_arithmetic import find_written, scale_is_of
from preprocess.dynamic_bias import behind_bias, factors
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import (
    Array,
    channel_vector,
    detach,
    is_graph_output,
    optional_input,
    producer,
    replace_input,
    sole_consumer,
    value_of,
)
from preprocess.writing import Writer, taken_apart

QUANTIZER = "DynamicQuantizeLinear"
_NO_DATA = "compile with data to take them from: --calibration FILE or --images DIR"
_CONV_ATTRIBUTES = ("auto_pad", "dilations", "group", "kernel_shape", "pads", "strides")
_LSTM_INPUTS = 8


@dataclass(frozen=True)
class _Quantized:
    """What was quantized while the network runs.

    Attributes:
        real: the tensor as it was before, moved as its integers are.
        scale: computed in the graph.
    """

    real: gs.Tensor
    scale: gs.Tensor


def translate_dynamic(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every layer of dynamically quantized activations by its float form; log.dynamic names them.

    Raises: ModelError: there is no data to take the ranges from (log.has_data), or a form that is not known.
    """
    written = list(find_written(graph))
    if not log.has_data:
        why = f": ranges of activations are computed at run time, so that training left none; {_NO_DATA}"
        _refuse(graph, why)
        for one in written:
            raise ModelError(f"node {one.rounding.name} (Round): quantized dynamically{why}")
        return graph  # a QuantizeLinear of computed scale is refused with all others that lack one
    quantizers = [node for node in graph.nodes if _is_quantizer(node)]
    layers = [node for node in graph.nodes if node.op in _LAYERS]
    writer = Writer(graph)
    for node in layers:
        writer.base = node.name
        _LAYERS[node.op](node, graph, writer)
    for node in [one for one in graph.nodes if one.op == DEQUANTIZE and one.inputs]:
        writer.base = node.name
        _restore(node, graph, writer)
    for one in written:
        writer.base = one.rounding.name
        _pass_by(one.output, one.source, graph, writer)
    roundings = [one.rounding for one in written]
    if quantizers or layers or roundings:
        log.dynamic += [node.name for node in (*quantizers, *layers, *roundings)]
        log.note("model", "quantized dynamically: weights stay as they are, activations get ranges from the data")
        graph = writer.finish().cleanup()
        graph.import_domains = None
    _refuse(graph, " in a form that is not known; export it as QDQ (QuantizeLinear/DequantizeLinear nodes)")
    return graph


def is_dynamic(node: onnx.NodeProto) -> bool:
    """True for the operators that quantize activations while the network runs, or take such ones."""
    return node.op_type in OPERATORS.get("" if node.domain == "ai.onnx" else node.domain, ())


def _refuse(graph: gs.Graph, why: str) -> None:
    """Refuse the first such operator, also in the subgraphs of control flow."""
    for node in graph.nodes:
        if node.op in _LAYERS or node.op == QUANTIZER:
            raise ModelError(f"node {node.name or node.outputs[0].name} ({node.op}): quantized dynamically{why}")
        for value in node.attrs.values():
            if isinstance(value, gs.Graph):
                _refuse(value, why)


def _is_quantizer(node: gs.Node) -> bool:
    return node.op == QUANTIZER or (node.op == QUANTIZE and scale_is_of(node.inputs[1], node.inputs[0]))


def _quantized(tensor: gs.Tensor, writer: Writer) -> _Quantized | None:
    """What `tensor` holds the integers of, if they were quantized in the run; behind what moves them, too."""
    maker = producer(tensor)
    if maker is None:
        return None
    if _is_quantizer(maker) and tensor is maker.outputs[0]:
        scale = maker.outputs[1] if maker.op == QUANTIZER else maker.inputs[1]
        return _Quantized(maker.inputs[0], scale)
    if maker.op not in PLACED or len(maker.outputs) > 1:
        return None
    found = _quantized(maker.inputs[0], writer)
    if found is None:
        return None
    moved = writer.emit(maker.op, [found.real, *maker.inputs[1:]], **maker.attrs)
    return _Quantized(moved, found.scale)


def _restore(node: gs.Node, graph: gs.Graph, writer: Writer) -> None:
    """DequantizeLinear of what was quantized in the run: the tensor itself."""
    found = _quantized(node.inputs[0], writer)
    if found is None or node.inputs[1] is not found.scale:
        return
    _pass_by(node.outputs[0], found.real, graph, writer)


def _pass_by(output: gs.Tensor, real: gs.Tensor, graph: gs.Graph, writer: Writer) -> None:
    """Let the readers of `output` read `real`."""
    for maker in list(output.inputs):
        detach(maker)
    if is_graph_output(graph, output):
        writer.emit("Identity", [real], output)
    else:
        replace_input(output, real)


def _product(node: gs.Node, graph: gs.Graph, writer: Writer) -> None:
    """MatMulInteger and ConvInteger, with the Cast and the Mul nodes behind."""
    op = node.op.removesuffix("Integer")
    attrs = {name: node.attrs[name] for name in _CONV_ATTRIBUTES if name in node.attrs}
    points = [optional_input(node, 2), optional_input(node, 3)]
    dynamic = [_quantized(tensor, writer) for tensor in node.inputs[:2]]
    wanted = [one.scale for one in dynamic if one is not None]
    sums, bias, step = behind_bias(graph, node.outputs[0])
    scale, output = _scaled(node, graph, sums, wanted, None in dynamic)
    if bias is not None and not _is_step(step, wanted, scale):
        _unknown(node)
    reals = []
    for at, (tensor, found) in enumerate(zip(node.inputs[:2], dynamic, strict=True)):
        reals.append(found.real if found is not None else _weights(node, at, tensor, scale, points[at], writer))
    detach(node)
    for maker in list(output.inputs):
        maker.outputs.clear()
    product = writer.emit(op, reals, output if bias is None else None, **attrs)
    if bias is not None:
        writer.emit("Add", [product, writer.constant(bias)], output)


def _is_step(step: list[gs.Tensor], wanted: list[gs.Tensor], scale: Array) -> bool:
    """These factors are the scales that are computed, and constants that come to `scale`."""
    constants = [value for one in step if (value := value_of(one)) is not None]
    rest = [id(one) for one in step if value_of(one) is None]
    product = np.prod([np.float32(1)] if not constants else [one.reshape(-1) for one in constants], axis=0)
    return sorted(rest) == sorted(map(id, wanted)) and bool(np.array_equal(product, scale.reshape(-1)))


def _scaled(
    node: gs.Node, graph: gs.Graph, sums: gs.Tensor, wanted: list[gs.Tensor], has_weights: bool
) -> tuple[Array, gs.Tensor]:
    """What `sums` is multiplied by behind the node, besides the scales that are computed; and the result."""
    cast = sole_consumer(graph, sums)
    if not wanted or cast is None or cast.op != "Cast" or cast.attrs.get("to") != onnx.TensorProto.FLOAT:
        _unknown(node)
    tensor, constants = cast.outputs[0], list[Array]()
    while wanted or (has_weights and not constants):
        times = sole_consumer(graph, tensor)
        if times is None or times.op != "Mul":
            break
        others = [one for one in times.inputs if one is not tensor]
        for factor in (leaf for one in others for leaf in factors(one)):
            value, place = value_of(factor), _place(factor, wanted)
            if place is None and value is None:
                _unknown(node)
            if value is not None:
                constants.append(value)
            elif place is not None:
                wanted = [one for at, one in enumerate(wanted) if at != place]
        tensor = times.outputs[0]
    if wanted or (constants and not has_weights):
        _unknown(node)
    scale = np.ones((), np.float32)
    for value in constants:
        scale = value if scale.ndim == 0 and scale == 1 else scale * value
    return scale, tensor


def _place(tensor: gs.Tensor, among: list[gs.Tensor]) -> int | None:
    return next((at for at, one in enumerate(among) if one is tensor), None)


def _weights(node: gs.Node, at: int, q: gs.Tensor, scale: Array, point: gs.Tensor | None, writer: Writer) -> gs.Tensor:
    """Reals of operand `at`, constant integers.

    Args:
        scale: one number, or one for each output channel in a shape that goes with the layer's output.
    """
    if not isinstance(q, gs.Constant) or (point is not None and not isinstance(point, gs.Constant)):
        _unknown(node)
    conv = node.op == "ConvInteger"
    axis = 0 if conv else q.values.ndim - 1
    points = np.zeros((), q.values.dtype) if point is None else point.values
    if scale.size == 1 and points.size == 1:
        grid = [writer.constant(scale.reshape(())), writer.constant(points.reshape(()), points.dtype)]
        return _shaped(writer.dequantize(q, grid), q)
    channels = q.values.shape[axis]
    rank = q.values.ndim if conv else max(scale.ndim, 2)
    scales = channel_vector(scale, rank, 1 if conv else rank - 1, channels)
    if scales is None or (at == 0) or q.values.ndim < 2 or points.size not in (1, channels):
        _unknown(node)
    points = np.broadcast_to(points.reshape(-1), (channels,))
    return _shaped(writer.dequantize(q, [writer.constant(scales), writer.constant(points, points.dtype)], axis), q)


def _shaped(real: gs.Tensor, q: gs.Constant) -> gs.Tensor:
    """The reals, with their shape: whoever looks for weights needs their axes."""
    real.shape = list(q.values.shape)
    return real


def _fused_product(node: gs.Node, graph: gs.Graph, writer: Writer) -> None:
    """MatMulIntegerToFloat and DynamicQuantizeMatMul of onnxruntime's optimizer."""
    if node.op == "DynamicQuantizeMatMul":
        a, b, scale, point, bias = (optional_input(node, at) for at in range(5))
    else:
        q, b, a_scale, scale, _, point, bias = (optional_input(node, at) for at in range(7))
        found = None if q is None else _quantized(q, writer)
        if found is None or found.scale is not a_scale:
            _unknown(node)
        a = found.real
    value = value_of(scale)
    if a is None or b is None or value is None:
        _unknown(node)
    weights = _weights(node, 1, b, value, point, writer)
    _, output = taken_apart(node)
    product = writer.emit("MatMul", [a, weights], None if bias is not None else output)
    if bias is not None:
        writer.emit("Add", [product, bias], output)


def _lstm(node: gs.Node, graph: gs.Graph, writer: Writer) -> None:
    """DynamicQuantizeLSTM, whose weights have shape (directions, inputs, 4 * hidden).

    Scales have shape (directions,) or (directions, 4 * hidden).
    """
    inputs = [*node.inputs, *[gs.Variable.empty()] * (12 - len(node.inputs))]
    for at, (scale, point) in ((1, inputs[8:10]), (2, inputs[10:12])):
        q, s, z = (value_of(one) for one in (inputs[at], scale, point))
        if q is None or s is None:
            _unknown(node)
        directions, _, gates = q.shape
        z = np.zeros(s.shape, q.dtype) if z is None else z
        if s.size == directions:
            axis = 0
        elif directions == 1 and s.size == gates:
            axis = 1
        else:
            _unknown(node)
        turned = writer.constant(q.transpose(0, 2, 1), q.dtype)
        points = np.broadcast_to(z.reshape(-1), (s.size,))
        grid = [writer.constant(s.reshape(-1)), writer.constant(points, points.dtype)]
        inputs[at] = writer.dequantize(turned, grid, axis)
    outputs = list(node.outputs)
    detach(node)
    graph.nodes.append(gs.Node("LSTM", node.name, dict(node.attrs), inputs[:_LSTM_INPUTS], outputs))


def _unknown(node: gs.Node) -> NoReturn:
    raise ModelError(
        f"node {node.name} ({node.op}): quantized dynamically in a form that is not known: operands should "
        "be weights and an activation quantized in the graph, the result multiplied by both scales; export as QDQ"
    )


_Translation: TypeAlias = Callable[[gs.Node, gs.Graph, Writer], None]
_LAYERS: dict[str, _Translation] = {
    "MatMulInteger": _product,
    "ConvInteger": _product,
    "MatMulIntegerToFloat": _fused_product,
    "DynamicQuantizeMatMul": _fused_product,
    "DynamicQuantizeLSTM": _lstm,
}
OPERATORS: dict[str, frozenset[str]] = {
    "": frozenset((QUANTIZER, "MatMulInteger", "ConvInteger")),
    "com.microsoft": frozenset(("MatMulIntegerToFloat", "DynamicQuantizeMatMul", "DynamicQuantizeLSTM")),
}
"""By domain."""
