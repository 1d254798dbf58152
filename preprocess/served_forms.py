"""Operators that no kernel serves as they stand, written with those that one serves.

    Einsum, MatMul, Gemm                    =>  see product_forms.py
    ReverseSequence of whole axes           =>  Slice with step -1;  of parts: Gather
    LpNormalization(x, p = 2)               =>  x / max(sqrt(sum x^2), smallest)
    GroupNormalization(x, groups)           =>  InstanceNormalization over the groups, times scale, plus bias
    ScatterElements into a part of the data =>  into that part alone, and the rest joined to it
    Concat with tensors of no elements      =>  without them

Needs static shapes; each new tensor gets its shape.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import SMALLEST_SCALE
from preprocess.passlog import PassLog
from preprocess.product_forms import einsum, gemm, matmul
from preprocess.shape_inference import infer_shapes
from preprocess.sizes import is_static
from preprocess.surgery import bypass, value_of
from preprocess.writing import Writer, taken_apart

_PER_CHANNEL_SCALE = 21
"""Opset from which GroupNormalization has a scale for each channel, not for each group."""

_MAX_ROUNDS = 4


def write_served_forms(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace such operators; what one becomes may be one itself."""
    for _ in range(_MAX_ROUNDS):
        writer, changed = Writer(graph), False
        for node in list(graph.nodes):
            if node.op == "Concat":
                _drop_empty(graph, node, log)
                continue
            rewrite = _REWRITES.get(node.op)
            computed = [
                one for one in (*node.inputs, *node.outputs) if not (one.is_empty() or isinstance(one, gs.Constant))
            ]
            known = all(is_static(one.shape) for one in computed)
            if rewrite is None or not known or not node.outputs:
                continue
            writer.base = node.name
            op, name = node.op, node.name
            if rewrite(node, writer, graph.opset):
                changed = True
                log.note(name, f"{op} is written with operators that kernels serve")
        graph = writer.finish()
        if not changed:
            break
        graph = infer_shapes(graph, log)
    return graph.cleanup()


def _drop_empty(graph: gs.Graph, node: gs.Node, log: PassLog) -> None:
    """Take tensors without elements out of a Concat; what joins one tensor is bypassed."""
    full = [one for one in node.inputs if one.shape is None or 0 not in list(one.shape)]
    if not full or len(full) == len(node.inputs):
        return
    log.note(node.name, f"{len(node.inputs) - len(full)} tensor(s) without elements are left out")
    node.inputs = full
    if len(full) == 1:
        bypass(graph, node)


def _reverse_sequence(node: gs.Node, writer: Writer, opset: int) -> bool:
    lengths = value_of(node.inputs[1])
    shape = list(node.inputs[0].shape)
    time, batch = int(node.attrs.get("time_axis", 0)), int(node.attrs.get("batch_axis", 1))
    if lengths is None or {time, batch} != {0, 1}:
        return False
    (data, _), output = taken_apart(node)
    if (lengths == shape[time]).all():
        starts, ends, axes, steps = (writer.constant([one], np.int64) for one in (-1, -(2**31), time, -1))
        writer.emit("Slice", [data, starts, ends, axes, steps], output)
        return True
    places = np.arange(shape[0] * shape[1]).reshape(shape[:2])
    along = places if time == 1 else places.T.copy()
    for row, length in zip(along, lengths, strict=True):
        row[:length] = row[:length][::-1].copy()
    places = along if time == 1 else along.T
    flat = writer.emit("Reshape", [data, writer.constant([shape[0] * shape[1], *shape[2:]], np.int64)])
    chosen = writer.emit("Gather", [flat, writer.constant(places.reshape(-1), np.int64)], axis=0)
    writer.emit("Reshape", [chosen, writer.constant(shape, np.int64)], output)
    return True


def _lp_normalization(node: gs.Node, writer: Writer, opset: int) -> bool:
    axis = writer.constant([int(node.attrs.get("axis", -1))], np.int64)
    squared = int(node.attrs.get("p", 2)) == 2
    (data,), output = taken_apart(node)
    sizes = writer.emit("Mul", [data, data]) if squared else writer.emit("Abs", [data])
    norm = writer.emit("ReduceSum", [sizes, axis], keepdims=1)
    if squared:
        norm = writer.emit("Sqrt", [norm])
    writer.emit("Div", [data, writer.emit("Max", [norm, writer.constant(SMALLEST_SCALE)])], output)
    return True


def _group_normalization(node: gs.Node, writer: Writer, opset: int) -> bool:
    shape, groups = list(node.inputs[0].shape), int(node.attrs["num_groups"])
    scale, bias = (value_of(one) for one in node.inputs[1:3])
    if scale is None or bias is None or len(shape) < 3:
        return False
    epsilon = float(node.attrs.get("epsilon", 1e-5))
    (data, *_), output = taken_apart(node)
    if opset < _PER_CHANNEL_SCALE:
        scale, bias = (np.repeat(one, shape[1] // groups) for one in (scale, bias))
    grouped = writer.emit("Reshape", [data, writer.constant([shape[0], groups, -1], np.int64)])
    plain = [writer.constant(np.full(groups, one)) for one in (1, 0)]
    normal = writer.emit("InstanceNormalization", [grouped, *plain], epsilon=epsilon)
    back = writer.emit("Reshape", [normal, writer.constant(shape, np.int64)])
    along = [1, shape[1], *[1] * (len(shape) - 2)]
    scaled = writer.emit("Mul", [back, writer.constant(scale.reshape(along))])
    writer.emit("Add", [scaled, writer.constant(bias.reshape(along))], output)
    return True


def _scatter_elements(node: gs.Node, writer: Writer, opset: int) -> bool:
    """TVM's kernel takes the indices to be as large as the data along all axes but the one that they count in."""
    shape, few = list(node.inputs[0].shape), list(node.inputs[1].shape)
    axis = int(node.attrs.get("axis", 0)) % max(len(shape), 1)
    part = [size if at == axis else few[at] for at, size in enumerate(shape)]
    if len(few) != len(shape) or part == shape or 0 in few:
        return False
    attributes = dict(node.attrs)
    (data, indices, updates), output = taken_apart(node)

    def cut(starts: list[int], ends: list[int]) -> gs.Tensor:
        ends_of = (writer.constant(one, np.int64) for one in (starts, ends))
        return writer.emit("Slice", [data, *ends_of], dtype=data.dtype)

    first = cut([0] * len(part), part)
    made = writer.emit("ScatterElements", [first, indices, updates], dtype=data.dtype, **attributes)
    left = [at for at, size in enumerate(shape) if part[at] < size]
    for at in left:
        starts, ends = [0] * len(part), list(part)
        starts[at], ends[at] = part[at], shape[at]
        result = output if at == left[-1] else None
        made = writer.emit("Concat", [made, cut(starts, ends)], result, dtype=data.dtype, axis=at)
        part[at] = shape[at]
    return True


_REWRITES: dict[str, Callable[[gs.Node, Writer, int], bool]] = {
    "Einsum": einsum,
    "MatMul": matmul,
    "Gemm": gemm,
    "ReverseSequence": _reverse_sequence,
    "ScatterElements": _scatter_elements,
    "LpNormalization": _lp_normalization,
    "GroupNormalization": _group_normalization,
}
