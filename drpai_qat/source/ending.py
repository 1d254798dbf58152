"""Ends a network at tensors that the user names, before parts that cannot be compiled (non-maximum suppression)."""

from __future__ import annotations

import difflib
from typing import Any

import onnx

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import listed, one_line
from drpai_qat.source.declarations import complete_declarations
from drpai_qat.source.structure import reads

_NEAREST = 3


def end_at(file: str, model: onnx.ModelProto, names: tuple[str, ...]) -> onnx.ModelProto:
    """Copy the part of a model that computes some of its tensors.

    Args:
        file: name for messages.
        model: checked model; not changed.
        names: tensors, which become the outputs, in this order; none: `model` is returned as it is.
    Raises: OptionError: the model computes no tensor of that name.
    """
    if not names:
        return model
    made = {name for node in model.graph.node for name in node.output if name}
    for name in names:
        if name not in made:
            near = difflib.get_close_matches(name, sorted(made), _NEAREST, 0.3)
            known = f": did you mean {one_line(listed(near))}?" if near else ""
            raise OptionError(f"--outputs {one_line(name)}: no node of {file} computes it{known}")
    ended = onnx.ModelProto()
    ended.CopyFrom(model)
    graph = ended.graph
    needed = set(names)
    nodes: list[onnx.NodeProto] = []
    for node in reversed(graph.node):  # loading sorted them
        if needed.intersection(node.output):
            nodes.insert(0, onnx.NodeProto.FromString(node.SerializeToString()))
            needed |= reads(node)
    values = {value.name: value for value in graph.output}
    outputs = [
        onnx.ValueInfoProto.FromString(values[name].SerializeToString())
        if name in values
        else onnx.ValueInfoProto(name=name)
        for name in names
    ]
    del graph.node[:], graph.output[:]
    graph.node.extend(nodes)
    graph.output.extend(outputs)
    for field in (graph.input, graph.initializer):
        _keep(field, needed)
    complete_declarations(ended)
    return ended


def _keep(field: Any, needed: set[str]) -> None:
    """Drop the entries of a repeated field that no node reads."""
    for index in reversed([at for at, one in enumerate(field) if one.name not in needed]):
        del field[index]
