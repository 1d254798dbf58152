"""Grids put into a graph: Q/DQ on activations, int8 weights, int32 biases.

x  =>  QuantizeLinear -> DequantizeLinear for all who read it; an output of the network keeps its float value
W  =>  int8 initializer -> DequantizeLinear, symmetric, one scale for each output channel:  s_c = max |W_c| / 127
b  =>  int32 initializer -> DequantizeLinear of scale s_x * s_w, where the layer's input lies on one grid
"""

from __future__ import annotations

from collections.abc import Container, Mapping
from types import MappingProxyType

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration.placement import LAYERS, RECURRENT, Site
from drpai_qat.core.quantization import QuantParams
from preprocess.biases import accumulator_scale
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.recover_weights import exact_grid
from preprocess.surgery import Names, channel_axis, make_dequantize, optional_input, params_of, producer, readers

_MOST_STEPS = 2.0**30
"""A bias of more accumulator steps than this would leave no room for the products: its channel gets larger steps."""

_STEPS = 127
"""Of 8-bit weights, in each direction."""

_LEAST_WEIGHT = 1e-20
"""A channel of smaller weights counts as zero: times a small activation's scale theirs would leave float32."""


def insert_grids(
    graph: gs.Graph, sites: list[Site], grids: Mapping[str, QuantParams], floating: Container[str] = ()
) -> None:
    """Put Q/DQ behind tensors of the graph.

    Args:
        grids: by name of the tensor; sites without one stay float32.
        floating: names of nodes that read the tensors as they are.
    """
    names = Names(graph)
    for site in sites:
        if site.name in grids:
            _quantize(graph, site.tensor, grids[site.name], names, floating)
    graph.cleanup().toposort()


def _quantize(graph: gs.Graph, tensor: gs.Tensor, params: QuantParams, names: Names, floating: Container[str]) -> None:
    after = [node for node in readers(tensor) if node.name not in floating]
    shape = list(tensor.shape)
    constants = [
        gs.Constant(names(f"{tensor.name}_scale"), params.scale),
        gs.Constant(names(f"{tensor.name}_zero_point"), np.asarray(params.zero_point, params.dtype)),
    ]
    q = gs.Variable(names(f"{tensor.name}_quantized"), params.dtype, shape)
    source = tensor if params.full_range else _clipped(graph, tensor, params, names)
    real = gs.Variable(names(f"{tensor.name}_dequantized"), np.dtype(np.float32), shape)
    for node in after:
        for index, one in enumerate(node.inputs):
            if one is tensor:
                node.inputs[index] = real
    graph.nodes += [
        gs.Node(QUANTIZE, names(f"{tensor.name}_quantize"), {}, [source, *constants], [q]),
        gs.Node(DEQUANTIZE, names(f"{tensor.name}_dequantize"), {}, [q, *constants], [real]),
    ]


def _clipped(graph: gs.Graph, tensor: gs.Tensor, params: QuantParams, names: Names) -> gs.Tensor:
    """The tensor within a range that is narrower than the grid's type."""
    ends = zip(("min", "max"), params.real_range(), strict=True)
    bounds = [gs.Constant(names(f"{tensor.name}_{side}"), real) for side, real in ends]
    output = gs.Variable(names(f"{tensor.name}_clipped"), np.dtype(np.float32), list(tensor.shape))
    graph.nodes.append(gs.Node("Clip", names(f"{tensor.name}_range"), {}, [tensor, *bounds], [output]))
    return output


def weight_scale(weights: NDArray[np.float32], axis: int, steps: int = _STEPS) -> NDArray[np.float32]:
    """max |w| / steps of each channel, shape (channels,); 1 / steps for one that is all zero or next to it."""
    others = tuple(at for at in range(weights.ndim) if at != axis)
    largest = np.abs(weights).max(axis=others)
    return np.asarray(np.where(largest > _LEAST_WEIGHT, largest, 1) / steps, np.float32)


def _params_of_weights(weights: gs.Constant, axis: int, steps: int) -> QuantParams:
    if steps == _STEPS:
        return QuantParams.of(_scale_of(weights, axis), 0, np.int8, qmin=-_STEPS, axis=axis)
    return QuantParams.of(weight_scale(weights.values, axis, steps), 0, np.int16, qmin=-steps, qmax=steps, axis=axis)


def _scale_of(weights: gs.Constant, axis: int) -> NDArray[np.float32]:
    """That of the grid which the weights lie on, as those written by hand do: nothing is lost then. Else by range."""
    grid = exact_grid(weights, axis)
    if grid is None or grid.zero_point.any() or np.abs(grid.q.astype(np.int32)).max() > 127:
        return weight_scale(weights.values, axis)
    return np.broadcast_to(grid.scale, weights.shape[axis])


def quantize_weights(
    graph: gs.Graph, floating: Container[str] = (), fine: Mapping[str, int] = MappingProxyType({})
) -> list[str]:
    """Put the float weights of layers on int8 grids.

    Args:
        floating: names of layers whose weights stay as they are.
        fine: layers whose weights get so many steps in each direction, in int16.
    Returns: names of the weights.
    """
    names = Names(graph)
    made: dict[tuple[int, int, int], gs.Node] = {}
    done = []
    for layer in graph.nodes:
        if layer.name in floating:
            continue
        for index in (1,) if layer.op in LAYERS else (1, 2) if layer.op in RECURRENT else ():
            weights = layer.inputs[index]
            if not isinstance(weights, gs.Constant) or weights.dtype != np.float32 or not weights.values.size:
                continue
            if weights.values.ndim < 2 or not np.isfinite(weights.values).all():
                continue
            axis = channel_axis(layer) if layer.op in LAYERS else 1
            key = id(weights), axis, fine.get(layer.name, _STEPS)
            if key not in made:
                params = _params_of_weights(weights, axis, key[2])
                output = gs.Variable(names(f"{weights.name}_real"), np.dtype(np.float32), list(weights.shape))
                q = params.quantize(weights.values)
                made[key] = make_dequantize(names, weights.name, q, params, output)
                done.append(weights.name)
            layer.inputs[index] = made[key].outputs[0]
    graph.nodes.extend(made.values())
    graph.cleanup().toposort()
    return done


def quantize_biases(graph: gs.Graph) -> None:
    """Put float biases on their layer's accumulators' grid; where one is beyond it, its channel gets larger steps."""
    names = Names(graph)
    made = []
    for layer in graph.nodes:
        bias = optional_input(layer, 2) if layer.op in ("Conv", "ConvTranspose", "Gemm") else None
        if not isinstance(bias, gs.Constant) or not np.isfinite(bias.values).all():
            continue
        scale = accumulator_scale(layer)
        if scale is None or bias.values.size not in (1, scale.size):
            continue
        reals = np.broadcast_to(bias.values.reshape(-1), scale.shape).astype(np.float64)
        if (np.abs(reals) > _MOST_STEPS * scale.astype(np.float64)).any():
            scale = _coarser(layer, reals, scale)
            if scale is None:
                continue
        integers = np.rint(reals / scale).astype(np.int32)
        output = gs.Variable(names(f"{layer.name}_bias_real"), np.dtype(np.float32), [scale.size])
        params = QuantParams.of(scale, 0, np.int32, axis=0)
        made.append(make_dequantize(names, f"{layer.name}_bias", integers, params, output))
        layer.inputs[2] = output
    graph.nodes.extend(made)
    graph.cleanup().toposort()


def _coarser(layer: gs.Node, bias: NDArray[np.float64], scale: NDArray[np.float32]) -> NDArray[np.float32] | None:
    """Give the weights of channels with huge biases larger steps: the products there are small beside the bias.

    Returns: the accumulators' new scale; None if the weights have one scale for all channels.
    """
    maker = producer(layer.inputs[1])
    assert maker is not None
    params = params_of(maker)
    if params.axis is None or params.scale.size != scale.size or len(list(readers(maker.outputs[0]))) > 1:
        return None
    factor = np.maximum(np.abs(bias) / (_MOST_STEPS * scale.astype(np.float64)), 1.0)
    reals = params.dequantize(maker.inputs[0].values)
    wider = QuantParams.of(params.scale * factor.astype(np.float32), 0, params.dtype, axis=params.axis)
    maker.inputs[0] = gs.Constant(maker.inputs[0].name, wider.quantize(reals))
    maker.inputs[1] = gs.Constant(maker.inputs[1].name, wider.scale)
    return accumulator_scale(layer)
