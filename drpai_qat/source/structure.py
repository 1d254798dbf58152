"""Is this a graph at all: names, order, cycles, inputs and outputs. onnx.checker says less, and on several lines."""

from __future__ import annotations

from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter

import onnx

from drpai_qat.core.errors import ModelError
from drpai_qat.core.text import listed, one_line


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and every graph inside its nodes (If, Loop, Scan)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            held = [attribute.g] if attribute.HasField("g") else []
            for inner in (*held, *attribute.graphs):
                yield from subgraphs(inner)


def network_inputs(graph: onnx.GraphProto) -> list[onnx.ValueInfoProto]:
    """Graph inputs that the user feeds: those that no initializer of the same name fills."""
    filled = {tensor.name for tensor in graph.initializer}
    filled |= {sparse.values.name for sparse in graph.sparse_initializer}
    return [value for value in graph.input if value.name not in filled]


def label(node: onnx.NodeProto) -> str:
    """A node in a message: its type and its name, or its first output."""
    name = node.name or next((output for output in node.output if output), "")
    return f"{node.op_type} {one_line(name)!r}"


def check_structure(file: str, model: onnx.ModelProto) -> None:
    """Refuse graphs without inputs or outputs, of other types than float32, with duplicate or dangling names.

    Raises: ModelError
    """
    graph = model.graph
    inputs = network_inputs(graph)
    if not inputs:
        raise ModelError(f"{file}: the graph has no inputs: every input has an initializer of its name")
    if not graph.output:
        raise ModelError(f"{file}: the graph has no outputs: there is nothing to compute")
    for kind, values in (("input", inputs), ("output", list(graph.output))):
        for value in values:
            _check_type(file, kind, value)
    _check_names(file, graph)


def _check_type(file: str, kind: str, value: onnx.ValueInfoProto) -> None:
    where = f"{file}: {kind} {one_line(value.name)!r}"
    if not value.type.HasField("tensor_type"):
        held = value.type.WhichOneof("value") or "nothing"
        raise ModelError(f"{where} holds {held.removesuffix('_type')}, not a tensor: export the network without it")
    elem_type = value.type.tensor_type.elem_type
    if elem_type in _FED_TYPES or (kind == "output" and elem_type in _OUTPUT_TYPES):
        return
    name = onnx.TensorProto.DataType.Name(elem_type).lower() if elem_type in _TYPES else str(elem_type)
    advice = "only float32 tensors are fed on the board: move what makes or reads it out of the model"
    if name == "undefined":
        advice = "it has no type: export the model again"
    raise ModelError(f"{where} is {name}, not float32: {advice}")


_TYPES = set(onnx.TensorProto.DataType.values())
# preprocess gives these a float32 interface: by a Cast, or by the grid that training gave them; indices become int32.
_FED_TYPES = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16, onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT64, onnx.TensorProto.INT32,
)  # fmt: skip
# Class maps and indices (ArgMax, TopK) leave the network as integers.
_OUTPUT_TYPES = (onnx.TensorProto.INT64, onnx.TensorProto.INT32, onnx.TensorProto.BOOL)


def _check_names(file: str, graph: onnx.GraphProto) -> None:
    """Every tensor has one maker, and every name that is read is made."""
    made: dict[str, str] = {}
    for value in network_inputs(graph):
        _claim(file, made, value.name, "a network input")
    for tensor in graph.initializer:
        _claim(file, made, tensor.name, "an initializer")
    for sparse in graph.sparse_initializer:
        _claim(file, made, sparse.values.name, "an initializer")
    for node in graph.node:
        for name in node.output:
            if name:
                _claim(file, made, name, label(node))
    for node in graph.node:
        for name in reads(node):
            if name not in made:
                raise ModelError(f"{file}: {label(node)} reads {one_line(name)!r}, which nothing makes: damaged graph")
    for value in graph.output:
        if value.name not in made:
            raise ModelError(f"{file}: output {one_line(value.name)!r} is made by no node: damaged graph")


def _claim(file: str, made: dict[str, str], name: str, maker: str) -> None:
    if not name:
        raise ModelError(f"{file}: {maker} has an empty name: damaged graph")
    if name in made:
        raise ModelError(f"{file}: tensor {one_line(name)!r} is made twice, by {made[name]} and {maker}: damaged graph")
    made[name] = maker


def reads(node: onnx.NodeProto) -> set[str]:
    """Tensors of the enclosing graph that a node needs, its subgraphs' included."""
    names = {name for name in node.input if name}
    for attribute in node.attribute:
        held = [attribute.g] if attribute.HasField("g") else []
        for graph in (*held, *attribute.graphs):
            local = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
            local |= {name for inner in graph.node for name in inner.output}
            for inner in graph.node:
                names |= reads(inner) - local
            names |= {value.name for value in graph.output} - local
    return names


def sort_nodes(file: str, graph: onnx.GraphProto) -> None:
    """Bring the nodes into topological order, as ONNX asks; some graph editors leave them unsorted.

    Raises: ModelError: the graph has a cycle.
    """
    maker = {name: index for index, node in enumerate(graph.node) for name in node.output if name}
    needs = {
        index: sorted({maker[name] for name in reads(node) if name in maker}) for index, node in enumerate(graph.node)
    }
    if all(before < index for index, befores in needs.items() for before in befores):
        return
    try:
        order = list(TopologicalSorter(needs).static_order())
    except CycleError as error:
        cycle = [label(graph.node[index]) for index in error.args[1][:-1]]
        raise ModelError(f"{file}: the graph has a cycle: {listed(cycle)} feed each other: damaged graph") from None
    nodes = [graph.node[index] for index in order]
    copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:]
    graph.node.extend(copies)
