"""Windows of convolutions and poolings: TFLite knows SAME and VALID; anything else is padded before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from drpai_qat.backends.tflite.context import Context
from drpai_qat.backends.tflite.stored import Stored, row_major
from drpai_qat.graph.canonical import Node
from drpai_qat.graph.window import Window, window_of

Pair = tuple[int, int]


def window_read(node: Node, kernel: tuple[int, ...], in_size: tuple[int, ...], out_size: tuple[int, ...]) -> Window:
    """Geometry from a node's attributes, with the pads that are read: rounding a size up reads beyond those given."""
    window = window_of(node, kernel)
    sizes = [(1, *size) if len(size) == 1 else size for size in (in_size, out_size)]

    def end(axis: int) -> int:
        reach = (sizes[1][axis] - 1) * window.stride[axis] + (window.kernel[axis] - 1) * window.dilation[axis] + 1
        return max(0, reach - sizes[0][axis] - window.pads[axis])

    return replace(window, pads=(*window.pads[:2], end(0), end(1)))


def padding_of(window: Window, in_size: Pair, out_size: Pair) -> str:
    """SAME or VALID where one of them is these pads, else EXPLICIT."""
    if not any(window.pads):
        return "VALID"
    for i in range(2):
        stride, reach = window.stride[i], (window.kernel[i] - 1) * window.dilation[i] + 1
        size = -(-in_size[i] // stride)
        total = max(0, (size - 1) * stride + reach - in_size[i])
        if size != out_size[i] or (window.pads[i], window.pads[2 + i]) != (total // 2, total - total // 2):
            return "EXPLICIT"
    return "SAME"


def image(context: Context, stored: Stored) -> Stored:
    """A tensor of channels last as (N, H, W, C), row-major; 1-D ones get one row."""
    if len(stored.shape) == 4:
        return Stored(stored.tensor, stored.physical, row_major(4), stored.grid)
    batch, width, channels = stored.physical
    return context.reshaped(
        Stored(stored.tensor, stored.physical, row_major(3), stored.grid), (batch, 1, width, channels)
    )


def padded(context: Context, data: Stored, pads: tuple[int, int, int, int], fill: float | None = None) -> Stored:
    """An image (N, H, W, C) with pixels around it: of real 0, or of an integer (a real in float32)."""
    top, left, bottom, right = pads
    batch, height, width, channels = data.shape
    shape = (batch, height + top + bottom, width + left + right, channels)
    name = context.file.tensors[data.tensor].name
    made = context.new(f"{name}:padded", shape, row_major(4), data.grid)
    amounts = context.ints([[0, 0], [top, bottom], [left, right], [0, 0]])
    if fill is None:
        context.emit("PAD", [data.tensor, amounts], [made.tensor], "PadOptions")
    else:
        dtype = "float32" if data.grid is None else data.grid.dtype
        value = context.file.constant(f"{name}:fill", np.asarray([fill], dtype), data.grid)
        context.emit("PADV2", [data.tensor, amounts, value], [made.tensor], "PadV2Options")
    return replace(made, grid=data.grid)
