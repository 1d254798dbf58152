"""The constant weights of a layer, as whoever multiplies by them reads them, and whether integers can hold the sums."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import Graph, Node, Weight
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.ranges import MATRIX

AnyWeights = npt.NDArray[Any]  # integers or reals, in the same order

INT32_MAX = 2**31 - 1
NO_RANGE = "its input has no trained range"
NO_OPERAND_RANGE = "an operand has no trained range"
NO_WEIGHT_GRID = "its weights were not quantized in training"
OTHER_AXIS = "its weights were trained with scales along another axis than its output channels"
LEAVES_INT32 = "its accumulators could leave int32"


@dataclass(frozen=True)
class IntegerWeights:
    """Weights with their zero point taken off.

    Attributes:
        values: int64, shape (out_channels, rows, columns, channels of one group).
        scale: float64, shape (out_channels,).
    """

    values: npt.NDArray[np.int64]
    scale: npt.NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class LayerWeights:
    """Constant weights as a layer's kernel takes them: out_channels, rows, columns, channels of one group.

    Attributes:
        integers: None where the weights have no grid per output channel.
        trained: they were trained on a grid, if only along another axis.
        real: makes their float32 form, which float layers alone read.
    """

    integers: IntegerWeights | None
    trained: bool
    real: Callable[[], npt.NDArray[np.float32]]

    @classmethod
    def of(cls, weight: Weight, arranged: tuple[int, ...], out_axis: int) -> LayerWeights:
        """A weight transposed to (out, [rows,] columns, in).

        Args:
            arranged: permutation of the ONNX axes.
            out_axis: ONNX axis of the output channels.
        """
        integers = _integer_weights(weight, arranged, out_axis)
        return cls(integers, weight.params is not None, lambda: weight.real.transpose(arranged))

    def rearranged(self, how: Callable[[AnyWeights], AnyWeights]) -> LayerWeights:
        """The weights moved to other places, or some of them; output channels keep their order."""
        integers = self.integers and replace(self.integers, values=how(self.integers.values))
        return LayerWeights(integers, self.trained, lambda: how(self.real()))

    def scaled(self, factor: float) -> LayerWeights:
        """The weights times a number."""
        if factor == 1.0:
            return self
        integers = self.integers and replace(self.integers, scale=self.integers.scale * factor)
        return LayerWeights(integers, self.trained, lambda: self.real() * np.float32(factor))

    def of_channels(self, start: int, count: int) -> LayerWeights:
        """Those of some input channels."""
        return self.rearranged(lambda values: values[..., start : start + count])


def _integer_weights(weight: Weight, arranged: tuple[int, ...], out_axis: int) -> IntegerWeights | None:
    if weight.integers is None or weight.params is None:
        return None
    params = weight.params
    if params.axis is not None and params.axis != out_axis:
        return None
    shape = [1] * weight.integers.ndim
    if params.axis is not None:
        shape[params.axis] = -1
    centred = weight.integers.astype(np.int64) - params.zero_point.reshape(shape)
    channels = weight.integers.shape[out_axis]
    scale = np.broadcast_to(params.scale.astype(np.float64).reshape(-1), (channels,))
    return IntegerWeights(centred.transpose(arranged), scale)


def convolution_weights(weight: Weight) -> LayerWeights:
    """The weights of a Conv; a 1-D one has one row."""
    if len(weight.shape) == 4:
        return LayerWeights.of(weight, (0, 2, 3, 1), 0)
    return LayerWeights.of(weight, (0, 2, 1), 0).rearranged(lambda values: values[:, None])


def matrix_weights(graph: Graph, node: Node) -> LayerWeights | None:
    """The constant second operand of a Gemm or MatMul, as 1x1 kernels; None where there is none."""
    matrix = graph.weight(node.inputs[1])
    if matrix is None:
        return None
    if node.op == "Gemm":
        alpha, transposed = float(node.attributes.get("alpha", 1.0)), bool(node.attributes.get("transB", 0))
    else:
        alpha, transposed = 1.0, False
        second = graph.shapes[node.inputs[1]]
        if math.prod(second[:-2]) != 1 or len(second) > len(graph.shapes[node.inputs[0]]):
            return None
        matrix = _two_dimensional(matrix) if len(second) > 2 else matrix
        if matrix is None:
            return None
    weights = LayerWeights.of(matrix, (0, 1) if transposed else (1, 0), 0 if transposed else 1)
    return weights.scaled(alpha).rearranged(_as_kernels)


def _two_dimensional(weight: Weight) -> Weight | None:
    """A weight (1, ..., 1, K, N) as (K, N)."""
    drop = len(weight.shape) - 2
    params = weight.params
    if params is not None and params.axis is not None:
        if params.axis < drop:
            return None
        params = replace(params, axis=params.axis - drop)
    return Weight(weight.values.reshape(weight.shape[-2:]), params)


def _as_kernels(matrix: AnyWeights) -> AnyWeights:
    """A matrix (out_channels, channels) as 1x1 kernels."""
    return matrix[:, None, None]


def why_float(grid: Grid | None, weights: IntegerWeights | None, trained: bool) -> str:
    """Why a layer can't multiply in integers; empty where it can.

    Args:
        grid: on which its input lies; None for float32.
        weights: None where they have no grid per output channel.
        trained: they were trained on a grid, if only along another axis.
    """
    if weights is None:
        return OTHER_AXIS if trained else NO_WEIGHT_GRID
    if grid is None:
        return NO_RANGE
    return "" if fits_int32(weights.values, grid) else LEAVES_INT32


def products_fit(first: Grid, second: Grid, reduced: int) -> bool:
    """Products of two activations, widened to int16, add up within int32."""
    largest = 1
    for grid in (first, second):
        ends = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))
        if ends > 32767:
            return False
        largest *= ends
    return largest * reduced < INT32_MAX


def fits_int32(values: npt.NDArray[np.int64], grid: Grid) -> bool:
    """No accumulator leaves int32, with a fifth left for the bias; values of shape (out_channels, ...)."""
    largest = max(abs(grid.qmin - grid.zero_point), abs(grid.qmax - grid.zero_point))
    total = int(np.abs(values).reshape(len(values), -1).sum(1).max(initial=0))
    return total * largest < INT32_MAX // 5 * 4 and largest <= 65535


def macs(graph: Graph, node: Node) -> int:
    """Multiply-accumulates of a convolution, matrix product or Einsum of two tensors; 0 for other operators."""
    if node.op == "Einsum" and len(node.inputs) == 2:
        return _einsum_macs(graph, node)
    if node.op not in MATRIX:
        return 0
    out, first = graph.shapes[node.output], graph.shapes[node.inputs[0]]
    if node.op in ("Gemm", "MatMul"):
        reduced = first[-1] if not node.attributes.get("transA", 0) else first[0]
        return math.prod(out) * reduced
    weight = graph.shapes[node.inputs[1]]
    return math.prod(out if node.op == "Conv" else first) * math.prod(weight[1:])


def _einsum_macs(graph: Graph, node: Node) -> int:
    """One for each choice of all letters; dimensions without a letter are counted from the end."""
    terms = node.attributes["equation"].replace(" ", "").partition("->")[0].split(",")
    sizes: dict[object, int] = {}
    for term, name in zip(terms, node.inputs, strict=True):
        before, dots, after = term.partition("...")
        shape = graph.shapes[name]
        unnamed = range(len(shape) - len(before) - len(after) if dots else 0, 0, -1)
        for letter, size in zip([*before, *unnamed, *after], shape, strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
    return math.prod(sizes.values())


def no_kernel(op: str) -> str:
    """Why a node that is left to TVM's importer is not computed in integers."""
    return f"{op} has no integer kernel" + (" for these operands" if op in MATRIX else "")
