"""The canonical QDQ model as a TFLite file.

model --read_graph--> values --a writer for each node (ops/)--> FlatFile --without what nothing reads--> bytes
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

import onnx

from drpai_qat.backends.tflite import ops as _ops  # noqa: F401  (registers the writers)
from drpai_qat.backends.tflite.context import NO_RANGE, Context, Derived, RefusedError, Written
from drpai_qat.backends.tflite.flatbuffer import FlatFile
from drpai_qat.backends.tflite.grids import LiteGrid, asymmetric_int8, target_of
from drpai_qat.backends.tflite.observed import Range
from drpai_qat.backends.tflite.registry import WRITERS
from drpai_qat.backends.tflite.rewrite import merge_equal_roundings, repeat_layers
from drpai_qat.backends.tflite.stored import Stored, row_major
from drpai_qat.backends.tflite.tail import follow
from drpai_qat.core.errors import LoweringError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.graph.canonical import DEQUANTIZE, FAKE_QUANT, QUANTIZE, Node, read_graph
from drpai_qat.graph.ranges import find_bounds, find_grids
from drpai_qat.graph.recurrent import expand_recurrent
from drpai_qat.graph.rewrite import hoist_fake_quant
from drpai_qat.graph.tables import fold_constant_nodes

Form = Literal["int8", "float32", "float16"]
Edges = Literal["int8", "float32"]


@dataclass(frozen=True)
class LiteModel:
    """A TFLite file and what became of the network.

    Attributes:
        content: the file.
        inputs, outputs: as the file has them: int8 with their grid, or float32.
        coverage: what became of each node.
        derived: tensors whose grid training did not give.
        notes: what else a user should know: node and text.
        integers: of inputs and outputs that the model has as integers: their type there, and what to take off them to
            get the file's.
    """

    content: bytes
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    coverage: tuple[Written, ...]
    derived: tuple[Derived, ...]
    notes: tuple[tuple[str, str], ...]
    integers: Mapping[str, tuple[str, int]] = field(default_factory=dict)

    @property
    def int8_mac_fraction(self) -> float:
        """Share of multiply-accumulates done in integers; 1.0 without any."""
        total = sum(one.macs for one in self.coverage)
        integer = sum(one.macs for one in self.coverage if one.compute in ("int8", "int16"))
        return integer / total if total else 1.0


@dataclass(frozen=True)
class _Refusal:
    """A node that can't be written, and why; `island`: in integers, but in float32."""

    node: Node
    reason: str
    island: bool


def write_tflite(
    model: onnx.ModelProto,
    *,
    form: Form = "int8",
    edges: Edges = "int8",
    allow_float: bool = False,
    ranges: Mapping[str, Range] | None = None,
) -> LiteModel:
    """Write a canonical QDQ model as a TFLite file.

    Args:
        model: as `preprocess` makes it.
        form: int8 with the trained grids, or float32 or float16 weights with float32 arithmetic and no rounding.
        edges: type of the network's inputs and outputs.
        allow_float: compute in float32 what TFLite can't express in integers, instead of refusing it.
        ranges: what data showed of tensors (`observed.py`): for those that training left without a range.
    Raises: LoweringError: a node can't be written; the message names it, and the reason.
    """
    graph = fold_constant_nodes(hoist_fake_quant(read_graph(expand_recurrent(model))))
    graph = repeat_layers(merge_equal_roundings(graph))
    grids = find_grids(graph, "int8")
    context = Context(
        graph,
        graph.consumers(),
        {name: node for node in graph.nodes for name in node.outputs},
        find_bounds(graph, grids),
        ranges or {},
        float_only=form != "int8",
        file=FlatFile(half=form == "float16"),
    )
    refused: list[_Refusal] = []
    missing: set[str] = set()
    inputs = _write_inputs(context, edges, allow_float)
    for node in graph.nodes:
        if any(name in missing for name in node.inputs):
            missing.update(node.outputs)  # the node that it waits for is named
        elif node.output not in context.done:
            before = len(context.coverage)
            refused += _write_node(context, node, allow_float)
            if len(context.coverage) == before:
                missing.update(node.outputs)
    if refused:
        raise LoweringError(_refusal(refused))
    outputs = _write_outputs(context, edges)
    _rename(context, outputs)
    _drop_unread(context, list(outputs.values()))
    content = _pack(context, inputs, outputs, form)
    return LiteModel(
        content,
        tuple(_info(context, name, index) for name, index in inputs.items()),
        tuple(_info(context, name, index) for name, index in outputs.items()),
        tuple(context.coverage),
        tuple(context.derived),
        tuple(context.notes),
        _integers(context, {**inputs, **outputs}),
    )


def _write_inputs(context: Context, edges: Edges, allow_float: bool) -> dict[str, int]:
    """The network's inputs: on the grid of their trained rounding where that is the first thing they meet."""
    indices = {}
    for name in context.graph.inputs:
        shape, dtype = context.shape(name), context.graph.dtypes[name]
        order = row_major(len(shape))
        readers = context.consumers.get(name, [])
        if dtype != "float32" and not all(reader.op == DEQUANTIZE for reader in readers):
            raise LoweringError(f"input {name!r}: TFLite's network takes float32 or quantized inputs, not {dtype}")
        if context.float_only:
            stored = context.new(name, shape, order, None)
        elif dtype != "float32" and readers:
            assert readers[0].params is not None
            target = target_of(readers[0].params)
            if target is None:
                raise LoweringError(f"input {name!r}: its grid does not exist in TFLite")
            stored = context.new(name, shape, order, target.grid)
        elif edges == "int8":
            stored = _quantized_input(context, name, readers, allow_float)
        else:
            stored = context.new(name, shape, order, None)
            indices[name] = stored.tensor
            if _trained_grid(context, name, readers) is None and name in context.observed:
                stored = context.on_grid(stored, _derived_input(context, name))
        context.keep(name, stored)
        indices.setdefault(name, stored.tensor)
    return indices


def _quantized_input(context: Context, name: str, readers: list[Node], allow_float: bool) -> Stored:
    shape = context.shape(name)
    order = row_major(len(shape))
    grid = _trained_grid(context, name, readers)
    if grid is None and name in context.observed:
        grid = _derived_input(context, name)
    if grid is None and not allow_float:
        raise LoweringError(
            f"input {name!r} {NO_RANGE}, or keep the layers that read it in float32 with --allow-float",
            see="a-layer-stays-in-float32",
        )
    return context.new(name, shape, order, grid)


def _trained_grid(context: Context, name: str, readers: list[Node]) -> LiteGrid | None:
    """The grid that an input is rounded to before anything else; None where there is none."""
    # Several fake-quants of one grid are one; a limit in front of the only one narrows its integers.
    first = readers[0] if readers else None
    if first is not None and first.op == FAKE_QUANT and all(r.params == first.params for r in readers):
        params, limits = first.params, (-math.inf, math.inf)
    else:
        tail = follow(context.graph, context.consumers, Node(name, "Input", (), (name,)))
        params, limits = tail.params, (tail.low, tail.high)
    target = None if params is None or params.per_channel else target_of(params, *limits)
    return None if target is None else target.grid


def _derived_input(context: Context, name: str) -> LiteGrid:
    grid = asymmetric_int8(*context.observed[name])
    context.derived.append(Derived(name, grid, "data"))
    return grid


def _write_node(context: Context, node: Node, allow_float: bool) -> list[_Refusal]:
    """Write a node; returns why it was refused, if it was."""
    writer = WRITERS.get(node.op)
    if writer is None:
        if context.float_only:
            raise LoweringError(f"node {node.name!r} ({node.op}): TFLite has no writer for it")
        return [_Refusal(node, "there is no writer for it", False)]
    derived, written = len(context.derived), len(context.coverage)
    try:
        writer(context, node, context.float_only)
    except RefusedError as error:
        if context.float_only:
            raise LoweringError(f"node {node.name!r} ({node.op}): {error}") from None
        reason = str(error)
    else:
        return []
    del context.derived[derived:]
    context.forget()
    try:
        writer(context, node, True)
    except RefusedError as error:
        return [_Refusal(node, reason if str(error) == reason else f"{reason}, and in float32: {error}", False)]
    context.coverage[written:] = [replace(one, reason=reason) for one in context.coverage[written:]]
    return [] if allow_float else [_Refusal(node, reason, True)]


def _refusal(refused: list[_Refusal]) -> str:
    """Name the first node that has no form at all, else the first that has none in integers."""
    first = next((one for one in refused if not one.island), refused[0])
    others = f" ({len(refused) - 1} more nodes too)" if len(refused) > 1 else ""
    text = f"node {first.node.name!r} ({first.node.op}) can't be written as INT8 TFLite: {first.reason}{others}"
    return f"{text}; --allow-float computes such nodes in float32" if first.island else text


def _write_outputs(context: Context, edges: Edges) -> dict[str, int]:
    indices: dict[str, int] = {}
    for name in context.graph.outputs:
        if name not in context.stored:
            raise LoweringError(f"output {name!r} is not computed by any node")
        stored = context.stored[name]
        stored = context.ordered(stored, row_major(len(stored.shape)))
        if edges == "float32":
            stored = context.as_float(stored)
        index = stored.tensor
        if index in indices.values() or name in context.graph.inputs or _is_input(context, index):
            copy = context.new(name, stored.shape, stored.order, stored.grid, context.file.types[index])
            context.reshape(index, copy.tensor)
            index = copy.tensor
        indices[name] = index
    return indices


def _is_input(context: Context, index: int) -> bool:
    return any(context.stored[name].tensor == index for name in context.graph.inputs)


def _rename(context: Context, outputs: Mapping[str, int]) -> None:
    """Outputs bear the source's names, whatever they were made of."""
    by_name = {tensor.name: tensor for tensor in context.file.tensors}
    for name, index in outputs.items():
        tensor = context.file.tensors[index]
        if tensor.name != name:
            if name in by_name:
                by_name[name].name = f"{name}:stored"
            tensor.name = name


def _drop_unread(context: Context, outputs: list[int]) -> None:
    """Operators whose results nothing reads: what a refused attempt left, parts of a Split."""
    read, kept = set(outputs), []
    for operator in reversed(context.file.operators):
        if any(int(index) in read for index in operator.outputs):
            kept.append(operator)
            read.update(int(index) for index in operator.inputs)
    context.file.operators[:] = kept[::-1]


def _pack(context: Context, inputs: dict[str, int], outputs: dict[str, int], form: Form) -> bytes:
    file = context.file
    used = {int(i) for one in file.operators for i in (*one.inputs, *one.outputs) if i >= 0}
    used |= {*inputs.values(), *outputs.values()}
    return file.pack_used(sorted(used), inputs, outputs, f"drpai-qat {form}")


def _integers(context: Context, edges: Mapping[str, int]) -> dict[str, tuple[str, int]]:
    """Type of the integers that the model has at its edges (those of the layer check), and their distance to ours."""
    found = {}
    for node in context.graph.nodes:
        name = node.inputs[0] if node.op == DEQUANTIZE else node.output
        grid = context.file.grids[edges[name]] if name in edges else None
        if node.op in (QUANTIZE, DEQUANTIZE) and grid is not None and node.params is not None:
            found[name] = node.params.dtype.name, int(node.params.zero_point) - grid.zero_point
    return found


def _info(context: Context, name: str, index: int) -> TensorInfo:
    file = context.file
    grid = file.grids[index]
    return TensorInfo(name, file.shapes[index], file.types[index], None if grid is None else grid.params())


__all__ = ["LiteModel", "write_tflite"]
