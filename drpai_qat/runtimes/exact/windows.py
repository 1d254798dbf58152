"""Operators that slide a window over an image of any rank: convolutions and pooling.

A window's position under one of its elements (a tap) is a strided slice of the padded image. Convolutions copy these
slices into a matrix, some rows of the output at a time, and leave the sums to BLAS.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drpai_qat.runtimes.exact.values import Array, Attributes, NotEvaluatedError

_MATRIX_VALUES = 1 << 22
"""Values of the matrix that convolutions copy the image into, 32 MB: larger layers take several."""


@dataclass(frozen=True)
class Window:
    """How a window moves; one entry per spatial axis.

    Attributes:
        kernel, strides, dilations: as ONNX has them.
        begin, end: padding; `end` includes what ceil_mode adds.
        out: spatial shape of the output.
    """

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    begin: tuple[int, ...]
    end: tuple[int, ...]
    out: tuple[int, ...]

    def padded(self, x: Array, value: float) -> Array:
        """`x` with its spatial axes padded (or cut, where ceil_mode leaves out the last elements)."""
        if not any(self.begin) and not any(self.end):
            return x
        pads = [(0, 0), (0, 0), *zip(self.begin, (max(one, 0) for one in self.end), strict=True)]
        return np.pad(x, pads, constant_values=value)

    def taps(self) -> Iterator[tuple[int, ...]]:
        """Positions within the window, the last axis fastest."""
        return itertools.product(*(range(size) for size in self.kernel))

    def under(self, tap: tuple[int, ...], first: int = 0, rows: int | None = None) -> tuple[slice, ...]:
        """Slices of the padded image's spatial axes that `tap` meets; of output rows first, first + 1, ... if given."""
        rows = self.out[0] if rows is None else rows
        starts = [t * d for t, d in zip(tap, self.dilations, strict=True)]
        starts[0] += first * self.strides[0]
        counts = (rows, *self.out[1:])
        return tuple(
            slice(start, start + (count - 1) * stride + 1, stride)
            for start, count, stride in zip(starts, counts, self.strides, strict=True)
        )


def window_of(shape: Sequence[int], kernel: Sequence[int], attributes: Attributes) -> Window:
    """The window over an image of spatial `shape`."""
    rank = len(kernel)
    strides = tuple(attributes.get("strides") or (1,) * rank)
    dilations = tuple(attributes.get("dilations") or (1,) * rank)
    pads = tuple(attributes.get("pads") or (0,) * (2 * rank))
    begin, end = list(pads[:rank]), list(pads[rank:])
    reach = [(k - 1) * d + 1 for k, d in zip(kernel, dilations, strict=True)]
    auto = attributes.get("auto_pad", "NOTSET") or "NOTSET"
    out = []
    for axis in range(rank):
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max((math.ceil(shape[axis] / strides[axis]) - 1) * strides[axis] + reach[axis] - shape[axis], 0)
            less, more = total // 2, total - total // 2
            begin[axis], end[axis] = (less, more) if auto == "SAME_UPPER" else (more, less)
        elif auto == "VALID":
            begin[axis] = end[axis] = 0
        span = shape[axis] + begin[axis] + end[axis] - reach[axis]
        count = span // strides[axis] + 1
        rest = span % strides[axis]
        inside = count * strides[axis] < shape[axis] + begin[axis]  # a window that starts in the end padding is none
        if attributes.get("ceil_mode", 0) and rest and inside:
            count += 1
            end[axis] += strides[axis] - rest
        out.append(count)
    return Window(tuple(kernel), strides, dilations, tuple(begin), tuple(end), tuple(out))


def conv(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """Conv over any number of spatial axes, grouped or not."""
    x, weights = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    groups = attributes.get("group", 1)
    window = window_of(x.shape[2:], weights.shape[2:], attributes)
    padded = window.padded(x, 0.0)
    channels = weights.shape[0]
    result = np.empty((x.shape[0], channels, *window.out))
    depthwise = weights.shape[1] == 1 and groups > 1
    for image, output in zip(padded, result, strict=True):
        if depthwise:
            _depthwise(image, weights, window, output)
        else:
            inside, outside = weights.shape[1], channels // groups
            for group in range(groups):
                part = slice(group * outside, (group + 1) * outside)
                _products(image[group * inside : (group + 1) * inside], weights[part], window, output[part])
    if bias is not None:
        result += bias.reshape(-1, *(1,) * len(window.out))
    return (result,)


def _products(image: Array, weights: Array, window: Window, output: Array) -> None:
    """One image's sums over all input channels and taps, as matrix products of some rows at a time."""
    channels = image.shape[0]
    matrix = weights.reshape(weights.shape[0], -1)
    taps = math.prod(window.kernel)
    row = math.prod(window.out[1:])
    if output.size == 0:
        return
    if taps == 1 and not any(step > 1 for step in window.strides):
        np.matmul(matrix, image.reshape(channels, -1), out=output.reshape(len(matrix), -1))
        return
    rows = max(1, _MATRIX_VALUES // max(channels * taps * row, 1))
    for first in range(0, window.out[0], rows):
        count = min(rows, window.out[0] - first)
        columns = np.empty((channels, taps, count, *window.out[1:]))
        for index, tap in enumerate(window.taps()):
            columns[:, index] = image[(slice(None), *window.under(tap, first, count))]
        product = matrix @ columns.reshape(channels * taps, count * row)
        output[:, first : first + count] = product.reshape(len(matrix), count, *window.out[1:])


def _depthwise(image: Array, weights: Array, window: Window, output: Array) -> None:
    """One image's sums where each output channel reads one input channel."""
    output[...] = 0
    multiplier = weights.shape[0] // image.shape[0]
    if multiplier > 1:
        image = np.repeat(image, multiplier, axis=0)
    by_tap = weights.reshape(len(weights), -1, *(1,) * len(window.out))
    for index, tap in enumerate(window.taps()):
        output += by_tap[:, index] * image[(slice(None), *window.under(tap))]


def conv_transpose(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """ConvTranspose: every input pixel adds its window to the output."""
    x, weights = inputs[0], inputs[1]
    bias = inputs[2] if len(inputs) > 2 else None
    groups = attributes.get("group", 1)
    rank = x.ndim - 2
    kernel = weights.shape[2:]
    strides = tuple(attributes.get("strides") or (1,) * rank)
    dilations = tuple(attributes.get("dilations") or (1,) * rank)
    extra = tuple(attributes.get("output_padding") or (0,) * rank)
    full = [(x.shape[2 + a] - 1) * strides[a] + (kernel[a] - 1) * dilations[a] + 1 + extra[a] for a in range(rank)]
    begin, end = _transposed_pads(x.shape[2:], full, strides, attributes)
    reach = Window(kernel, strides, dilations, (0,) * rank, (0,) * rank, tuple(x.shape[2:]))
    inside, outside = x.shape[1] // groups, weights.shape[1]
    result = np.zeros((x.shape[0], groups * outside, *full))
    for image, output in zip(x, result, strict=True):
        for group in range(groups):
            columns = image[group * inside : (group + 1) * inside].reshape(inside, -1)
            matrix = weights[group * inside : (group + 1) * inside].reshape(inside, outside, *kernel)
            target = output[group * outside : (group + 1) * outside]
            for tap in reach.taps():
                spread = matrix[(slice(None), slice(None), *tap)].T @ columns
                target[(slice(None), *reach.under(tap))] += spread.reshape(outside, *x.shape[2:])
    cut = tuple(slice(b, size - e) for b, e, size in zip(begin, end, full, strict=True))
    result = result[(slice(None), slice(None), *cut)]
    if bias is not None:
        result = result + bias.reshape(-1, *(1,) * rank)
    return (result,)


def _transposed_pads(
    shape: Sequence[int], full: Sequence[int], strides: Sequence[int], attributes: Attributes
) -> tuple[list[int], list[int]]:
    """What is cut from both ends of each axis of the full output."""
    rank = len(shape)
    pads = list(attributes.get("pads") or (0,) * (2 * rank))
    auto = attributes.get("auto_pad", "NOTSET") or "NOTSET"
    wanted = attributes.get("output_shape")
    if not wanted and auto.startswith("SAME"):
        wanted = [size * stride for size, stride in zip(shape, strides, strict=True)]
    if not wanted:
        return (pads[:rank], pads[rank:]) if auto == "NOTSET" else ([0] * rank, [0] * rank)
    totals = [size - want for size, want in zip(full, wanted[-rank:], strict=True)]
    if min(totals) < 0:
        raise NotEvaluatedError("ConvTranspose with an output_shape beyond what its windows reach")
    less, more = [total // 2 for total in totals], [total - total // 2 for total in totals]
    return (less, more) if auto == "SAME_UPPER" else (more, less)


def max_pool(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """MaxPool without indices."""
    x = inputs[0]
    window = window_of(x.shape[2:], attributes["kernel_shape"], attributes)
    lowest = -np.inf if x.dtype.kind == "f" else np.iinfo(x.dtype).min
    padded = window.padded(x, lowest)
    result: Array | None = None
    for tap in window.taps():
        part = padded[(slice(None), slice(None), *window.under(tap))]
        result = part.copy() if result is None else np.maximum(result, part, out=result)
    assert result is not None
    return (result,)


def average_pool(inputs: Sequence[Any], attributes: Attributes) -> tuple[Array]:
    """AveragePool: sums over the window, by the number of elements that count."""
    x = inputs[0]
    window = window_of(x.shape[2:], attributes["kernel_shape"], attributes)
    explicit = window_of(x.shape[2:], attributes["kernel_shape"], {**attributes, "ceil_mode": 0})
    counted = np.ones((1, 1, *x.shape[2:]))
    if attributes.get("count_include_pad", 0):  # padding counts, what ceil_mode adds behind it does not
        counted = explicit.padded(counted, 1.0)
        beyond = [(0, max(w - e, 0)) for w, e in zip(window.end, explicit.end, strict=True)]
        counted = np.pad(counted, [(0, 0), (0, 0), *beyond])
    else:
        counted = window.padded(counted, 0.0)
    padded = window.padded(x, 0.0)
    total = np.zeros((*x.shape[:2], *window.out))
    count = np.zeros((1, 1, *window.out))
    for tap in window.taps():
        under = (slice(None), slice(None), *window.under(tap))
        total += padded[under]
        count += counted[under]
    return (total / count,)
