"""Which tensors of a model are given a grid, and which of them share one.

Every tensor that a layer multiplies is, and every tensor that is stored between kernels where nothing is lost by it.
What runs in the registers of a layer's kernel is not: in Conv -> Add -> Relu only the Relu's result is rounded, once,
where a grid on each of the three would round three times. Operators that only move elements keep the grid of their
input, so the grid goes in front of them.

`sites_everywhere` is for targets whose operators take integers one by one (TFLite): there each result has a grid, but
for what such an operator holds inside (an activation behind a layer, the nodes that a SiLU is written in).
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import MOVING
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.parts import LEAST_REDUCTION, MOST_PARTS
from drpai_qat.graph.ranges import find_bounds, find_grids
from drpai_qat.graph.recurrent import expand_recurrent
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import is_graph_output, optional_input, producer, readers, value_of

LAYERS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
RECURRENT = ("LSTM", "GRU", "RNN")
ONE_TENSOR = frozenset(
    (
        "Relu", "LeakyRelu", "PRelu", "Clip", "Sigmoid", "HardSigmoid", "Tanh", "HardSwish", "Elu", "Selu", "Celu",
        "Gelu", "Softplus", "Softsign", "Mish", "Swish", "Erf", "Exp", "Neg", "Abs", "Sqrt", "Reciprocal", "Pow", "Log",
        "Cast", "Identity", "BatchNormalization", "ThresholdedRelu", "Sin", "Cos", "Floor", "Ceil", "Round", "Sign",
    )
)  # fmt: skip
TWO_TENSORS = frozenset(("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum", "Mean"))
ELEMENTWISE = ONE_TENSOR | TWO_TENSORS
NORMALIZING = frozenset(("LayerNormalization", "InstanceNormalization", "Softmax", "LogSoftmax", "ReduceL2"))
AVERAGING = frozenset(("AveragePool", "GlobalAveragePool", "ReduceMean", "Resize", "Upsample"))
_CLAMPS = ("Relu", "Clip")
_INITIAL_H = 5


@dataclass(frozen=True, eq=False)
class Site:
    """A tensor to be given a grid.

    Attributes:
        tensor: of the graph.
        shares: the first site of those that share one grid; None: it has its own.
    """

    tensor: gs.Tensor
    shares: gs.Tensor | None = None

    @property
    def name(self) -> str:
        """Of the tensor."""
        return str(self.tensor.name)


def gaps(graph: gs.Graph, model: onnx.ModelProto, *, dynamic: bool = False) -> list[Site]:
    """What layers of integer weights multiply in a trained model and what has neither a grid nor a bound.

    Args:
        graph: of `model`.
        model: canonical QDQ, with the grids that training gave it.
        dynamic: the source rounds whatever its layers multiply to 8 bits, in the run: so do those with a bound here.
    """
    known = read_graph(expand_recurrent(model))
    bounds = find_bounds(known, find_grids(known, "uint8"))
    found = _Found(graph)
    for node in graph.nodes:
        tensors = multiplied(node)
        trained = any(is_weight(t) and not isinstance(t, gs.Constant) for t in node.inputs[1:3])
        if not trained and (node.op in RECURRENT or len(tensors) < 2):
            continue  # its weights were left in float by whoever trained it
        for tensor in tensors:
            if dynamic or tensor.name not in bounds:
                found.add(tensor, node)
    return found.sites()


def sites_between_kernels(graph: gs.Graph) -> list[Site]:
    """What layers multiply, and what is stored between two kernels."""
    found = _Found(graph)
    for node in graph.nodes:
        for tensor in multiplied(node):
            found.add(tensor, node)
    places = {id(tensor): at for at, node in enumerate(graph.nodes) for tensor in node.outputs}
    for node in graph.nodes:
        for tensor in _stored(graph, node, places):
            if not any(reader.op in NORMALIZING for reader in readers(tensor)):
                found.add(tensor, node)
    return found.sites()


def sites_everywhere(graph: gs.Graph) -> list[Site]:
    """Every float result, but for those that one integer operator holds inside."""
    found = _Found(graph, shares_concat=True)
    for tensor in graph.inputs:
        found.add(tensor, None)
    for node in graph.nodes:
        for tensor in node.outputs:
            after = list(readers(tensor))
            held = len(after) == 1 and after[0].op in _CLAMPS and not is_graph_output(graph, tensor)
            within = node.op in ELEMENTWISE and after and all(_is_function_of_one(reader) for reader in after)
            if not held and not (within and not is_graph_output(graph, tensor)):
                found.add(tensor, None)
    return found.sites()


def multiplied(node: gs.Node) -> list[gs.Tensor]:
    """The inputs of a layer that are no constants; of a recurrent one also the state that it starts from."""
    count = 2 if node.op in LAYERS else 1 if node.op in RECURRENT else 0
    start = node.inputs[_INITIAL_H : _INITIAL_H + 1] if node.op in RECURRENT else []
    return [tensor for tensor in (*node.inputs[:count], *start) if not is_weight(tensor) and not tensor.is_empty()]


def is_weight(tensor: gs.Tensor) -> bool:
    """A constant, also behind its DequantizeLinear."""
    if isinstance(tensor, gs.Constant):
        return True
    maker = producer(tensor)
    return maker is not None and maker.op == DEQUANTIZE and isinstance(maker.inputs[0], gs.Constant)


def nodes_in_float(graph: gs.Graph, layers: Container[str]) -> set[str]:
    """These layers, and what runs in the kernel of one or reads its result: the last layer in front of it decides.

    What only moves elements is not among them: it takes integers and reals alike.
    """
    last: dict[int, int] = {}
    found = set()
    for at, node in enumerate(graph.nodes):
        if node.op in LAYERS or node.op in RECURRENT:
            before = at
        else:
            before = max((last.get(id(tensor), -1) for tensor in node.inputs), default=-1)
        last.update((id(tensor), before) for tensor in node.outputs)
        if before >= 0 and graph.nodes[before].name in layers and not keeps_grid(node):
            found.add(str(node.name))
    return found


def serves_only(tensor: gs.Tensor, nodes: Container[str]) -> bool:
    """Nothing but these nodes reads the tensor, directly or behind what only moves its elements."""
    after = list(readers(tensor))
    return bool(after) and all(
        node.name in nodes or (keeps_grid(node) and all(serves_only(one, nodes) for one in node.outputs))
        for node in after
    )


def keeps_grid(node: gs.Node) -> bool:
    """The node's result holds elements of its first input alone, or zeros."""
    if node.op == "Pad":
        value = optional_input(node, 2)
        return node.attrs.get("mode", "constant") != "constant" or value is None or not np.any(value_of(value) or 0)
    if node.op == "Resize":
        return bool(node.attrs.get("mode", "nearest") == "nearest")
    return node.op in MOVING and not MOVING[node.op].joins


def has_grid(tensor: gs.Tensor) -> bool:
    """The tensor's reals lie on a grid already."""
    while (maker := producer(tensor)) is not None:
        if maker.op == DEQUANTIZE:
            return True
        if not (keeps_grid(maker) or maker.op == "Relu"):
            return False
        tensor = maker.inputs[0]
    return False


class _Found:
    """Collects sites, each once, in the order of the graph."""

    def __init__(self, graph: gs.Graph, *, shares_concat: bool = False) -> None:
        self._graph = graph
        self._shares_concat = shares_concat
        self._tensors: dict[int, gs.Tensor] = {}
        self._shares: dict[int, gs.Tensor] = {}

    def add(self, tensor: gs.Tensor, reader: gs.Node | None) -> None:
        """Give a tensor a grid, in front of what only moves its elements."""
        while (maker := producer(tensor)) is not None and keeps_grid(maker) and self._passes(maker):
            tensor = maker.inputs[0]
        if isinstance(tensor, gs.Constant) or tensor.is_empty() or tensor.dtype != np.float32 or has_grid(tensor):
            return
        if maker is not None and maker.op == "Concat":
            parts = list(_parts_of(maker))
            if not self._shares_concat and reader is not None and self._read_by_parts(maker, reader, parts):
                for part in parts:
                    self.add(part, reader)
                return
        self._tensors[id(tensor)] = tensor

    def _passes(self, mover: gs.Node) -> bool:
        """Round in front of the mover: it moves the whole tensor, or nothing reads the rest."""
        if mover.op in ("Pad", "Resize") or MOVING[mover.op].whole or MOVING[mover.op].by_value:
            return True
        return id(mover.inputs[0]) in self._tensors

    def _read_by_parts(self, joined: gs.Node, reader: gs.Node, parts: list[gs.Tensor]) -> bool:
        """A convolution takes each part on a grid of its own."""
        taps = math.prod(reader.inputs[1].shape[2:]) if reader.op == "Conv" else 0
        return (
            reader.op == "Conv"
            and joined.attrs.get("axis") in (1, 1 - len(joined.outputs[0].shape or ()))
            and reader.inputs[0] is joined.outputs[0]
            and len(parts) <= MOST_PARTS
            and int(reader.attrs.get("group", 1)) == 1
            and not any(is_weight(part) or taps * part.shape[1] < LEAST_REDUCTION for part in parts)
        )

    def sites(self) -> list[Site]:
        """All of them; inputs of a concatenation that has a grid share it."""
        order = {id(t): at for at, t in enumerate(self._graph.inputs)}
        for node in self._graph.nodes:
            for tensor in node.outputs:
                order[id(tensor)] = len(order)
        for key, tensor in list(self._tensors.items()):
            maker = producer(tensor)
            if maker is not None and maker.op == "Concat":
                self._share(tensor, maker, self._shares.get(key, tensor))
        return [
            Site(tensor, self._shares.get(key))
            for key, tensor in sorted(self._tensors.items(), key=lambda one: order.get(one[0], 0))
        ]

    def _share(self, tensor: gs.Tensor, joined: gs.Node, first: gs.Tensor) -> None:
        self._shares[id(tensor)] = first
        for part in joined.inputs:
            while (maker := producer(part)) is not None and keeps_grid(maker):
                part = maker.inputs[0]
            if id(part) in self._tensors and id(part) not in self._shares:
                maker = producer(part)
                if maker is not None and maker.op == "Concat":
                    self._share(part, maker, first)
                self._shares[id(part)] = first


def _parts_of(joined: gs.Node) -> Iterator[gs.Tensor]:
    """The tensors that a concatenation of channels holds, those of concatenations within it one by one."""
    for part in joined.inputs:
        maker = producer(part)
        if maker is not None and maker.op == "Concat" and maker.attrs.get("axis") == joined.attrs.get("axis"):
            yield from _parts_of(maker)
        else:
            yield part


def _stored(graph: gs.Graph, node: gs.Node, places: Mapping[int, int]) -> Iterator[gs.Tensor]:
    """Inputs of a node that another kernel has to store for it.

    Args:
        places: of each tensor's producer in the graph, by the tensor's identity.
    """
    if node.op in AVERAGING or node.op in ("MaxPool", "GlobalMaxPool", "ReduceMax"):
        yield node.inputs[0]
    elif node.op in TWO_TENSORS and not _is_function_of_one(node):
        operands = [tensor for tensor in node.inputs if not is_weight(tensor)]
        size = node.outputs[0].shape
        whole = [tensor for tensor in operands if tensor.shape == size]
        alone = [tensor for tensor in whole if len(list(readers(tensor))) == 1 and not is_graph_output(graph, tensor)]
        computed = max(alone, key=lambda tensor: places.get(id(tensor), -1), default=None)
        yield from (tensor for tensor in whole if tensor is not computed)


def _is_function_of_one(node: gs.Node) -> bool:
    """The node's operands are all functions of one tensor, as in x * sigmoid(x)."""
    if node.op in ONE_TENSOR:
        return True
    if node.op not in TWO_TENSORS:
        return False
    return len({id(_root(tensor)) for tensor in node.inputs if not is_weight(tensor)}) == 1


def _root(tensor: gs.Tensor, depth: int = 12) -> gs.Tensor:
    """The tensor that `tensor` is a function of, element by element."""
    maker = producer(tensor)
    if maker is None or depth == 0 or maker.op not in ELEMENTWISE:
        return tensor
    roots = {id(root): root for one in maker.inputs if not is_weight(one) for root in [_root(one, depth - 1)]}
    return next(iter(roots.values())) if len(roots) == 1 else tensor
