"""LayerNorm as exporters write it below opset 17, seven reductions and elementwise steps, becomes one operator again.

    mean = ReduceMean(x)      d = Sub(x, mean)      variance = ReduceMean(Pow(d, 2))
    y = Div(d, Sqrt(Add(variance, epsilon)))        (gamma and beta behind are elementwise and join the kernel)

A quantizer between any two of them is a trained rounding: such chains stay as they are.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drpai_qat.graph.canonical import Graph, Node


@dataclass(frozen=True)
class _Chain:
    """A match: the operator that takes the place of its division, and the tensors that vanish."""

    norm: Node
    inside: frozenset[str]


def fuse_layer_norm(graph: Graph) -> Graph:
    """LayerNormalization in place of each chain over the last axis."""
    producers = {name: node for node in graph.nodes for name in node.outputs}
    consumers = graph.consumers()
    chains = {}
    for node in graph.nodes:
        chain = _match(graph, node, producers) if node.op == "Div" else None
        if chain is not None and _closed(graph, chain, consumers):
            chains[node.output] = chain
    gone = frozenset().union(*(chain.inside for chain in chains.values()))
    nodes = [chains[n.output].norm if n.output in chains else n for n in graph.nodes if n.output not in gone]
    return graph.with_nodes(tuple(nodes)) if chains else graph


def _match(graph: Graph, divide: Node, producers: dict[str, Node]) -> _Chain | None:
    centred, root = (producers.get(name) for name in divide.inputs)
    if centred is None or root is None or (centred.op, root.op) != ("Sub", "Sqrt"):
        return None
    x, mean = centred.inputs[0], producers.get(centred.inputs[1])
    shifted = producers.get(root.inputs[0])
    if mean is None or shifted is None or shifted.op != "Add":
        return None
    constants = [graph.constant(name) for name in shifted.inputs]
    epsilons = [float(c.item()) for c in constants if c is not None and c.size == 1]
    variance = next((producers[name] for name in shifted.inputs if name in producers), None)
    if len(epsilons) != 1 or variance is None:
        return None
    square = producers.get(variance.inputs[0])
    if square is None or not _is_square(graph, square, centred.output):
        return None
    if mean.inputs[0] != x or not all(_is_row_mean(graph, node) for node in (mean, variance)):
        return None
    attributes = {"axis": -1, "epsilon": epsilons[0]}
    norm = Node(divide.name, "LayerNormalization", (x,), divide.outputs, attributes, source=divide.source)
    return _Chain(norm, frozenset(node.output for node in (mean, centred, square, variance, shifted, root)))


def _is_square(graph: Graph, node: Node, name: str) -> bool:
    if node.op == "Mul":
        return node.inputs == (name, name)
    exponent = graph.constant(node.inputs[1]) if node.op == "Pow" and node.inputs[0] == name else None
    return exponent is not None and exponent.size == 1 and float(exponent.item()) == 2.0


def _is_row_mean(graph: Graph, node: Node) -> bool:
    """A mean over the last axis that keeps it."""
    if node.op != "ReduceMean" or not node.attributes.get("keepdims", 1):
        return False
    axes = node.attributes.get("axes")
    if axes is None and len(node.inputs) > 1:
        axes = graph.constant(node.inputs[1])
    rank = len(graph.shapes[node.inputs[0]])
    return axes is not None and [int(axis) % rank for axis in np.reshape(axes, -1)] == [rank - 1]


def _closed(graph: Graph, chain: _Chain, consumers: dict[str, list[Node]]) -> bool:
    """Nothing outside the chain reads what vanishes."""
    readers = {reader.output for name in chain.inside for reader in consumers.get(name, [])}
    return readers <= chain.inside | {chain.norm.output} and not chain.inside & set(graph.outputs)
