"""A float network and its quantized form, walked layer by layer on the same frames.

At each layer both inputs are known: what the float network gives it, and what the quantized one does, whose layers
before are in their final form. So a layer can be corrected for what quantization did to it and to all in front of it.
Of the frames, only the tensors that later layers still read are kept.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.placement import LAYERS, is_weight
from drpai_qat.core.progress import Stages, counted
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import params_of, producer

Arrays = list[NDArray[np.float32]]


@dataclass(frozen=True)
class Step:
    """One layer of the walk.

    Attributes:
        layer: of the quantized graph; its weights are behind a DequantizeLinear, its bias is float.
        weights: float weights.
        x, x_float: its input in the quantized and in the float network, one array a frame.
        y_float: its output in the float network.
        opset: of the quantized graph.
    """

    layer: gs.Node
    weights: NDArray[np.float32]
    x: Arrays
    x_float: Arrays
    y_float: Arrays
    opset: int

    def run(self) -> Arrays:
        """The layer's outputs in the quantized network, as the layer is now."""
        run = _single(self.layer, self.x[0].shape, self.opset)
        return [run(one) for one in self.x]


Visit = Callable[[Step], Arrays]
"""Changes the layer of a step; returns its output as it then is."""


_BUDGET = 400 << 20  # bytes of tensors that are kept
_ALIVE = 6  # tensors of the largest size that both networks together keep at a time, as a rule
_MOST_FRAMES, _LEAST_FRAMES = 64, 4


def frames_in_memory(model: onnx.ModelProto) -> int:
    """Frames whose tensors the walk may keep."""
    shapes = (value.type.tensor_type.shape.dim for value in (*model.graph.value_info, *model.graph.input))
    largest = max((math.prod(dim.dim_value for dim in dims) for dims in shapes), default=1)
    return int(np.clip(_BUDGET // (4 * _ALIVE * max(largest, 1)), _LEAST_FRAMES, _MOST_FRAMES))


def walk(floating: gs.Graph, quantized: gs.Graph, frames: Iterable[Frame], visit: Visit, progress: Stages) -> None:
    """Visit the layers of constant weights in order.

    Args:
        floating: the float network.
        quantized: the same with grids in it; layers and tensors keep their names.
        frames: few enough to be kept in memory with the tensors that are alive at one time.
        progress: told of each layer.
    """
    sides = [_Side(floating, frames), _Side(quantized, frames)]
    layers = [node for node in sides[1].graph.nodes if _is_layer(node)]
    for side in sides:
        side.plan([layer.name for layer in layers])
    theirs = {node.name: node for node in floating.nodes}
    for at, layer in enumerate(counted(layers, len(layers), progress)):
        x_float, x = (side.input_of(at) for side in sides)
        twin = theirs[layer.name]
        plain = _single(twin, twin.inputs[0].shape, floating.opset)
        y_float = [plain(one) for one in x_float]
        y = visit(Step(layer, twin.inputs[1].values, x, x_float, y_float, quantized.opset))
        for side, values in zip(sides, (y_float, y), strict=True):
            side.done(at, values)


def _is_layer(node: gs.Node) -> bool:
    return node.op in LAYERS and not isinstance(node.inputs[1], gs.Constant) and is_weight(node.inputs[1])


class _Side:
    """One of the two networks: what is alive of it, for each frame."""

    def __init__(self, graph: gs.Graph, frames: Iterable[Frame]) -> None:
        self.graph = graph
        self._alive: list[dict[str, NDArray]] = [dict(frame) for frame in frames]
        self._layers: list[gs.Node] = []
        self._needed: list[tuple[list[gs.Node], set[str]]] = []

    def plan(self, names: Sequence[str]) -> None:
        """Know the layers, and for each what leads to its input from outputs of layers before it."""
        by_name = {node.name: node for node in self.graph.nodes}
        self._layers = [by_name[name] for name in names]
        stops = {id(layer.outputs[0]) for layer in self._layers}
        self._needed = [_before(layer.inputs[0], stops) for layer in self._layers]
        self._last: dict[str, int] = {}
        for at, (_, sources) in enumerate(self._needed):
            self._last.update(dict.fromkeys(sources, at))

    def input_of(self, at: int) -> Arrays:
        """The layer's input."""
        nodes, sources = self._needed[at]
        wanted = self._layers[at].inputs[0]
        if not nodes:
            found = [frame[wanted.name] for frame in self._alive]
        else:
            run = _segment(nodes, wanted, sources, self.graph.opset)
            found = [run({name: frame[name] for name in sources}) for frame in self._alive]
        for name in sources:
            if self._last[name] == at:
                for frame in self._alive:
                    del frame[name]
        return found

    def done(self, at: int, values: Arrays) -> None:
        """Keep the layer's output, if something reads it."""
        name = self._layers[at].outputs[0].name
        if name in self._last:
            for frame, value in zip(self._alive, values, strict=True):
                frame[name] = value


def _before(tensor: gs.Tensor, stops: set[int]) -> tuple[list[gs.Node], set[str]]:
    """The nodes that compute a tensor from outputs of layers and inputs of the network, in order; and those."""
    nodes: list[gs.Node] = []
    sources: set[str] = set()
    seen: set[int] = set()
    stack: list[tuple[gs.Tensor, bool]] = [(tensor, False)]
    while stack:
        one, ready = stack.pop()
        maker = producer(one)
        if isinstance(one, gs.Constant) or one.is_empty():
            continue
        if id(one) in stops or maker is None:
            sources.add(one.name)
        elif ready:
            nodes.append(maker)
        elif id(maker) not in seen:
            seen.add(id(maker))
            stack.append((one, True))
            stack += [(source, False) for source in maker.inputs]
    return nodes, sources


def _segment(
    nodes: Sequence[gs.Node], wanted: gs.Tensor, sources: set[str], opset: int
) -> Callable[[Mapping[str, NDArray]], NDArray]:
    """Something that runs these nodes alone."""
    made: dict[str, gs.Tensor] = {}
    copies = [copy_of(node, made) for node in nodes if not _is_restored(node)]
    inputs = [made[name] for name in sources if name in made]
    reference = _reference(copies, inputs, made[wanted.name], opset)
    return lambda feeds: reference.run(feeds)[wanted.name]


def _single(layer: gs.Node, shape: Sequence[int], opset: int) -> Callable[[NDArray], NDArray]:
    """Something that runs a layer alone, its weights as reals."""
    made: dict[str, gs.Tensor] = {}
    copy = copy_of(layer, made)
    copy.inputs[0] = gs.Variable("x", np.dtype(np.float32), list(shape))
    name = layer.outputs[0].name
    reference = _reference([copy], [copy.inputs[0]], copy.outputs[0], opset)
    return lambda x: reference.run({"x": x})[name]


def _reference(nodes: list[gs.Node], inputs: list[gs.Tensor], output: gs.Tensor, opset: int) -> Reference:
    graph = gs.Graph(nodes, inputs, [output], name="part", opset=opset, ir_version=10)
    return Reference(gs.export_onnx(graph.toposort(), do_type_check=False), "a part of the network to calibrate")


def _is_restored(node: gs.Node) -> bool:
    return node.op == DEQUANTIZE and isinstance(node.inputs[0], gs.Constant)


def copy_of(node: gs.Node, made: dict[str, gs.Tensor]) -> gs.Node:
    """The node with tensors of its own; constants behind a DequantizeLinear as reals."""
    inputs = []
    for tensor in node.inputs:
        maker = producer(tensor)
        if tensor.is_empty():
            inputs.append(gs.Variable.empty())
            continue
        if tensor.name not in made:
            if isinstance(tensor, gs.Constant):
                made[tensor.name] = gs.Constant(tensor.name, tensor.values)
            elif maker is not None and _is_restored(maker):
                made[tensor.name] = gs.Constant(tensor.name, params_of(maker).dequantize(maker.inputs[0].values))
            else:
                made[tensor.name] = gs.Variable(tensor.name, tensor.dtype, tensor.shape)
        inputs.append(made[tensor.name])
    outputs = []
    for tensor in node.outputs:
        if tensor.name not in made:
            made[tensor.name] = gs.Variable(tensor.name, tensor.dtype, tensor.shape)
        outputs.append(made[tensor.name])
    return gs.Node(node.op, node.name, dict(node.attrs), inputs, outputs)
