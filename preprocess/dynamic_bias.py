"""Biases that are brought to the scale of a layer's sums while the network runs.

onnxruntime's quantize_dynamic up to version 1.4 adds them to the integers (producer "onnx.quantize"):

    bq = Cast(Floor(b / (xs * ws)))                 int32, perhaps reshaped
    y = Cast(ConvInteger(xq, wq, xz, wz) + bq) * (xs * ws)   ~   Conv(x, DQ(wq, ws, wz)) + b

Floor takes half a step of the sums off b on average; with a range that stays, b has an int32 grid of that same step.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import VIEWS
from preprocess.surgery import Array, produced_by, producer, sole_consumer, value_of

_ROUNDINGS = ("Floor", "Round", "Ceil")


def factors(tensor: gs.Tensor) -> Iterator[gs.Tensor]:
    """The tensors that one is the product of; a scale may have been given another shape."""
    maker = producer(tensor)
    if maker is not None and maker.op == "Mul":
        for one in maker.inputs:
            yield from factors(one)
    elif maker is not None and maker.op in VIEWS:
        yield from factors(maker.inputs[0])
    else:
        yield tensor


def behind_bias(graph: gs.Graph, sums: gs.Tensor) -> tuple[gs.Tensor, Array | None, list[gs.Tensor]]:
    """What leaves the Add of such a bias to a layer's sums, the bias in reals, and the factors of its scale.

    Returns: `sums` itself, None and no factors where there is none.
    """
    adding = sole_consumer(graph, sums)
    if adding is None or adding.op != "Add" or len(adding.inputs) != 2 or adding.inputs[0] is adding.inputs[1]:
        return sums, None, []
    steps = next(one for one in adding.inputs if one is not sums)
    reshape, shape = produced_by(steps, "Reshape"), None
    if reshape is not None:
        steps, shape = reshape.inputs[0], value_of(reshape.inputs[1])
    cast = produced_by(steps, "Cast")
    rounding = None if cast is None else produced_by(cast.inputs[0], *_ROUNDINGS)
    division = None if rounding is None else produced_by(rounding.inputs[0], "Div")
    bias = None if division is None else value_of(division.inputs[0])
    if cast is None or division is None or bias is None or cast.attrs.get("to") != onnx.TensorProto.INT32:
        return sums, None, []
    if reshape is not None:
        if shape is None or not np.all(shape) or np.count_nonzero(shape < 0) > 1 or bias.size % abs(np.prod(shape)):
            return sums, None, []
        bias = bias.reshape(shape)
    return adding.outputs[0], bias, list(factors(division.inputs[1]))
