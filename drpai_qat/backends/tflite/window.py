"""Windows of convolutions and poolings: TFLite knows SAME and VALID; anything else is padded before."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from drpai_qat.backends.tflite.context import Context
from drpai_qat.backends.tflite.stored import Stored, row_major
from drpai_qat.graph.canonical import Node

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Geometry in two dims; a 1-D operator has one row.

    Attributes:
        pads: top, left, bottom, right.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: tuple[int, int, int, int]


def window_of(node: Node, kernel: tuple[int, ...], in_size: tuple[int, ...], out_size: tuple[int, ...]) -> Window:
    """Geometry from a node's attributes, auto_pad and ceil_mode included."""
    rank = len(kernel)
    strides = tuple(node.attributes.get("strides", [1] * rank))
    dilations = tuple(node.attributes.get("dilations", [1] * rank))
    pads = list(node.attributes.get("pads", [0] * 2 * rank))
    auto = node.attributes.get("auto_pad", "NOTSET")
    for i in range(rank):
        needed = (out_size[i] - 1) * strides[i] + (kernel[i] - 1) * dilations[i] + 1 - in_size[i]
        if auto in ("SAME_UPPER", "SAME_LOWER"):
            total = max(0, needed)
            small, large = total // 2, total - total // 2
            pads[i], pads[rank + i] = (small, large) if auto == "SAME_UPPER" else (large, small)
        elif auto == "VALID":
            pads[i] = pads[rank + i] = 0
        else:  # ceil_mode reads beyond the pads; what they leave over is not read
            pads[rank + i] = max(0, needed - pads[i])
    if rank == 1:
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), (0, pads[0], 0, pads[1]))
    return Window(
        (kernel[0], kernel[1]), (strides[0], strides[1]), (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )  # fmt: skip


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
