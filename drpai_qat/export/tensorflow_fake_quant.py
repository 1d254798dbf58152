"""Fake-quant of TensorFlow graphs as QuantizeLinear, Clip and DequantizeLinear, and its weights as integers.

    scale = (max - min) / (qmax - qmin)        qmin = 1 with narrow_range, else 0; qmax = 2**bits - 1
    zero_point = round(qmin - min / scale), kept within qmin..qmax
    y = (clamp(round(x / scale) + zero_point, qmin, qmax) - zero_point) * scale

tf2onnx knows 8 bits, full range and one grid a tensor only, and TensorFlow folds fake-quantized weights into float
constants before tf2onnx sees them. Here weights leave the graph before that and come back as int8 with scale and axis.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import tensorflow as tf
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from drpai_qat.core.errors import ModelError

OPERATORS = ("FakeQuantWithMinMaxArgs", "FakeQuantWithMinMaxVars", "FakeQuantWithMinMaxVarsPerChannel")
OF_ONNXRUNTIME = "com.microsoft"
_PER_CHANNEL = OPERATORS[2]
_MOST_BITS = 8
# Where a range is 0..0, TensorFlow makes zeros of everything; ONNX has no scale of zero.
_NEARLY_ZERO = 2.0**-24


@dataclass(frozen=True)
class Grid:
    """A trained range.

    Attributes:
        scale: float32, shape () or (channels,).
        zero_point: int64, the scale's shape, within qmin..qmax.
        qmin: smallest integer, 0 or 1.
        qmax: largest integer, 2**bits - 1.
    """

    scale: NDArray[np.float32]
    zero_point: NDArray[np.int64]
    qmin: int
    qmax: int


@dataclass(frozen=True)
class Weight:
    """A fake-quantized constant.

    Attributes:
        q: int8, any shape.
        scale: float32, shape () or (last axis of q,).
        zero_point: int8, the scale's shape.
    """

    q: NDArray[np.int8]
    scale: NDArray[np.float32]
    zero_point: NDArray[np.int8]


def grid_of(low: Any, high: Any, bits: int, narrow_range: bool, name: str) -> Grid:
    """The grid that TensorFlow computes from a range, in its float32 arithmetic.

    Args:
        low: float32, shape () or (channels,).
        high: float32, the same shape.
        bits: 2..16.
        narrow_range: the smallest integer is left out.
        name: of the node, for the message.
    Raises: ModelError: the range is infinite or NaN, or upside down.
    """
    low, high = np.float32(low), np.float32(high)
    if low.size == 1:  # per-channel, of a depthwise kernel's last axis
        low, high = low.reshape(()), high.reshape(())
    qmin, qmax = int(narrow_range), 2**bits - 1
    if not (np.isfinite(low).all() and np.isfinite(high).all() and (low <= high).all()):
        raise ModelError(f"{name}: the range {low.min():g}..{high.max():g} can't be quantized to")
    scale = (high - low) / np.float32(qmax - qmin)
    empty = scale == 0
    filler = _NEARLY_ZERO if empty.all() else np.median(scale[~empty])  # channels of zeros fit any scale
    scale = np.where(empty, filler, scale).astype(np.float32)
    zero_point = np.clip(np.floor(qmin - low / scale + np.float32(0.5)), qmin, qmax)
    return Grid(scale, zero_point.astype(np.int64), qmin, qmax)


@dataclass
class FakeQuants:
    """What became of a graph's fake-quant nodes; filled while it is converted.

    Attributes:
        weights: taken out of the graph, by the name of the placeholder in their place.
        errors: why a node has no ONNX form; tf2onnx would swallow an exception.
        notes: what the user should know.
    """

    weights: dict[str, Weight] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def take_weights(self, graph_def: Any) -> None:
        """Replace the fake-quantized constants of a frozen GraphDef, in place, by placeholders.

        Raises: ModelError: a range that can't be quantized to.
        """
        nodes = {node.name: node for node in graph_def.node}
        fed = _depends_on_input(nodes)
        found = [node for node in graph_def.node if node.op in OPERATORS and not fed[node.name]]
        constant = [node for node in found if node.attr["num_bits"].i <= _MOST_BITS]
        if len(constant) < len(found):
            wide = len(found) - len(constant)
            self.notes.append(f"{wide} weights of more than {_MOST_BITS} bits are exported as float32")
        if not constant:
            return
        names = [name for node in constant for name in (f"{node.name}:0", *_range_inputs(node))]
        with tf.Graph().as_default() as graph, tf.compat.v1.Session(graph=graph) as session:
            tf.import_graph_def(_without_control_edges(graph_def), name="")
            values = dict(zip(names, session.run(names), strict=True))
        for node in constant:
            low, high = _range(node, values)
            grid = grid_of(low, high, node.attr["num_bits"].i, node.attr["narrow_range"].b, node.name)
            self.weights[node.name] = _integers(values[f"{node.name}:0"], grid)
            _become_placeholder(node, values[f"{node.name}:0"].shape)

    def handlers(self) -> dict[str, tuple[Any, list[Any]]]:
        """For tf2onnx's `custom_op_handlers`."""
        return {operator: (self._convert, []) for operator in OPERATORS}

    def _convert(self, context: Any, node: Any, name: str, args: list[Any]) -> None:
        """Write one activation's fake-quant as QuantizeLinear, Clip and DequantizeLinear."""
        del args
        bits = node.get_attr_value("num_bits", 8)
        if node.type == OPERATORS[0]:
            low, high = node.get_attr_value("min", -6.0), node.get_attr_value("max", 6.0)
        elif all(one.is_const() for one in node.inputs[1:]):
            low, high = (one.get_tensor_value(as_list=False) for one in node.inputs[1:])
        else:
            self.errors.append(f"{name} computes its range from the input; only trained ranges can be exported")
            return
        if np.all(np.equal(low, 0)) and np.all(np.equal(high, 0)):
            if node.inputs[0].type == "Placeholder":
                self.errors.append(f"{name} never saw data: its range is 0..0; train the model before export")
                return
            self.notes.append(f"{name} has the range 0..0: what it quantizes is always zero")
        try:
            grid = grid_of(low, high, bits, bool(node.get_attr_value("narrow_range", 0)), name)
        except ModelError as error:
            self.errors.append(str(error))
            return
        _write(context, node, grid)


def _write(context: Any, node: Any, grid: Grid) -> None:
    shape, dtype = context.get_shape(node.output[0]), context.get_dtype(node.output[0])
    wide = grid.qmax > np.iinfo(np.uint8).max
    kind = np.uint16 if wide else np.uint8
    parameters = [
        context.make_const(f"{node.name}__{name}", value).output[0]
        for name, value in (("scale", grid.scale), ("zero_point", grid.zero_point.astype(kind)))
    ]
    # With one range the axis means nothing, but keeps tf2onnx from moving the pair away; `drop_idle_axes` removes it.
    axis = {"axis": len(shape) - 1 if grid.scale.ndim else 1}
    source, target = node.input[0], node.output[0]
    context.remove_node(node.name)
    if wide:
        _write_wide(context, node.name, grid, source, target, parameters, axis, (shape, dtype))
        return
    q = context.make_node(
        "QuantizeLinear", [source, *parameters], attr=axis, shapes=[shape], dtypes=[TensorProto.UINT8]
    )
    last = q.output[0]
    if (grid.qmin, grid.qmax) != (0, 255):
        limits = [
            context.make_const(f"{node.name}__{name}", np.array(value, np.uint8)).output[0]
            for name, value in (("qmin", grid.qmin), ("qmax", grid.qmax))
        ]
        clip = context.make_node("Clip", [last, *limits], shapes=[shape], dtypes=[TensorProto.UINT8])
        last = clip.output[0]
    context.make_node(
        "DequantizeLinear", [last, *parameters], attr=axis, outputs=[target], shapes=[shape], dtypes=[dtype]
    )


def _write_wide(
    context: Any, name: str, grid: Grid, source: str, target: str, parameters: list[str], axis: dict[str, int], of: Any
) -> None:
    """A grid of 9 to 16 bits, by onnxruntime's own operators: ONNX has them from opset 21 on, tf2onnx writes 18.

    The range is a Clip of the reals in front: onnxruntime has no Clip of 16-bit integers.
    """
    shape, dtype = of
    ends = [np.asarray(grid.scale * (end - grid.zero_point), np.float32) for end in (grid.qmin, grid.qmax)]
    limited = source
    if (grid.qmin, grid.qmax) != (0, np.iinfo(np.uint16).max) and not grid.scale.ndim:
        limits = [
            context.make_const(f"{name}__{end}", value).output[0]
            for end, value in zip(("low", "high"), ends, strict=True)
        ]
        limited = context.make_node("Clip", [source, *limits], shapes=[shape], dtypes=[dtype]).output[0]
    q = context.make_node(
        "QuantizeLinear", [limited, *parameters], attr=axis, shapes=[shape], dtypes=[TensorProto.UINT16],
        domain=OF_ONNXRUNTIME,
    )  # fmt: skip
    context.make_node(
        "DequantizeLinear", [q.output[0], *parameters], attr=axis, outputs=[target], shapes=[shape], dtypes=[dtype],
        domain=OF_ONNXRUNTIME,
    )  # fmt: skip


def _depends_on_input(nodes: dict[str, Any]) -> dict[str, bool]:
    """Whether data of a placeholder reach a node, for each node of a graph without loops."""
    fed: dict[str, bool] = {}
    for start in nodes:
        stack = [start]
        while stack:
            name = stack[-1]
            # Control edges ("^init") order nodes, as in every SavedModel; nothing flows along them.
            sources = [_node_of(tensor) for tensor in nodes[name].input if not tensor.startswith("^")]
            waiting = [source for source in sources if source not in fed]
            if name in fed or not waiting:
                fed.setdefault(name, nodes[name].op == "Placeholder" or any(fed[source] for source in sources))
                stack.pop()
            else:
                stack.extend(waiting)
    return fed


def _without_control_edges(graph_def: Any) -> Any:
    """A copy whose constants can be evaluated without the inputs that some of them wait for."""
    free = tf.compat.v1.GraphDef()
    free.CopyFrom(graph_def)
    for node in free.node:
        kept = [tensor for tensor in node.input if not tensor.startswith("^")]
        del node.input[:]
        node.input.extend(kept)
    return free


def _node_of(tensor: str) -> str:
    return tensor.split(":")[0]


def _range_inputs(node: Any) -> tuple[str, ...]:
    if node.op == OPERATORS[0]:
        return ()
    return tuple(tensor if ":" in tensor else f"{tensor}:0" for tensor in node.input[1:3])


def _range(node: Any, values: dict[str, Any]) -> tuple[Any, Any]:
    inputs = _range_inputs(node)
    return (values[inputs[0]], values[inputs[1]]) if inputs else (node.attr["min"].f, node.attr["max"].f)


def _integers(values: NDArray[np.float32], grid: Grid) -> Weight:
    """The integers behind fake-quantized values, moved from 0..2**bits - 1 to the middle of int8."""
    middle = (grid.qmax + 1) // 2
    q = np.round(values / grid.scale) + grid.zero_point
    q = np.clip(q, grid.qmin, grid.qmax) - middle
    return Weight(q.astype(np.int8), grid.scale, (grid.zero_point - middle).astype(np.int8))


def _become_placeholder(node: Any, shape: tuple[int, ...]) -> None:
    node.op = "Placeholder"
    del node.input[:]
    node.attr.clear()
    node.attr["dtype"].type = tf.float32.as_datatype_enum
    node.attr["shape"].shape.CopyFrom(tf.TensorShape(shape).as_proto())


def put_weights(model: onnx.ModelProto, weights: dict[str, Weight]) -> None:
    """Put the weights back into a converted model, in place: int8 and DequantizeLinear for each placeholder.

    Args:
        model: whose graph inputs `NAME:0` stand for the weights.
        weights: by name.
    """
    graph = model.graph
    left_inputs = [one for one in graph.input if one.name.removesuffix(":0") not in weights]
    del graph.input[:]
    graph.input.extend(left_inputs)
    dequantize = []
    for name, weight in weights.items():
        parts = {"q": weight.q, "scale": weight.scale, "zero_point": weight.zero_point}
        graph.initializer.extend(numpy_helper.from_array(value, f"{name}/{part}") for part, value in parts.items())
        axis = {"axis": weight.q.ndim - 1} if weight.scale.ndim else {}
        inputs = [f"{name}/{part}" for part in parts]
        dequantize.append(
            helper.make_node("DequantizeLinear", inputs, [f"{name}:0"], name=f"{name}/dequantize", **axis)
        )
    nodes = list(graph.node)
    del graph.node[:]
    graph.node.extend([*dequantize, *nodes])


def drop_idle_axes(model: onnx.ModelProto) -> None:
    """Remove the axis of QuantizeLinear and DequantizeLinear with one scale, where it means nothing, in place."""
    scalars = {one.name for one in model.graph.initializer if not one.dims}
    for node in model.graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") and node.input[1] in scalars:
            del node.attribute[:]
