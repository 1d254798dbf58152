"""Operators that no kernel serves as they stand, written with those that one serves.

    Einsum("bld,od->blo", x, w)             =>  MatMul(x, Transpose(w)), with views around it where letters need them
    MatMul(w, x), Gemm(w, x), w trained     =>  Transpose(MatMul(Transpose(x), Transpose(w)))
    MatMul(x, w), w a vector                =>  Reshape(MatMul(x, w as a column))
    ReverseSequence of whole axes           =>  Slice with step -1;  of parts: Gather
    LpNormalization(x, p = 2)               =>  x / max(sqrt(sum x^2), smallest)
    GroupNormalization(x, groups)           =>  InstanceNormalization over the groups, times scale, plus bias
    Concat with tensors of no elements      =>  without them

Needs static shapes; each new tensor gets its shape.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import PLACED
from drpai_qat.core.quantization import SMALLEST_SCALE
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.shape_inference import infer_shapes, is_static
from preprocess.surgery import bypass, producer, value_of
from preprocess.writing import Writer, taken_apart

_PER_CHANNEL_SCALE = 21
"""Opset from which GroupNormalization has a scale for each channel, not for each group."""


def write_served_forms(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace such operators."""
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
    return infer_shapes(graph, log) if changed else graph.cleanup()


def _drop_empty(graph: gs.Graph, node: gs.Node, log: PassLog) -> None:
    """Take tensors without elements out of a Concat; what joins one tensor is bypassed."""
    full = [one for one in node.inputs if one.shape is None or 0 not in list(one.shape)]
    if not full or len(full) == len(node.inputs):
        return
    log.note(node.name, f"{len(node.inputs) - len(full)} tensor(s) without elements are left out")
    node.inputs = full
    if len(full) == 1:
        bypass(graph, node)


def is_trained(tensor: gs.Tensor) -> bool:
    """True for a constant, also behind its fake-quant and behind data movement."""
    while not isinstance(tensor, gs.Constant):
        maker = producer(tensor)
        if maker is None or not maker.inputs or maker.op not in (*PLACED, QUANTIZE, DEQUANTIZE, "Clip"):
            return False
        tensor = maker.inputs[0]
    return True


def _einsum(node: gs.Node, writer: Writer, opset: int) -> bool:
    """A product of two tensors in which each letter is of one kind: batch, row, column or summed."""
    equation = node.attrs["equation"].replace(" ", "")
    if len(node.inputs) != 2:
        return False
    terms, arrow, result = equation.partition("->")
    if not arrow:  # what stands once, in the order of the alphabet
        once = sorted(one for one in set(terms) if one.isalpha() and terms.count(one) == 1)
        result = "".join(["..." if "..." in terms else "", *once])
    letters = _spelled_out([*terms.split(","), result], [node.inputs[0], node.inputs[1], node.outputs[0]])
    if letters is None:
        return False
    (first, second, out), tensors = letters, list(node.inputs)
    if is_trained(tensors[0]) and not is_trained(tensors[1]):
        first, second, tensors = second, first, tensors[::-1]
    sizes = dict(zip(first, tensors[0].shape, strict=True))
    if any(sizes.get(letter, size) != size for letter, size in zip(second, tensors[1].shape, strict=True)):
        return False
    sizes |= dict(zip(second, tensors[1].shape, strict=True))
    if any(len(set(one)) < len(one) for one in (first, second, out)) or not set(out) <= sizes.keys():
        return False
    batch = [one for one in out if one in first and one in second]
    rows, columns = [one for one in out if one not in second], [one for one in out if one not in first]
    summed = [one for one in first if one in second and one not in out]
    if len(batch + rows + summed) < len(first) or len(batch + columns + summed) < len(second) or not summed:
        return False

    def size(names: list[str]) -> int:
        return math.prod(sizes[name] for name in names)

    _, output = taken_apart(node)
    whole_rows = not batch and len(columns) == 1  # rows stay apart: MatMul takes any number of dimensions there
    row_dims = [sizes[one] for one in rows] if whole_rows and rows else [size(rows)]
    batch_dims = [sizes[one] for one in batch]
    left = _arranged(tensors[0], first, batch + rows + summed, [*batch_dims, *row_dims, size(summed)], writer)
    right = _arranged(tensors[1], second, batch + summed + columns, [*batch_dims, size(summed), size(columns)], writer)
    order = batch + rows + columns
    dims = [*batch_dims, *row_dims, size(columns)]
    wanted = [sizes[one] for one in order]
    steps = (dims != wanted) + (order != list(out))
    product = writer.emit("MatMul", [left, right], None if steps else output)
    if dims != wanted:
        last = order == list(out)
        product = writer.emit("Reshape", [product, writer.constant(wanted, np.int64)], output if last else None)
    if order != list(out):
        writer.emit("Transpose", [product], output, perm=[order.index(one) for one in out])
    return True


def _spelled_out(terms: list[str], tensors: list[gs.Tensor]) -> list[str] | None:
    """Terms with letters for the dimensions of "..."; None if their number differs from the tensor's dimensions."""
    found = []
    for term, tensor in zip(terms, tensors, strict=True):
        missing = len(tensor.shape) - len(term.replace("...", ""))
        if missing < 0 or (missing and "..." not in term):
            return None
        found.append(term.replace("...", "0123456789"[10 - missing :] if missing else ""))
    return found


def _arranged(tensor: gs.Tensor, names: str, order: list[str], dims: list[int], writer: Writer) -> gs.Tensor:
    """The tensor with its dimensions in that order, then of that shape."""
    shape = [tensor.shape[names.index(one)] for one in order]
    if order != list(names):
        tensor = writer.emit("Transpose", [tensor], perm=[names.index(one) for one in order])
    if shape != dims:
        tensor = writer.emit("Reshape", [tensor, writer.constant(dims, np.int64)])
    return tensor


def _matmul(node: gs.Node, writer: Writer, opset: int) -> bool:
    """Trained weights on the left of a product: (w x)^T = x^T w^T; a vector of them on the right is one column."""
    left, right = node.inputs
    if is_trained(right) and len(right.shape) == 1 and len(left.shape) > 1:
        shape = list(node.outputs[0].shape)
        _, output = taken_apart(node)
        column = writer.emit("Reshape", [right, writer.constant([-1, 1], np.int64)])
        product = writer.emit("MatMul", [left, column])
        writer.emit("Reshape", [product, writer.constant(shape, np.int64)], output)
        return True
    if not is_trained(left) or is_trained(right) or len(left.shape) != 2 or len(right.shape) < 2:
        return False
    _, output = taken_apart(node)
    rank = len(right.shape)
    swapped = [*range(rank - 2), rank - 1, rank - 2]
    turned = writer.emit("Transpose", [right], perm=swapped)
    product = writer.emit("MatMul", [turned, writer.emit("Transpose", [left], perm=[1, 0])])
    writer.emit("Transpose", [product], output, perm=swapped)
    return True


def _gemm(node: gs.Node, writer: Writer, opset: int) -> bool:
    """The same with a bias: (a b + c)^T = b^T a^T + c^T; c is then one number a column where it was one a row."""
    left, right, *bias = node.inputs
    if not is_trained(left) or is_trained(right):
        return False
    attrs = dict(node.attrs)
    attrs["transA"], attrs["transB"] = 1 - int(attrs.get("transB", 0)), 1 - int(attrs.get("transA", 0))
    _, output = taken_apart(node)
    added = []
    if bias and not bias[0].is_empty():
        c = bias[0]
        rank = len(c.shape)
        if rank == 2:
            c = writer.emit("Transpose", [c], perm=[1, 0])
            if bias[0].shape[1] == 1:
                c = writer.emit("Reshape", [c, writer.constant([bias[0].shape[0]], np.int64)])
        elif rank == 1 and bias[0].shape[0] > 1:
            c = writer.emit("Reshape", [c, writer.constant([-1, 1], np.int64)])
        added = [c]
    writer.emit("Transpose", [writer.emit("Gemm", [right, left, *added], **attrs)], output, perm=[1, 0])
    return True


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


_REWRITES: dict[str, Callable[[gs.Node, Writer, int], bool]] = {
    "Einsum": _einsum,
    "MatMul": _matmul,
    "Gemm": _gemm,
    "ReverseSequence": _reverse_sequence,
    "LpNormalization": _lp_normalization,
    "GroupNormalization": _group_normalization,
}
