"""Small steps on a graphsurgeon graph that several passes take.

graphsurgeon compares nodes by content, so `in`, `index` and `remove` are slow and can hit a twin: everything here
compares by identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.core.quantization import QuantParams

Array: TypeAlias = NDArray[Any]

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
"""Operators with trained weights."""


class Names:
    """Unused tensor and node names of one graph, made up from a base name."""

    def __init__(self, graph: gs.Graph) -> None:
        self._used = set(graph.tensors()) | {node.name for node in graph.nodes}
        self._counts: dict[str, int] = {}

    def __call__(self, base: str) -> str:
        """An unused name: `base`, or `base` with a number behind it."""
        name, count = base, self._counts.get(base, 1)
        while not name or name in self._used:
            count += 1
            name = f"{base}_{count}"
        self._used.add(name)
        self._counts[base] = count
        return name


def value_of(tensor: gs.Tensor | None) -> Array | None:
    """Values of a constant tensor, else None."""
    return tensor.values if isinstance(tensor, gs.Constant) else None


def producer(tensor: gs.Tensor) -> gs.Node | None:
    """Node that writes `tensor`, if any."""
    return tensor.inputs[0] if tensor.inputs else None


def produced_by(tensor: gs.Tensor, *ops: str) -> gs.Node | None:
    """Node that writes `tensor` if it is one of `ops`."""
    node = producer(tensor)
    return node if node is not None and node.op in ops else None


def optional_input(node: gs.Node, index: int) -> gs.Tensor | None:
    """Input `index` of `node`; None if omitted."""
    if index >= len(node.inputs):
        return None
    tensor = node.inputs[index]
    return None if tensor.is_empty() else tensor


def is_graph_output(graph: gs.Graph, tensor: gs.Tensor) -> bool:
    """True if the graph gives `tensor` to its user."""
    return any(tensor is output for output in graph.outputs)


def sole_consumer(graph: gs.Graph, tensor: gs.Tensor) -> gs.Node | None:
    """The only reader of `tensor`; None if there are several or it is a graph output."""
    if len(tensor.outputs) != 1 or is_graph_output(graph, tensor):
        return None
    return tensor.outputs[0]


def readers(tensor: gs.Tensor) -> Iterator[gs.Node]:
    """Nodes that read `tensor`, each once; safe to rewire while iterating."""
    seen: set[int] = set()
    for node in list(tensor.outputs):
        if id(node) not in seen:
            seen.add(id(node))
            yield node


def replace_input(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old` read `new`."""
    for consumer in readers(old):
        for index, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[index] = new


def detach(node: gs.Node) -> None:
    """Cut `node` off; the next cleanup drops it."""
    node.inputs.clear()
    node.outputs.clear()


def take_over(node: gs.Node, output: gs.Tensor) -> None:
    """Make `node` the producer of `output`, in place of the present one."""
    for old in list(output.inputs):
        old.outputs.clear()
    node.outputs.clear()
    node.outputs.append(output)


def bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Let readers of the first output of `node` read its first input.

    Returns: False if node joins a graph input, a constant or another output to a graph output: it has to stay.
    """
    source, output = node.inputs[0], node.outputs[0]
    if not is_graph_output(graph, output):
        detach(node)
        replace_input(output, source)
        return True
    maker = producer(source)
    if maker is None or is_graph_output(graph, source):
        return False
    detach(node)
    replace_input(source, output)
    for index, tensor in enumerate(maker.outputs):
        if tensor is source:
            maker.outputs[index] = output
    return True


def channel_axis(layer: gs.Node) -> int:
    """Axis of the output channels in the weights of `layer` (its second input)."""
    if layer.op == "Conv":
        return 0
    if layer.op == "ConvTranspose":
        return 1
    if layer.op == "Gemm":
        return 0 if layer.attrs.get("transB", 0) else 1
    return max(len(layer.inputs[1].shape) - 1, 0)


def channel_vector(value: Array, rank: int, axis: int, channels: int) -> NDArray[np.float64] | None:
    """Constant operand of an elementwise node as one number per channel.

    Args:
        value: operand, broadcast by ONNX rules to a tensor of `rank` dimensions with `channels` along `axis`.
    Returns: float64, shape (channels,); None if it differs along another axis or would enlarge the tensor.
    """
    if value.ndim > rank:
        return None
    shape = (1,) * (rank - value.ndim) + value.shape
    if any(size != 1 for at, size in enumerate(shape) if at != axis) or shape[axis] not in (1, channels):
        return None
    return np.broadcast_to(value.reshape(-1).astype(np.float64), (channels,))


def clip_bounds(node: gs.Node, data: gs.Tensor) -> tuple[float, float] | None:
    """Range that a Clip, Min or Max leaves of `data`, infinite where open; None if a bound isn't a constant number."""
    if node.op == "Clip":
        bounds = [optional_input(node, 1), optional_input(node, 2)]
    else:
        others = [tensor for tensor in node.inputs if tensor is not data]
        if len(others) != 1:
            return None
        bounds = [None, others[0]] if node.op == "Min" else [others[0], None]
    numbers = [-np.inf, np.inf]
    for index, tensor in enumerate(bounds):
        if tensor is not None:
            value = value_of(tensor)
            if value is None or value.size != 1:
                return None
            numbers[index] = float(value.reshape(-1)[0])
    return numbers[0], numbers[1]


def params_of(node: gs.Node) -> QuantParams:
    """Parameters of a completed QuantizeLinear or DequantizeLinear (three constant inputs)."""
    scale, zero_point = node.inputs[1], node.inputs[2]
    where = f"node {node.name}, tensor {scale.name}"
    return QuantParams.read(scale.values, zero_point.values, axis=node.attrs.get("axis", 1), where=where)


def make_dequantize(
    names: Callable[[str], str], base: str, q: Array, params: QuantParams, output: gs.Tensor
) -> gs.Node:
    """DequantizeLinear of constant integers; the caller appends it to the graph.

    Args:
        base: name that those of the new constants start with.
        q: integers; their dtype is that of params.
        output: tensor that it writes.
    """
    inputs = [
        gs.Constant(names(f"{base}_quantized"), np.ascontiguousarray(q)),
        gs.Constant(names(f"{base}_scale"), params.scale),
        gs.Constant(names(f"{base}_zero_point"), np.asarray(params.zero_point, params.dtype)),
    ]
    attrs = {} if params.axis is None else {"axis": params.axis}
    return gs.Node("DequantizeLinear", names(f"{base}_dequantize"), attrs, inputs, [output])
