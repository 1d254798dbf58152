"""Pieces of a canonical model as ONNX models: as they are, and in float32 with the trained ranges as Clips.

    canonical:  x -> Conv(w int8 -> DQ) -> Relu -> Q -> DQ -> ...
    float:      x -> Conv(w float32, on its grid) -> Relu -> Clip(low, high) -> ...

The float form is what a quantizer that calibrates is given: the weights are exactly what training left, and no value
leaves its trained range, so that a minimum and maximum taken there are the trained ones if the data reaches both ends.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper

from drpai_qat.core.errors import ModelError
from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Graph, Node

_STEPS = 255
"""Steps of an 8-bit grid, which minimum and maximum span."""


@dataclass(frozen=True)
class TrainedRange:
    """A trained grid of an activation, and the Clip that stands for it.

    Attributes:
        tensor: output of the Clip: the quantized value's name.
        clipped: input of the Clip.
        params: the grid.
        low, high: ends of the Clip.
    """

    tensor: str
    clipped: str
    params: QuantParams
    low: float
    high: float

    @property
    def full(self) -> bool:
        """Minimum and maximum of all 8 bits: from them alone, calibration arrives at this grid."""
        steps = (self.high - self.low) / float(self.params.scale)
        return abs(steps - _STEPS) < 1e-3


@dataclass(frozen=True)
class FloatModel:
    """A model in float32.

    Attributes:
        model: inputs and outputs as the canonical piece has them.
        ranges: its trained grids, in order of computation.
        weights: the grid of each quantized constant, by its name in `model`.
    """

    model: onnx.ModelProto
    ranges: tuple[TrainedRange, ...]
    weights: Mapping[str, QuantParams]


def borders(graph: Graph, nodes: Iterable[Node]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Tensors that some nodes of a graph take from outside, and those that others read of them; in order."""
    inside = list(nodes)
    made = {name for node in inside for name in node.outputs}
    taken = [name for node in inside for name in node.inputs if name and name not in made]
    others = {name for node in graph.nodes if node.output not in made for name in node.inputs}
    read = others | set(graph.outputs)
    inputs = tuple(name for name in dict.fromkeys(taken) if not graph.is_constant(name))
    return inputs, tuple(name for node in inside for name in node.outputs if name in read)


def canonical_piece(model: onnx.ModelProto, graph: Graph, nodes: Sequence[Node], name: str) -> onnx.ModelProto:
    """Some nodes of a canonical model as a canonical model of their own.

    Args:
        model: the whole one.
        graph: the same, read.
        nodes: of `graph`, in its order.
        name: of the new graph.
    """
    inputs, outputs = borders(graph, nodes)
    dequantizers = {one.output[0]: one for one in model.graph.node if one.op_type == "DequantizeLinear"}
    protos: list[onnx.NodeProto] = []
    for weight in dict.fromkeys(name for node in nodes for name in node.inputs if name in graph.weights):
        protos.append(dequantizers[weight])
    for node in nodes:
        protos.extend(_protos(node))
    used = {name for proto in protos for name in proto.input}
    return _model(model, graph, name, protos, [t for t in model.graph.initializer if t.name in used], inputs, outputs)


def float_model(
    model: onnx.ModelProto, graph: Graph, nodes: Sequence[Node] | None = None, name: str = ""
) -> FloatModel:
    """Nodes of a canonical model, or all of it, in float32 with a Clip at every trained range.

    Args:
        model: the whole one.
        graph: the same, read.
        nodes: of `graph`, in its order; None: all.
        name: of the new graph; empty: that of the model.
    Raises: ModelError: a grid has a scale for each channel of an activation, which no Clip expresses.
    """
    inside = list(graph.nodes if nodes is None else nodes)
    inputs, outputs = borders(graph, inside)
    if nodes is None:
        inputs, outputs = graph.inputs, graph.outputs
    makers = {name: node for node in inside for name in node.outputs}
    readers = graph.consumers()
    protos: list[onnx.NodeProto] = []
    constants: dict[str, np.ndarray] = {}
    ranges: list[TrainedRange] = []
    absorbed: set[str] = set()  # outputs of Clips that a trained range takes in
    for node in inside:
        if node.op in (QUANTIZE, DEQUANTIZE):
            raise ModelError(f"{node.name}: {node.op} at the network's border has no float form")
        if node.op != FAKE_QUANT:
            protos.extend(_protos(node))
            constants |= {
                name: np.asarray(value) for name in node.inputs if name and (value := graph.constant(name)) is not None
            }
            continue
        source, low, high = _range(graph, node, makers.get(node.inputs[0]), readers, outputs)
        if source != node.inputs[0]:
            absorbed.add(node.inputs[0])
        assert node.params is not None
        ranges.append(TrainedRange(node.output, source, node.params, float(low), float(high)))
        ends = {f"{node.output}/low": low, f"{node.output}/high": high}
        constants |= {name: np.asarray(value) for name, value in ends.items()}
        protos.append(onnx.helper.make_node("Clip", [source, *ends], [node.output], f"{node.name}/range"))
    protos = [one for one in protos if one.output[0] not in absorbed]
    used = {name for proto in protos for name in proto.input}
    tensors = [onnx.numpy_helper.from_array(np.ascontiguousarray(v), n) for n, v in constants.items() if n in used]
    weights = {name: weight.params for name, weight in graph.weights.items() if weight.params and name in used}
    made = _model(model, graph, name or model.graph.name, protos, tensors, inputs, outputs)
    return FloatModel(made, tuple(ranges), weights)


def _range(
    graph: Graph, node: Node, maker: Node | None, readers: Mapping[str, list[Node]], outputs: Sequence[str]
) -> tuple[str, np.float32, np.float32]:
    """What a trained range clips, and its ends: a Clip in front of it that nobody else reads is part of it."""
    assert node.params is not None
    if node.params.per_channel:
        raise ModelError(f"{node.name}: a grid per channel of an activation can't be handed over as one range")
    low, high = (np.float32(end) for end in node.params.real_range())
    source = node.inputs[0]
    if maker is None or maker.op != "Clip" or source in outputs or len(readers.get(source, ())) > 1:
        return source, low, high
    ends = [graph.constant(name) if name else None for name in (*maker.inputs[1:], "", "")[:2]]
    if any(end is None and name for end, name in zip(ends, maker.inputs[1:], strict=False)):
        return source, low, high  # bounds that are computed
    least, most = ends
    low = low if least is None else max(low, np.float32(least.reshape(-1)[0]))
    high = high if most is None else min(high, np.float32(most.reshape(-1)[0]))
    if low >= high:  # nothing is left of one of them: the rounding to the grid does the rest
        low, high = (np.float32(end) for end in node.params.real_range())
        return source, low, high
    return maker.inputs[0], low, high


def _protos(node: Node) -> list[onnx.NodeProto]:
    """A node as ONNX has it, reading the tensors that the graph says."""
    if node.op == FAKE_QUANT:
        if len(node.source) != 2:
            raise ModelError(f"{node.name}: QuantizeLinear without a DequantizeLinear of its grid")
        quantize, dequantize = (_copied(one) for one in node.source)
        quantize.input[0] = node.inputs[0]
        return [quantize, dequantize]
    if node.op == "Identity" and node.source and node.source[0].op_type != "Identity":  # stands for a second DQ
        return [onnx.helper.make_node("Identity", list(node.inputs), list(node.outputs), node.name)]
    copied = _copied(node.source[0])
    del copied.input[:]
    copied.input.extend(node.inputs)
    return [copied]


def _copied(node: onnx.NodeProto) -> onnx.NodeProto:
    copied = onnx.NodeProto()
    copied.CopyFrom(node)
    return copied


def _model(
    model: onnx.ModelProto,
    graph: Graph,
    name: str,
    nodes: Sequence[onnx.NodeProto],
    tensors: Sequence[onnx.TensorProto],
    inputs: Sequence[str],
    outputs: Sequence[str],
) -> onnx.ModelProto:
    known = {value.name: value for value in (*model.graph.input, *model.graph.value_info, *model.graph.output)}
    border = {*inputs, *outputs}

    def info(tensor: str) -> onnx.ValueInfoProto:
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(graph.dtypes.get(tensor, "float32")))
        return onnx.helper.make_tensor_value_info(tensor, kind, graph.shapes[tensor])

    made = onnx.helper.make_graph(
        nodes, name, [info(one) for one in inputs], [info(one) for one in outputs], initializer=tensors,
        value_info=[known[one] for node in nodes for one in node.output if one in known and one not in border],
    )  # fmt: skip
    return onnx.helper.make_model(made, opset_imports=model.opset_import, ir_version=model.ir_version)
