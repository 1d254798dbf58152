"""The arithmetic of a convolution, planned once for the two that ask: what writes its input, and the convolution."""

from __future__ import annotations

import numpy as np

from drpai_qat.graph.canonical import Node
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.lowering.arithmetic import IntegerWeights, Layer, plan_layer
from drpai_qat.lowering.context import Context
from drpai_qat.lowering.parts import Part
from drpai_qat.lowering.storage import Stored


def planned_convolution(
    context: Context,
    node: Node,
    part: Part,
    data: Stored,
    weights: IntegerWeights | None,
    real: np.ndarray,
    shape: ConvShape | None,
) -> Layer:
    """`plan_layer` for the part of a Conv's input that `data` holds.

    Args:
        weights, real: those of the part's channels.
        shape: sizes, where the convolution reads nothing but this part.
    """
    key = (node.output, part, data.grid, shape)
    if key not in context.layers:
        weight = context.graph.weight(node.inputs[1])
        trained = weight is not None and weight.integers is not None
        groups = int(node.attributes.get("group", 1))
        context.layers[key] = plan_layer(data, weights, real, context.isa, trained, shape, groups)
    return context.layers[key]
