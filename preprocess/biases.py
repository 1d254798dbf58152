"""Biases: int32 on the accumulators' grid where training put them there, else float32.

An int32 bias has scale s_x * s_w and no zero point, so that it adds to the accumulators of the layer. A float bias is
rounded to that grid only if it lies on it: rounding half a step of the accumulator moves results across the rounding
boundary of the output, in one of 1000 to 10000 elements a layer.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.core.moving import KEEPS_GRID
from drpai_qat.core.quantization import SMALLEST_SCALE, QuantParams
from preprocess.affine import output_channels
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import Array, Names, channel_axis, make_dequantize, optional_input, params_of, producer
from preprocess.weights import is_dequantized_constant

_ON_GRID = 1e-3
"""A bias within this part of a step is on the grid; float32 rounding of a large bias is allowed on top."""
_LARGEST_PRODUCT = float(np.finfo(np.float32).max) / 2**31
"""Scale of an accumulator's step beyond which int32 leaves float32."""
_FLOAT32_ULPS = 4 * float(np.finfo(np.float32).eps)


def canonical_biases(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Write the bias of every Conv, ConvTranspose and Gemm as int32 behind DequantizeLinear or as float32."""
    names = Names(graph)
    made: list[gs.Node] = []
    for layer in graph.nodes:
        bias = optional_input(layer, 2) if layer.op in ("Conv", "ConvTranspose", "Gemm") else None
        if bias is None:
            continue
        maker = producer(bias)
        if maker is None and not isinstance(bias, gs.Constant):
            continue
        if maker is not None and not is_dequantized_constant(maker):
            continue
        scale = accumulator_scale(layer)
        reals = bias.values if maker is None else params_of(maker).dequantize(maker.inputs[0].values)
        integers = None if scale is None else _on_grid(reals, scale)
        if integers is not None and scale is not None:
            output = gs.Variable(names(f"{layer.name}_bias"), np.dtype(np.float32), [scale.size])
            params = QuantParams.of(scale, 0, np.int32, axis=0)
            made.append(make_dequantize(names, f"{layer.name}_bias", integers, params, output))
            layer.inputs[2] = output
            if maker is not None:
                log.folded(maker, f"int32 bias of {layer.name} on its accumulators' grid")
        elif maker is not None:
            log.folded(maker, f"bias is not on the accumulators' grid of {layer.name}: float32")
            layer.inputs[2] = gs.Constant(names(f"{layer.name}_bias"), reals)
    graph.nodes.extend(made)
    return graph.cleanup().toposort()


def accumulator_scale(layer: gs.Node) -> NDArray[np.float32] | None:
    """s_x * s_w, float32 of shape (channels,); None if the layer has no integer accumulators, or float32 does
    not hold them."""
    weights = producer(layer.inputs[1])
    x = grid_of(layer.inputs[0])
    if weights is None or not is_dequantized_constant(weights) or x is None:
        return None
    w = params_of(weights)
    channels = output_channels(layer)
    if w.axis not in (None, channel_axis(layer)) or w.scale.size not in (1, channels):
        return None
    product = x.scale.astype(np.float64) * w.scale.astype(np.float64)
    if (product < SMALLEST_SCALE).any() or (product > _LARGEST_PRODUCT).any():
        return None
    return np.broadcast_to(product.astype(np.float32).reshape(-1), (channels,))


def grid_of(tensor: gs.Tensor) -> QuantParams | None:
    """Scalar grid that a tensor's reals lie on: that of its DequantizeLinear, through operators that keep it."""
    while (maker := producer(tensor)) is not None:
        if maker.op == DEQUANTIZE:
            params = params_of(maker) if not maker.attrs.get("block_size", 0) else None
            return params if params is not None and params.axis is None else None
        if maker.op not in KEEPS_GRID:
            return None
        tensor = maker.inputs[0]
    return None


def _on_grid(reals: Array, scale: NDArray[np.float32]) -> NDArray[np.int32] | None:
    """Integers of `reals`; None if one lies off the grid or outside int32."""
    if reals.size not in (1, scale.size):
        return None
    steps = np.broadcast_to(reals.reshape(-1), scale.shape).astype(np.float64) / scale
    nearest = np.rint(steps)
    if not np.isfinite(nearest).all() or (np.abs(nearest) > np.iinfo(np.int32).max).any():
        return None
    # Where a whole step is far more than any bias, all of them would be zero.
    near = _ON_GRID * min(1.0, float(np.abs(steps).max(initial=0)))
    if (np.abs(steps - nearest) > near + _FLOAT32_ULPS * np.abs(nearest)).any():
        return None
    return nearest.astype(np.int32)
