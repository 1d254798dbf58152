"""Nodes that join very many tensors, as several that join a few: a kernel has an argument for each tensor it reads.

Concat(x0 .. x99)  =>  Concat(Concat(x0 .. x31), Concat(x32 .. x63), ...)
Sum(x0 .. x99)     =>  Sum(Sum(Sum(x0 .. x31), x32 .. x62), ...)       in the order in which it is summed
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.shape_inference import infer_shapes
from preprocess.surgery import Names

_MOST = 32
_CHAINED = ("Sum", "Max", "Min")


def split_wide_nodes(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Write such nodes as several."""
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        count = len(node.inputs)
        if count <= _MOST or node.op not in (*_CHAINED, "Concat"):
            continue
        tensors = list(node.inputs)
        node.inputs.clear()

        def joined(some: list[gs.Tensor], node: gs.Node = node) -> gs.Tensor:
            part = gs.Variable(names(f"{node.outputs[0].name}_part"), node.outputs[0].dtype)
            made.append(gs.Node(node.op, names(f"{node.name}_part"), dict(node.attrs), some, [part]))
            return part

        node.inputs.extend((_tree if node.op == "Concat" else _chain)(tensors, joined))
        log.note(node.name, f"{node.op} of {count} tensors is written as several")
    if not made:
        return graph
    graph.nodes.extend(made)
    return infer_shapes(graph.toposort(), log)


_Join = Callable[[list[gs.Tensor]], gs.Tensor]


def _tree(tensors: list[gs.Tensor], joined: _Join) -> list[gs.Tensor]:
    while len(tensors) > _MOST:
        tensors = [joined(tensors[at : at + _MOST]) for at in range(0, len(tensors), _MOST)]
    return tensors


def _chain(tensors: list[gs.Tensor], joined: _Join) -> list[gs.Tensor]:
    while len(tensors) > _MOST:
        tensors = [joined(tensors[:_MOST]), *tensors[_MOST:]]
    return tensors
