"""Weights that training left on an int8 grid, but the exporter wrote as float constants.

    Conv(x, W)   =>   Conv(x, DequantizeLinear(q, scale, zero_point))        W = scale * (q - zero_point)

tf2onnx evaluates the fake-quant of weights, and often batch norm on top, so the file holds no trace of the scale but
the numbers themselves. `recover_grid` proves the grid or refuses; refused weights stay float32.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import QuantParams
from preprocess.lattice import TOLERANCE
from preprocess.passlog import PassLog
from preprocess.surgery import LAYERS, Names, channel_axis, make_dequantize
from preprocess.weight_grid import Misfit, WeightGrid, recover_grid
from preprocess.weights import RECURRENT

_TELLING = 8
"""Weights a channel from which on a grid is no accident."""

_MANY_STEPS = 64
"""From the smallest to the largest integer: more than anyone writes by hand; 8 bits of training use most of 255."""


def recover_weights(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Put int8 weights behind DequantizeLinear wherever float weights lie on a grid."""
    names = Names(graph)
    made: list[gs.Node] = []
    known: dict[tuple[int, int], gs.Tensor | Misfit | None] = {}
    for layer, index, axis in weight_inputs(graph):
        weights = layer.inputs[index]
        if not isinstance(weights, gs.Constant):
            continue
        if weights.dtype != np.float32 or not weights.values.size or weights.values.ndim < 2:
            continue
        key = (id(weights), axis)
        if key not in known:
            known[key] = _recovered(weights, axis, names, made, log)
        found = known[key]
        if isinstance(found, gs.Tensor):
            layer.inputs[index] = found
        else:
            log.skipped(layer, f"weights stay float32: {found if found is not None else 'they hold NaN or infinity'}")
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph


def weight_inputs(graph: gs.Graph) -> Iterator[tuple[gs.Node, int, int]]:
    """Layers, the index of each input that holds weights, and their channel axis."""
    for node in graph.nodes:
        if node.op in LAYERS:
            yield node, 1, channel_axis(node)
        elif node.op in RECURRENT:
            yield from ((node, index, 1) for index in (1, 2))


def exact_grid(weights: gs.Tensor, axis: int) -> WeightGrid | None:
    """The grid that float weights lie on, if there are enough of them for that to be no accident."""
    if not isinstance(weights, gs.Constant) or weights.dtype != np.float32 or len(weights.shape) < 2:
        return None
    by_channel = np.moveaxis(weights.values, axis, 0)
    rows = by_channel.reshape(by_channel.shape[0], -1)
    if rows.shape[1] < _TELLING or not rows.any() or not np.isfinite(rows).all():
        return None
    found = recover_grid(rows)
    return found if isinstance(found, WeightGrid) else None


def were_quantized(graph: gs.Graph) -> bool:
    """True if quantization left weights on a grid: one of many steps, or most layers on one of any kind.

    A few layers of few steps are written by hand: the mean over 0..15 that YOLOv8's boxes end with, filters of 1 and 2.
    """
    grids = [exact_grid(node.inputs[index], axis) for node, index, axis in weight_inputs(graph)]
    found = [grid for grid in grids if grid is not None]
    return 2 * len(found) > len(grids) or any(np.ptp(grid.q.astype(np.int32)) >= _MANY_STEPS for grid in found)


def _recovered(
    weights: gs.Constant, axis: int, names: Names, made: list[gs.Node], log: PassLog
) -> gs.Tensor | Misfit | None:
    """Output of a new DequantizeLinear that stands for `weights`; why there is none; None if they aren't finite."""
    values = weights.values
    if not np.isfinite(values).all():
        return None
    by_channel = np.moveaxis(values, axis, 0)
    grid = recover_grid(by_channel.reshape(by_channel.shape[0], -1))
    if isinstance(grid, Misfit):
        return grid
    q = np.moveaxis(grid.q.reshape(by_channel.shape), 0, axis)
    params = QuantParams.of(grid.scale, grid.zero_point, grid.q.dtype, axis=axis if grid.scale.ndim else None)
    output = gs.Variable(names(f"{weights.name}_trained"), np.dtype(np.float32), list(values.shape))
    made.append(make_dequantize(names, weights.name, q, params, output))
    log.note(weights.name, _describe(grid))
    return output


def _describe(grid: WeightGrid) -> str:
    kind = "one scale" if grid.scale.ndim == 0 else f"{grid.scale.size} scales"
    offset = ", asymmetric" if grid.zero_point.any() else ""
    integers = f"integers {grid.q.min()}..{grid.q.max()}"
    if grid.residual > TOLERANCE:
        return f"{grid.q.dtype} weights recovered: {kind}{offset}, {integers}, within float16's rounding"
    return f"{grid.q.dtype} weights recovered: {kind}{offset}, {integers}, residual {grid.residual:.2g} ulp"
