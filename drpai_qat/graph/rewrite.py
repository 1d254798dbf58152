"""Rewrites before lowering that keep every value and make more of it integer.

A FakeQuant behind an operator that only moves elements commutes with it: FakeQuant(Concat(a, b)) is
Concat(FakeQuant(a), FakeQuant(b)), element by element. Moved in front, it joins the kernels that compute a and b, and
the concatenation moves bytes instead of floats.

MaxPool(Concat(a, b)) over channels is Concat(MaxPool(a), MaxPool(b)): where a and b lie on grids of their own, so do
the pooled parts, which a convolution behind can read one by one.
"""

from __future__ import annotations

from dataclasses import replace

from drpai_qat.core.moving import MOVING
from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Node

# Those that keep each element, and Slice, which drops some. ReverseSequence has lengths as an input beside its data.
_COMMUTING = frozenset(op for op, movement in MOVING.items() if movement.whole) - {"ReverseSequence"} | {"Slice"}


def pool_before_concat(graph: Graph) -> Graph:
    """MaxPool moved in front of a concatenation of channels that nobody else reads."""
    nodes: list[Node] = []
    consumers = graph.consumers()
    producers = {name: node for node in graph.nodes for name in node.outputs}
    for node in graph.nodes:
        joined = producers.get(node.inputs[0]) if node.op == "MaxPool" and len(node.outputs) == 1 else None
        if joined is None or not _joins_channels(graph, joined) or not _only_feeds(graph, joined, node, consumers):
            nodes.append(node)
            continue
        outputs = []
        for i, name in enumerate(joined.inputs):
            output = f"{node.output}::pooled{i}"
            shape = graph.shapes[node.output]
            graph.shapes[output], graph.dtypes[output] = (shape[0], graph.shapes[name][1], *shape[2:]), "float32"
            nodes.append(replace(node, name=f"{node.name}:{i}", inputs=(name,), outputs=(output,)))
            outputs.append(output)
        nodes = [one for one in nodes if one is not joined]
        nodes.append(replace(joined, inputs=tuple(outputs), outputs=node.outputs))
    return graph.with_nodes(tuple(nodes))


def _joins_channels(graph: Graph, node: Node) -> bool:
    rank = len(graph.shapes[node.output])
    constant = any(graph.is_constant(name) for name in node.inputs)
    return node.op == "Concat" and node.attributes.get("axis") in (1, 1 - rank) and not constant


def hoist_fake_quant(graph: Graph) -> Graph:
    """FakeQuant (behind ReLU or Clip, or bare) moved in front of the operator that moves its input's elements."""
    nodes = list(graph.nodes)
    changed = True
    while changed:
        changed = False
        consumers = graph.with_nodes(tuple(nodes)).consumers()
        producers = {name: node for node in nodes for name in node.outputs}
        for index, node in enumerate(nodes):
            if node.op not in (FAKE_QUANT, "Relu", "Clip") or (
                node.op == FAKE_QUANT and node.params is not None and node.params.per_channel
            ):
                continue
            mover = producers.get(node.inputs[0])
            if mover is None or mover.op not in _COMMUTING or not _only_feeds(graph, mover, node, consumers):
                continue
            if node.op != FAKE_QUANT and not _leads_to_fake_quant(node, consumers):
                continue
            _swap(graph, nodes, mover, node, index)
            changed = True
            break
    return graph.with_nodes(tuple(nodes))


def _only_feeds(graph: Graph, mover: Node, node: Node, consumers: dict[str, list[Node]]) -> bool:
    readers = consumers.get(mover.output, [])
    return len(readers) == 1 and readers[0] is node and mover.output not in graph.outputs and len(mover.outputs) == 1


def _leads_to_fake_quant(node: Node, consumers: dict[str, list[Node]]) -> bool:
    readers = consumers.get(node.output, [])
    return len(readers) == 1 and readers[0].op in (FAKE_QUANT, "Clip", "Relu")


def _swap(graph: Graph, nodes: list[Node], mover: Node, node: Node, index: int) -> None:
    moved: list[Node] = []
    names: list[str] = []
    data = mover.inputs if mover.op == "Concat" else mover.inputs[:1]
    for i, name in enumerate(data):
        output = f"{node.output}::{i}"
        graph.shapes[output], graph.dtypes[output] = graph.shapes[name], "float32"
        moved.append(replace(node, name=f"{node.name}:{i}", inputs=(name, *node.inputs[1:]), outputs=(output,)))
        names.append(output)
    swapped = replace(mover, inputs=(*names, *mover.inputs[len(data) :]), outputs=(node.output,))
    del nodes[index]
    at = nodes.index(mover)
    nodes[at : at + 1] = [*moved, swapped]
