"""What to do about a layer that is not in integers: which line of the table fits it."""

from __future__ import annotations

from collections.abc import Sequence

from drpai_qat.core.moving import MOVING
from drpai_qat.graph.remedies import (
    ATTENTION,
    EDGE,
    FUNCTION,
    INPUT,
    KERNEL,
    RANGE,
    RESULT,
    Remedy,
    of_maker,
    of_reason,
)
from drpai_qat.report.layers import Layer

_SPECIAL = {"Function": FUNCTION, "Softmax": ATTENTION}
_ROUNDINGS = ("Quantize", "Dequantize", "QuantizeLinear", "DequantizeLinear")
_LIMITS = frozenset(("Relu", "Clip", "Min", "Max"))
_FUNCTIONS = frozenset(
    ("Sigmoid", "HardSigmoid", "HardSwish", "Tanh", "Erf", "Gelu", "Softplus", "Mish", "Elu", "Swish")
)


def remedy(layer: Layer, layers: Sequence[Layer]) -> Remedy:
    """What to do about a layer that is not in integers.

    Args:
        layers: all of the network.
    """
    makers = [_maker(one, layers) for one in layer.inputs]
    found = of_reason(layer.reason) if layer.reason else _without_reason(layer, makers)
    if found is EDGE and layer.op not in _ROUNDINGS and None in makers:
        return INPUT
    if found is not RANGE:
        return found
    if None in makers:
        return INPUT
    if layer.op == "MatMul" and len(makers) > 1:
        return ATTENTION
    ops = [_last(one) for one in makers if one is not None and one.grid is None]
    remedies = (_SPECIAL.get(op) or of_maker(op) for op in ops if op)
    return next((one for one in remedies if one is not RANGE), RANGE)


def _without_reason(layer: Layer, makers: Sequence[Layer | None]) -> Remedy:
    """Of a layer whose backend gives none."""
    if layer.op in _ROUNDINGS:
        return EDGE
    if layer.compute == "tvm":
        return KERNEL
    return RESULT if any(one is not None and one.grid is not None for one in makers) else RANGE


def _maker(index: int, layers: Sequence[Layer]) -> Layer | None:
    """The layer that computes what another reads, in front of those that only move it; None: a network input."""
    while index >= 0:
        layer = layers[index]
        if layer.op not in MOVING or layer.op == "Concat" or layer.grid is not None:
            return layer
        index = layer.inputs[0] if layer.inputs else -1
    return None


def _last(layer: Layer) -> str:
    """What computes a layer's result, but for the ReLU behind it; "Function" for one written with several operators."""
    ops = [op for op in (layer.op, *layer.fused) if op not in _LIMITS]
    if ops and (ops[-1] in _FUNCTIONS or (ops[-1] == "Mul" and _FUNCTIONS & set(ops))):
        return "Function"
    return ops[-1] if ops else ""
