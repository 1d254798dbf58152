"""Inputs and outputs of the network in other types than float32: `--io`.

    float32 x -> Q(s, z) -> ...      =>   int8 x -> DQ(s, z) -> ...        the integers that Q would make of the reals
    ... -> Q(s, z) -> DQ -> y        =>   ... -> Q(s, z) -> int8 y

The canonical model takes and gives reals. A camera's driver gives bytes, and an accelerator or a fixed-point
application integers: then the reals in between are work for nothing. What the network computes stays the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx.helper
import onnx.numpy_helper
from onnx import TensorProto

from drpai_qat.core.io_types import FLOAT32, INT8
from drpai_qat.core.moving import MOVING
from preprocess.passlog import Note

_BYTES = (TensorProto.INT8, TensorProto.UINT8)
_GRIDS = (*_BYTES, TensorProto.INT16, TensorProto.UINT16)
_LIMITS = ("Clip", "Max", "Min")
"""What keeps a grid narrower than its type, in front of the QuantizeLinear."""

ElemTypes = Mapping[str, int]


def edge_types(model: onnx.ModelProto) -> dict[str, int]:
    """Element type of each input and output of a model, as onnx.TensorProto counts them."""
    return {value.name: value.type.tensor_type.elem_type for value in (*model.graph.input, *model.graph.output)}


def with_edges(canonical: onnx.ModelProto, io: str, source: ElemTypes) -> tuple[onnx.ModelProto, tuple[Note, ...]]:
    """The same network with inputs and outputs of other types.

    Args:
        canonical: canonical QDQ model; not changed.
        io: one of drpai_qat.core.io_types.IO_TYPES.
        source: types of the inputs and outputs in the user's file, by name.
    Returns: the model, and what could not be had: a tensor without a trained grid has no integers.
    """
    if io == FLOAT32:
        return canonical, ()
    model = onnx.ModelProto()
    model.CopyFrom(canonical)
    edges, notes = _Edges(model.graph), []
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    for end, values in (("input", inputs), ("output", list(model.graph.output))):
        for value in values:
            has = value.type.tensor_type.elem_type
            wanted = TensorProto.INT8 if io == INT8 else source.get(value.name, has)
            if wanted == has or (io == INT8 and has != TensorProto.FLOAT):
                continue
            if wanted in _GRIDS:
                quantizer = edges.grid_behind(value.name) if end == "input" else edges.grid_of(value.name)
                if quantizer is None:
                    notes.append(Note("warning", "io", value.name, f"{end} stays float32: it has no trained grid"))
                else:
                    edges.expose(value, end, quantizer, wanted)
            else:
                edges.cast(value, end, wanted)
    model.graph.node.extend(edges.behind)
    for node in reversed(edges.in_front):
        model.graph.node.insert(0, node)
    return model, tuple(notes)


class _Edges:
    """A graph whose ends are exchanged.

    Attributes:
        in_front, behind: nodes to be put before and after the others.
    """

    def __init__(self, graph: onnx.GraphProto) -> None:
        self._graph = graph
        self._constants = {tensor.name: tensor for tensor in graph.initializer}
        self._makers = {name: node for node in graph.node for name in node.output}
        self._readers: dict[str, list[onnx.NodeProto]] = {}
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self._readers.setdefault(name, []).append(node)
        self._names = {name for node in graph.node for name in (*node.input, *node.output)}
        self.in_front: list[onnx.NodeProto] = []
        self.behind: list[onnx.NodeProto] = []

    def grid_behind(self, name: str) -> onnx.NodeProto | None:
        """The QuantizeLinear that an input's elements go to, if all go to one grid."""
        found = list(self._quantizers(name))
        first = found[0] if found else None
        if first is None or None in found:
            return None
        return first if all(self._same_grid(one, first) for one in found if one is not None) else None

    def grid_of(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that an output's elements come from."""
        node = self._makers.get(name)
        while node is not None and node.op_type in MOVING and not MOVING[node.op_type].joins:
            node = self._makers.get(node.input[0])
        return node if node is not None and node.op_type == "DequantizeLinear" and self._has_one_scale(node) else None

    def expose(self, value: onnx.ValueInfoProto, end: str, quantizer: onnx.NodeProto, wanted: int) -> None:
        """Let the tensor hold integers of the grid; they take 8 bits as `wanted` says, or 16 if the grid has them."""
        has = self._constants[quantizer.input[2]].data_type
        held = wanted if {wanted, has} <= {*_BYTES} else has
        name, reals = value.name, self._free(f"{value.name}_reals")
        grid = [quantizer.input[1], self._shifted(quantizer.input[2], held)]
        if end == "input":
            self._rename_reads(name, reals)
            self.in_front.append(self._node("DequantizeLinear", [name, *grid], reals))
        else:
            self._rename_result(name, reals)
            self.behind.append(self._node("QuantizeLinear", [reals, *grid], name))
        self._now(value, reals, held)

    def cast(self, value: onnx.ValueInfoProto, end: str, wanted: int) -> None:
        """Let the tensor hold the same numbers in another type."""
        name, inner, has = value.name, self._free(f"{value.name}_inner"), value.type.tensor_type.elem_type
        if end == "input":
            self._rename_reads(name, inner)
            self.in_front.append(self._node("Cast", [name], inner, to=has))
        else:
            self._rename_result(name, inner)
            self.behind.append(self._node("Cast", [inner], name, to=wanted))
        self._now(value, inner, wanted)

    def _quantizers(self, name: str) -> Iterator[onnx.NodeProto | None]:
        """Those that the tensor reaches by movement and limits alone; None for each other use."""
        outputs = {output.name for output in self._graph.output}
        waiting, met = [name], {name}
        while waiting:
            name = waiting.pop()
            if name in outputs:
                yield None
            for node in self._readers.get(name, ()):
                if node.op_type == "QuantizeLinear":
                    yield node if node.input[0] == name and self._has_one_scale(node) else None
                elif node.op_type in _LIMITS or (node.op_type in MOVING and node.input[0] == name):
                    waiting += [output for output in node.output if output not in met]
                    met.update(node.output)
                else:
                    yield None

    def _has_one_scale(self, node: onnx.NodeProto) -> bool:
        scale, zero_point = (
            (self._constants.get(one) for one in node.input[1:3]) if len(node.input) > 2 else (None,) * 2
        )
        return scale is not None and zero_point is not None and int(np.prod(scale.dims)) == 1

    def _same_grid(self, a: onnx.NodeProto, b: onnx.NodeProto) -> bool:
        pairs = zip(a.input[1:3], b.input[1:3], strict=True)
        arrays = [[onnx.numpy_helper.to_array(self._constants[name]) for name in pair] for pair in pairs]
        return all(one.dtype == other.dtype and one.item() == other.item() for one, other in arrays)

    def _shifted(self, zero_point: str, wanted: int) -> str:
        """The zero point of the same grid in another type of as many bits."""
        if wanted == self._constants[zero_point].data_type:
            return zero_point
        value = onnx.numpy_helper.to_array(self._constants[zero_point])
        to = onnx.helper.tensor_dtype_to_np_dtype(wanted)
        moved = int(value.item()) - int(np.iinfo(value.dtype).min) + int(np.iinfo(to).min)
        made = onnx.numpy_helper.from_array(np.array(moved, to), self._free(f"{zero_point}_edge"))
        self._graph.initializer.append(made)
        return made.name

    def _rename_reads(self, old: str, new: str) -> None:
        for node in self._graph.node:
            for index, name in enumerate(node.input):
                if name == old:
                    node.input[index] = new

    def _rename_result(self, old: str, new: str) -> None:
        self._rename_reads(old, new)
        for node in self._graph.node:
            for index, name in enumerate(node.output):
                if name == old:
                    node.output[index] = new

    def _now(self, value: onnx.ValueInfoProto, inner: str, elem_type: int) -> None:
        """The end has another type, and the tensor in its place inside is known as the end was."""
        known = self._graph.value_info.add()
        known.CopyFrom(value)
        known.name = inner
        value.type.tensor_type.elem_type = elem_type

    def _node(self, op: str, inputs: list[str], output: str, **attributes: int) -> onnx.NodeProto:
        return onnx.helper.make_node(op, inputs, [output], name=f"{output}/{op}", **attributes)

    def _free(self, name: str) -> str:
        while name in self._names or name in self._constants:
            name += "_"
        self._names.add(name)
        return name
