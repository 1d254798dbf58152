"""Products of two tensors, written as those that kernels compute in integers: activations by a matrix of weights.

    Einsum("bld,od->blo", x, w)              =>  MatMul(x, Transpose(w)), with views around it where letters need them
    Einsum("bld,dk,ko->blo", x, v, w)        =>  Einsum("blk,ko->blo", Einsum("bld,dk->blk", x, v), w)
    MatMul(w, x), Gemm(w, x), w trained      =>  Transpose(MatMul(Transpose(x), Transpose(w)))
    MatMul(x, w), one of them a vector       =>  Reshape(MatMul(x, w)) with it as a row or column
    MatMul(x, w), one x, many matrices w     =>  MatMul(x, the matrices side by side)
    MatMul(x, w), as many x as matrices w    =>  Conv over a line of rows, a group for each:
                                                 y[n, g * N + j, m] = sum over k of x[g, m, k] * w[g, k, j]
    Gemm(x, y, c), y or c no parameters      =>  alpha * MatMul(x, y) + beta * c

Weights are trained constants; their scales follow them as through any movement.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import PLACED
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.surgery import optional_input, producer
from preprocess.writing import Writer, taken_apart


def is_trained(tensor: gs.Tensor) -> bool:
    """True for a constant, also behind its fake-quant and behind data movement."""
    while not isinstance(tensor, gs.Constant):
        maker = producer(tensor)
        if maker is None or not maker.inputs or maker.op not in (*PLACED, QUANTIZE, DEQUANTIZE, "Clip"):
            return False
        tensor = maker.inputs[0]
    return True


def einsum(node: gs.Node, writer: Writer, opset: int) -> bool:
    """A product of two tensors in which each letter is a batch, a row, a column or summed; more, pair by pair."""
    equation = node.attrs["equation"].replace(" ", "")
    if len(node.inputs) > 2:
        return _by_pairs(node, equation, writer)
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


def _by_pairs(node: gs.Node, equation: str, writer: Writer) -> bool:
    """The first two tensors, with the letters that others or the result need; then the rest likewise."""
    terms, arrow, result = equation.partition("->")
    first, second, *others = terms.split(",")
    if not arrow or "..." in equation:
        return False
    needed = set(result).union(*others)
    between = "".join(one for one in dict.fromkeys(first + second) if one in needed)
    (x, y, *rest), output = taken_apart(node)
    pair = writer.emit("Einsum", [x, y], equation=f"{first},{second}->{between}")
    writer.emit("Einsum", [pair, *rest], output, equation=f"{','.join([between, *others])}->{result}")
    return True


def matmul(node: gs.Node, writer: Writer, opset: int) -> bool:
    """Products with a vector, with weights on the left, or with several matrices of weights."""
    left, right = node.inputs
    if is_trained(left) == is_trained(right) or 0 in [*left.shape, *right.shape]:
        return False
    if len(left.shape) == 1 or len(right.shape) == 1:
        return _vector(node, writer)
    if is_trained(right):
        return math.prod(right.shape[:-2]) > 1 and _many_matrices(node, writer)
    _, output = taken_apart(node)
    product = writer.emit("MatMul", [_turned(right, writer), _turned(left, writer)])
    _turned(product, writer, output, rank=max(len(left.shape), len(right.shape)))
    return True


def _turned(tensor: gs.Tensor, writer: Writer, output: gs.Tensor | None = None, rank: int = 0) -> gs.Tensor:
    """The tensor with its last two axes exchanged."""
    rank = rank or len(tensor.shape)
    return writer.emit("Transpose", [tensor], output, perm=[*range(rank - 2), rank - 1, rank - 2])


def _reshaped(tensor: gs.Tensor, shape: list[int], writer: Writer, output: gs.Tensor | None = None) -> gs.Tensor:
    return writer.emit("Reshape", [tensor, writer.constant(shape, np.int64)], output)


def _vector(node: gs.Node, writer: Writer) -> bool:
    """A vector on the left is a row, on the right a column."""
    left, right = node.inputs
    shape = list(node.outputs[0].shape)
    _, output = taken_apart(node)
    row = _reshaped(left, [1, -1], writer) if len(left.shape) == 1 else left
    column = _reshaped(right, [-1, 1], writer) if len(right.shape) == 1 else right
    _reshaped(writer.emit("MatMul", [row, column]), shape, writer, output)
    return True


def _many_matrices(node: gs.Node, writer: Writer) -> bool:
    """Side by side where all meet the same rows; where each has rows of its own, a group of a convolution each."""
    data, weights = node.inputs
    shape, batch = list(node.outputs[0].shape), list(weights.shape[:-2])
    (rows, summed), columns, count = data.shape[-2:], weights.shape[-1], math.prod(batch)
    same = math.prod(data.shape[:-2]) == 1 and shape[:-2] == batch
    if not same and list(data.shape[:-2]) != batch:
        return False
    _, output = taken_apart(node)
    matrices = _reshaped(_turned(weights, writer), [count * columns, summed, *([] if same else [1])], writer)
    if same:
        flat = _reshaped(data, [rows, summed], writer)
        wide = writer.emit("MatMul", [flat, _turned(matrices, writer, rank=2)])
        apart = _reshaped(wide, [rows, *batch, columns], writer)
        writer.emit("Transpose", [apart], output, perm=[*range(1, len(batch) + 1), 0, len(batch) + 1])
        return True
    line = _reshaped(_turned(data, writer), [1, count * summed, rows], writer)
    made = writer.emit("Conv", [line, matrices], group=count, kernel_shape=[1])
    _turned(_reshaped(made, [*batch, columns, rows], writer), writer, output, rank=len(shape))
    return True


def gemm(node: gs.Node, writer: Writer, opset: int) -> bool:
    """Weights on the left; factors and summands that are not the parameters of a layer."""
    left, right = node.inputs[:2]
    summand = optional_input(node, 2)
    columns = node.outputs[0].shape[-1]
    plain = summand is None or (
        is_trained(summand)
        and math.prod(summand.shape) in (1, columns)
        and (math.prod(summand.shape) == 1 or summand.shape[-1] == columns)
    )
    if is_trained(left) and not is_trained(right):
        return _weights_on_the_left(node, writer)
    if is_trained(right) and plain:
        return False
    alpha, beta = float(node.attrs.get("alpha", 1.0)), float(node.attrs.get("beta", 1.0))
    if summand is None and alpha == 1.0:
        return False
    attrs = {name: value for name, value in node.attrs.items() if name in ("transA", "transB")}
    _, output = taken_apart(node)
    last = output if summand is None else None
    if is_trained(right):
        total = writer.emit("Gemm", [left, right], last, alpha=alpha, **attrs)
    else:
        total = writer.emit("Gemm", [left, right], None if alpha != 1.0 else last, **attrs)
        if alpha != 1.0:
            total = writer.emit("Mul", [total, writer.constant(alpha)], last)
    if summand is not None:
        scaled = summand if beta == 1.0 else writer.emit("Mul", [summand, writer.constant(beta)])
        writer.emit("Add", [total, scaled], output)
    return True


def _weights_on_the_left(node: gs.Node, writer: Writer) -> bool:
    """(a b + c)^T = b^T a^T + c^T; c is then one number a column where it was one a row."""
    left, right, *bias = node.inputs
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
