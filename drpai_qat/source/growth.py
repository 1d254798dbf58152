"""What a small file may grow into before it is compiled: functions in functions, inputs and outputs by the thousand."""

from __future__ import annotations

from collections.abc import Iterable

import onnx

from drpai_qat.core.errors import ModelError
from drpai_qat.core.text import one_line
from drpai_qat.source.structure import network_inputs

MOST_NODES = 200_000
"""Nodes of a network with all its functions written out."""
MOST_ENDS = 1024
"""Inputs, and outputs."""
MOST_OPERANDS = 10_000
"""Inputs of a node: our work grows with their number; that of onnxruntime, which the check needs, with its square."""

_Key = tuple[str, str, str]


def check_growth(file: str, model: onnx.ModelProto) -> None:
    """Refuse what no time would be enough for.

    Raises: ModelError: functions call themselves, or are too many nodes together; too many inputs or outputs, of
        the network or of a node.
    """
    for kind, count in (("inputs", len(network_inputs(model.graph))), ("outputs", len(model.graph.output))):
        if count > MOST_ENDS:
            raise ModelError(f"{file}: {count} {kind}: networks of up to {MOST_ENDS} are compiled")
    for node in _nodes([*model.graph.node, *(one for function in model.functions for one in function.node)]):
        if len(node.input) > MOST_OPERANDS:
            what = f"node {one_line(node.name or node.op_type)!r} ({one_line(node.op_type)})"
            raise ModelError(f"{file}: {what} has {len(node.input)} inputs: up to {MOST_OPERANDS} are compiled")
    functions = {(one.domain, one.name, _overload(one)): one for one in model.functions}
    written: dict[_Key, int] = {}
    for start in functions:
        _write_out(file, start, functions, written)
    total = sum(written.get(key, 1) for key in _calls(model.graph.node))
    if total > MOST_NODES:
        raise ModelError(
            f"{file}: {_told(total)} nodes with its functions written out: at most {MOST_NODES} are compiled"
        )


def _write_out(file: str, start: _Key, functions: dict[_Key, onnx.FunctionProto], written: dict[_Key, int]) -> None:
    """Count the nodes of a function with those it calls written out; without recursion, as they may nest deeply."""
    waiting, open_ = [start], set[_Key]()
    while waiting:
        key = waiting[-1]
        if key in written:
            waiting.pop()
            continue
        called = list(_calls(functions[key].node))
        missing = [one for one in dict.fromkeys(called) if one in functions and one not in written]
        if not missing:
            written[key] = sum(written.get(one, 1) for one in called)
            waiting.pop()
        elif key in open_:
            raise ModelError(f"{file}: function {one_line(key[1])!r} calls itself: damaged file")
        else:
            open_.add(key)
            waiting += missing


def _calls(nodes: Iterable[onnx.NodeProto]) -> Iterable[_Key]:
    """What each node calls, those of its subgraphs too."""
    return ((node.domain, node.op_type, _overload(node)) for node in _nodes(nodes))


def _nodes(nodes: Iterable[onnx.NodeProto]) -> Iterable[onnx.NodeProto]:
    """The nodes, and those of their subgraphs."""
    for node in nodes:
        yield node
        for attribute in node.attribute:
            for graph in (attribute.g, *attribute.graphs):
                yield from _nodes(graph.node)


def _overload(one: onnx.NodeProto | onnx.FunctionProto) -> str:
    return str(getattr(one, "overload", ""))


def _told(count: int) -> str:
    return str(count) if count < 10**9 else f"over 10^{len(str(count)) - 1}"
