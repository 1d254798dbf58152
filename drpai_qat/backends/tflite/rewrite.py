"""Rewrites of the graph that keep every value and leave TFLite one rounding where training has one."""

from __future__ import annotations

from dataclasses import replace

from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Node
from drpai_qat.graph.ranges import MATRIX, clip_limits


def merge_equal_roundings(graph: Graph) -> Graph:
    """FakeQuants of one tensor on one grid are one."""
    kept: list[Node] = []
    first: dict[object, str] = {}
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        if any(name in renamed for name in node.inputs):
            node = replace(node, inputs=tuple(renamed.get(name, name) for name in node.inputs))
        if node.op == FAKE_QUANT and node.output not in graph.outputs:
            earlier = first.setdefault((node.inputs[0], node.params), node.output)
            if earlier != node.output:
                renamed[node.output] = earlier
                continue
        kept.append(node)
    return graph.with_nodes(tuple(kept))


def repeat_layers(graph: Graph) -> Graph:
    """A layer whose result is rounded to several grids, and read nowhere else, is written once for each.

    A file's layer has one result on one grid; computed once, it would need a grid that training did not give, and a
    second rounding. The copies share their weights.
    """
    consumers = graph.consumers()
    nodes: list[Node] = []
    renamed: dict[str, str] = {}
    for node in graph.nodes:
        nodes.append(_reads(node, renamed))
        if node.op not in MATRIX:
            continue
        chain, readers = _limits_behind(graph, node, consumers)
        if len(readers) < 2 or not all(reader.op == FAKE_QUANT for reader in readers):
            continue
        if node.op == "MatMul" and not graph.is_constant(node.inputs[1]):
            continue
        for number, reader in enumerate(readers[1:], 1):
            nodes += _copies(graph, (node, *chain), number)
            renamed[reader.output] = _copied((node, *chain)[-1].output, number)
    return graph.with_nodes(tuple(nodes)) if renamed else graph


def _limits_behind(graph: Graph, node: Node, consumers: dict[str, list[Node]]) -> tuple[tuple[Node, ...], list[Node]]:
    """The Relu and Clip nodes that follow one another behind a layer, and what reads the last one."""
    chain: list[Node] = []
    name = node.output
    while name not in graph.outputs:
        readers = consumers.get(name, [])
        if len(readers) != 1 or clip_limits(graph, readers[0]) is None:
            return tuple(chain), readers
        chain.append(readers[0])
        name = readers[0].output
    return tuple(chain), []


def _copied(name: str, number: int) -> str:
    return f"{name}::copy{number}"


def _copies(graph: Graph, chain: tuple[Node, ...], number: int) -> list[Node]:
    made, inside = [], {node.output for node in chain}
    for node in chain:
        output = _copied(node.output, number)
        graph.shapes[output], graph.dtypes[output] = graph.shapes[node.output], "float32"
        inputs = tuple(_copied(name, number) if name in inside else name for name in node.inputs)
        made.append(replace(node, name=f"{node.name}:copy{number}", inputs=inputs, outputs=(output,)))
    return made


def _reads(node: Node, renamed: dict[str, str]) -> Node:
    """A FakeQuant that reads a copy of its layer."""
    if node.op == FAKE_QUANT and node.output in renamed:
        return replace(node, inputs=(renamed[node.output],))
    return node
