"""The form in which a producer writes its output, so that the convolutions behind read it as it is.

Padding is written around the image, and 8-bit values whose products need int16 operands are written as int16: both
would otherwise take a copy of the tensor.
"""

from __future__ import annotations

from dataclasses import dataclass

from drpai_qat.graph.canonical import Node
from drpai_qat.graph.grid import Grid
from drpai_qat.lowering.arithmetic import convolution_weights, fitting_grid, runs_depthwise
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.parts import Part
from drpai_qat.lowering.planning import planned_convolution
from drpai_qat.lowering.storage import Stored, channels_last
from drpai_qat.lowering.window import convolution_shape, image_dims, window_of


@dataclass(frozen=True)
class Form:
    """How a tensor is stored.

    Attributes:
        pads: pixels of its zero point around each image: top, left, bottom, right.
        grid: its grid, perhaps as int16 without a zero point.
    """

    pads: tuple[int, int, int, int]
    grid: Grid


def wanted_form(context: Context, name: str) -> Form | None:
    """The form that all readers of a tensor share; None where they do not, or one reads anything but plain images."""
    grid = context.target_grid(name)
    if grid is None or name in context.graph.outputs or len(context.shape(name)) not in (3, 4):
        return None
    wanted = {_form_for(context, reader, name, grid) for reader in context.consumers.get(name, [])}
    return wanted.pop() if len(wanted) == 1 else None


def _form_for(context: Context, node: Node, name: str, grid: Grid) -> Form | None:
    """The form that a convolution multiplies."""
    if node.op != "Conv" or node.inputs[0] != name or name in node.inputs[1:]:
        return None
    weight = context.graph.weight(node.inputs[1])
    has_bias = len(node.inputs) > 2 and node.inputs[2]
    if weight is None or (has_bias and context.graph.weight(node.inputs[2]) is None):
        return None
    shape, groups = context.shape(name), int(node.attributes.get("group", 1))
    integers, real = convolution_weights(weight)
    stored = Stored(0, shape, channels_last(len(shape)), grid.dtype, grid)
    out_shape = context.shape(node.output)
    window = window_of(node, weight.shape[2:], shape[2:], out_shape[2:])
    sizes = convolution_shape(node, window, shape, out_shape)
    if sizes.suits_rows:
        return None  # it reads a copy of its own
    part = Part(name, 0, real.shape[-1])
    product = planned_convolution(context, node, part, stored, integers, real, sizes).product
    channels = image_dims(shape)[3]
    packed = channels // groups % product.pack == 0 or runs_depthwise(product, groups, channels, len(real))
    if not packed or fitting_grid(integers, grid) is not None:
        return None
    if product.in_dtype == "int16":
        grid = grid.centred()
    if product.in_dtype != grid.dtype:
        return None
    return Form(window.pads, grid)
