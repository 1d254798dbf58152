"""Windows of convolutions and poolings, from their attributes."""

from __future__ import annotations

from dataclasses import dataclass

from drpai_qat.graph.canonical import Node

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
