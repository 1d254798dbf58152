"""Sizes of convolutions and poolings."""

from __future__ import annotations

from drpai_qat.graph.canonical import Node
from drpai_qat.graph.window import Window
from drpai_qat.kernels.conv_shape import ConvShape


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
