"""The layers of a compiled network, as people see them: each step that computes, with what was fused into it.

A layer is a node of the canonical graph that the backend gave an account of (`coverage`), and every node behind it that
runs in the same kernel: batch norms, activations, sums, roundings.

    Conv -> BatchNormalization -> Relu -> Add -> QuantizeLinear        one layer, "Conv", four fused
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from drpai_qat.core.coverage import INTEGER, KernelCall, LoweredNode
from drpai_qat.core.moving import KEEPS_GRID
from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Graph, Node
from drpai_qat.graph.ranges import MATRIX
from drpai_qat.graph.recurrent import GATES
from drpai_qat.report.size import CodeUse
from drpai_qat.report.weight_ranges import WeightRanges, weight_ranges

_ROUNDING = {FAKE_QUANT: "Quantize", QUANTIZE: "Quantize", DEQUANTIZE: "Dequantize"}
_SLOWEST_FIRST = ("tvm", "float32", *reversed(INTEGER), "view")


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        name, op: of the node that it is named for.
        fused: operators of the nodes that run with it, in order.
        nodes: their names, and its own.
        inputs: indices of the layers it reads; -1: a network input.
        input_names: of the tensors it reads that are not constants.
        shape: of its result; () where it is not known.
        kernel: of a convolution's or pooling's window; (): none.
        macs, compute, reason: see drpai_qat.core.coverage.LoweredNode.
        grid: of its result; None: float32.
        weights: None if it has none.
        parameters: bytes of its constants in the canonical model.
        code: bytes of the kernels that it calls; layers of one shape share them.
        sharing: the other layers that call some of these kernels.
        tensors: the quantized tensors that it computes, as the check names them; the last one is its result.
        covers: the nodes of the coverage that it is made of.
    """

    name: str
    op: str
    compute: str
    macs: int = 0
    reason: str = ""
    fused: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    inputs: tuple[int, ...] = ()
    input_names: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    grid: QuantParams | None = None
    weights: WeightRanges | None = None
    parameters: int = 0
    code: int = 0
    sharing: tuple[int, ...] = ()
    tensors: tuple[str, ...] = ()
    covers: tuple[str, ...] = ()

    @property
    def integer(self) -> bool:
        """It computes in integers, or not at all."""
        return self.compute not in ("float32", "tvm")

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "name": self.name, "op": self.op, "fused": list(self.fused), "inputs": list(self.inputs),
            "shape": list(self.shape), "compute": self.compute, "macs": self.macs, "reason": self.reason,
            "grid": None if self.grid is None else grid_to_json(self.grid),
            "weights": None if self.weights is None else self.weights.to_json(),
            "parameters": self.parameters, "code": self.code, "code_shared_with": list(self.sharing),
            "tensors": list(self.tensors), "covers": list(self.covers),
        }  # fmt: skip


def grid_to_json(grid: QuantParams) -> dict[str, Any]:
    """Type, scale and zero point; null for scales of an activation per channel."""
    single = grid.scale.size == 1
    return {
        "dtype": grid.dtype.name,
        "scale": float(grid.scale.item()) if single else None,
        "zero_point": int(grid.zero_point.item()) if single else None,
    }


def describe_layers(graph: Graph, coverage: Sequence[LoweredNode]) -> tuple[Layer, ...]:
    """The layers in the order of computation.

    Args:
        graph: the canonical graph.
        coverage: what became of its nodes. Some may be of a graph that the backend rewrote: those that an unrolled
            LSTM or GRU consists of count as that; others are layers without a place in the graph.
    """
    found, others = _by_node(graph, coverage)
    accounts = {name: _together(name, several) for name, several in found.items()}
    covers = {name: tuple(dict.fromkeys(one.node for one in several)) for name, several in found.items()}
    makers = {name: i for i, node in enumerate(graph.nodes) for name in node.outputs}
    by_output = {name: graph.nodes[i] for name, i in makers.items()}
    root: list[int] = []  # of each node, the position of the node that its layer is named for
    for i, node in enumerate(graph.nodes):
        before = [root[makers[name]] for name in node.inputs if name in makers]
        root.append(i if node.name in accounts or not before else max(before))
    members: dict[int, list[Node]] = {}
    for i, node in enumerate(graph.nodes):
        members.setdefault(root[i], []).append(node)
    shown = [at for at, nodes in sorted(members.items()) if _is_layer(nodes, accounts)]
    index = {at: i for i, at in enumerate(shown)}
    layers = []
    for at in shown:
        own = graph.nodes[at]
        account = accounts.get(own.name) or LoweredNode(own.name, own.op, "view")
        layer = replace(_layer(graph, by_output, members[at], account), covers=covers.get(own.name, ()))
        sources = (root[makers[name]] if name in makers else -1 for name in layer.input_names)
        read = dict.fromkeys(index.get(source, -1) for source in sources if source != at)
        layers.append(replace(layer, inputs=tuple(read)))
    return (*layers, *(_alone(one) for one in others))


def with_code(layers: Sequence[Layer], kernels: Sequence[KernelCall], code: CodeUse) -> tuple[Layer, ...]:
    """The layers with the code that they call; as they were where the steps of a run are not known.

    Args:
        kernels: the steps of a run, by the nodes whose they are.
        code: of the kernels behind the same steps.
    """
    if len(kernels) != len(code.steps):
        return tuple(layers)
    owners = {name: i for i, layer in enumerate(layers) for name in layer.covers}
    called: dict[int, dict[str, None]] = {}
    users: dict[str, dict[int, None]] = {}
    for step, symbols in zip(kernels, code.steps, strict=True):
        if step.node in owners:
            for symbol in symbols:
                called.setdefault(owners[step.node], {})[symbol] = None
                users.setdefault(symbol, {})[owners[step.node]] = None
    return tuple(
        replace(
            layer,
            code=sum(code.kernels[symbol] for symbol in called.get(i, ())),
            sharing=tuple(sorted({user for symbol in called.get(i, ()) for user in users[symbol]} - {i})),
        )
        for i, layer in enumerate(layers)
    )


def _alone(one: LoweredNode) -> Layer:
    """A layer of a node that the graph does not have."""
    return Layer(one.node, one.op, one.compute, one.macs, one.reason, nodes=(one.node,), covers=(one.node,))


def _by_node(graph: Graph, coverage: Sequence[LoweredNode]) -> tuple[dict[str, list[LoweredNode]], list[LoweredNode]]:
    """What became of each node, by its name; and the accounts of nodes that the graph does not have."""
    positions = {node.name: i for i, node in enumerate(graph.nodes)}
    recurrent = [i for i, node in enumerate(graph.nodes) if node.op in GATES]
    found: dict[str, list[LoweredNode]] = {}
    others, last = [], -1
    for one in coverage:
        name = one.node if one.node in positions else re.sub(r":\d+$", "", one.node)  # `rewrite.py` numbers copies
        if name not in positions:
            at = next((i for i in recurrent if i > last), None)
            if at is None:
                others.append(one)
                continue
            name = graph.nodes[at].name
        else:
            last = max(last, positions[name])
        found.setdefault(name, []).append(one)
    return found, others


def _together(name: str, accounts: Sequence[LoweredNode]) -> LoweredNode:
    """All accounts of one node: computed as most of its products are; without products, as the slowest part."""
    first = max(accounts, key=lambda one: (one.macs, -_SLOWEST_FIRST.index(one.compute)))
    return LoweredNode(name, first.op, first.compute, sum(one.macs for one in accounts), first.reason)


def _is_layer(nodes: Sequence[Node], accounts: dict[str, LoweredNode]) -> bool:
    """Not just a rounding of a network input that the first layer does."""
    return nodes[0].name in accounts or any(node.op not in (*_ROUNDING, "Clip") for node in nodes)


def _layer(graph: Graph, makers: Mapping[str, Node], nodes: Sequence[Node], account: LoweredNode) -> Layer:
    own = nodes[0]
    inside = {name for node in nodes for name in node.outputs}
    reads = dict.fromkeys(name for node in nodes for name in node.inputs if name and name not in inside)
    constants = [name for name in reads if graph.is_constant(name)]
    roundings = [node for node in nodes if node.op == FAKE_QUANT]
    ranges = {node.inputs[0] for node in roundings}
    fused = [
        node for node in nodes[1:] if node.op not in _ROUNDING and not (node.op == "Clip" and ranges & {node.output})
    ]
    last = nodes[-1]
    window = own.attributes.get("kernel_shape") or _window(graph, own)
    return Layer(
        name=own.name,
        op=_ROUNDING.get(own.op, own.op),
        compute=account.compute,
        macs=account.macs,
        reason=account.reason,
        fused=tuple(node.op for node in fused),
        nodes=tuple(node.name for node in (own, *fused)),
        input_names=tuple(name for name in reads if not graph.is_constant(name)),
        shape=graph.shapes.get(last.output, ()),
        kernel=tuple(int(size) for size in window),
        grid=_grid(makers, last.output),
        weights=_weights(graph, own),
        parameters=sum(_bytes(graph, name) for name in constants),
        tensors=tuple(node.source[0].output[0] for node in roundings if node.source),
    )


def _grid(makers: Mapping[str, Node], name: str) -> QuantParams | None:
    """The grid that a tensor lies on: that of the rounding behind operators that keep it."""
    while (node := makers.get(name)) is not None:
        if node.op in _ROUNDING:
            return None if node.op == DEQUANTIZE else node.params
        if node.op not in KEEPS_GRID:
            return None
        name = node.inputs[0]
    return None


def _window(graph: Graph, node: Node) -> tuple[int, ...]:
    if node.op not in ("Conv", "ConvTranspose"):
        return ()
    return graph.shapes.get(node.inputs[1], ())[2:]


def _weights(graph: Graph, node: Node) -> WeightRanges | None:
    """Of a layer of products, or of a table."""
    if node.op not in (*MATRIX, *GATES, "Gather") or len(node.inputs) < 2:
        return None
    name = node.inputs[0] if node.op == "Gather" else node.inputs[1]
    weight = graph.weight(name)
    if weight is None or weight.values.ndim < 2 or weight.values.dtype.kind not in "iuf" or not weight.values.size:
        return None
    return weight_ranges(weight, _channel_axis(node))


def _channel_axis(node: Node) -> int:
    """Of the weights, where the output channels are."""
    if node.op == "MatMul" or (node.op == "Gemm" and not node.attributes.get("transB", 0)):
        return -1
    return 1 if node.op in ("ConvTranspose", *GATES) else 0


def _bytes(graph: Graph, name: str) -> int:
    weight = graph.weight(name)
    return 0 if weight is None else weight.values.nbytes + (0 if weight.params is None else weight.params.scale.nbytes)
