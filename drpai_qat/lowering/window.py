"""Geometry of convolutions and poolings."""

from __future__ import annotations

from dataclasses import dataclass

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels.conv_shape import ConvShape

Pair = tuple[int, int]


@dataclass(frozen=True)
class Window:
    """Kernel geometry in two dims; a 1-D operator has one row.

    Attributes:
        pads: top, left, bottom, right.
    """

    kernel: Pair
    stride: Pair
    dilation: Pair
    pads: tuple[int, int, int, int]


def window_of(node: Node, kernel: tuple[int, ...]) -> Window:
    """Geometry from a node's attributes; in a canonical graph there is no auto_pad."""
    rank = len(kernel)
    strides = tuple(node.attributes.get("strides", [1] * rank))
    dilations = tuple(node.attributes.get("dilations", [1] * rank))
    pads = tuple(node.attributes.get("pads", [0] * 2 * rank))
    if rank == 1:
        return Window((1, kernel[0]), (1, strides[0]), (1, dilations[0]), (0, pads[0], 0, pads[1]))
    return Window(
        (kernel[0], kernel[1]),
        (strides[0], strides[1]),
        (dilations[0], dilations[1]),
        (pads[0], pads[1], pads[2], pads[3]),
    )


def image_dims(shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(N, H, W, C) of an ONNX shape (N, C, W) or (N, C, H, W)."""
    if len(shape) == 3:
        return shape[0], 1, shape[2], shape[1]
    return shape[0], shape[2], shape[3], shape[1]


def convolution_shape(node: Node, window: Window, in_shape: tuple[int, ...], out_shape: tuple[int, ...]) -> ConvShape:
    """Sizes of a Conv over its padded input, whose shapes are ONNX's."""
    batch, height, width, channels = image_dims(in_shape)
    _, out_height, out_width, out_channels = image_dims(out_shape)
    top, left, bottom, right = window.pads
    groups = int(node.attributes.get("group", 1))
    return ConvShape(
        batch=batch,
        height=height + top + bottom,
        width=width + left + right,
        channels=channels // groups,
        out_height=out_height,
        out_width=out_width,
        out_channels=out_channels,
        kernel=window.kernel,
        stride=window.stride,
        dilation=window.dilation,
        groups=groups,
    )
