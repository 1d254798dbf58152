"""Activations on 16-bit grids: which tensors `--max-drop` puts on one for a layer, and on which.

    s = largest |x| / n        |q| <= n = min(32767, most / sum |w|)

Symmetric, as the operators of TFLite's 16x8 scheme have it, and no finer than int32 accumulators allow: a layer of many
inputs gets 12 or 13 bits, and a Clip in front of the grid keeps what other data shows within them. Its weights stay
int8. The range is that of all frames at hand: 16 bits are enough for rare values and frequent ones alike, so what the
8-bit range clipped is back in.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.calibration.collection import Frame, Observed
from drpai_qat.calibration.observers import finite_ends
from drpai_qat.calibration.placement import (
    LAYERS,
    RECURRENT,
    Site,
    keeps_grid,
    multiplied,
    nodes_in_float,
    serves_only,
)
from drpai_qat.core.quantization import SMALLEST_SCALE, QuantParams
from preprocess.quantize_nodes import DEQUANTIZE
from preprocess.surgery import channel_axis, params_of, producer

MOST_GROWTH = 1.25
"""How much larger the sum of a layer's integer weights may become once its input has such a grid."""

_MOST = 0.79 * 2**31 / MOST_GROWTH  # of int32, for products; a fifth is left for the bias
_LARGEST = 32767
_ROOM = 1.25  # of the range beyond the largest value that the frames show
_LEAST_STEPS = 1023  # in each direction; with fewer, little is gained over 8 bits


def largest_values(model: onnx.ModelProto, names: Sequence[str], frames: Iterable[Frame]) -> dict[str, float]:
    """The largest magnitude of each tensor in the float network, over frames; not of those without a finite value."""
    observed, found = Observed(model, names), dict.fromkeys(names, math.nan)
    for frame in frames:
        for name, values in observed.run(frame):
            found[name] = float(np.nanmax([found[name], *np.abs(finite_ends(values)), -math.inf]))
    return {name: value for name, value in found.items() if math.isfinite(value)}


def wide_grids(
    graph: gs.Graph,
    sites: Sequence[Site],
    grids: Mapping[str, QuantParams],
    layers: Container[str],
    largest: Mapping[str, float],
) -> dict[str, QuantParams]:
    """16-bit grids of what layers multiply, and of what nothing but their kernels and the nodes behind them read.

    Args:
        graph: with integer weights, and no grids on activations yet.
        sites: tensors that get a grid.
        grids: those of 8 bits.
        layers: names of the layers that are to have them.
        largest: magnitude of tensors.
    """
    behind = nodes_in_float(graph, layers)
    group_of = {id(site.tensor): id(site.shares or site.tensor) for site in sites}
    read = [
        (node, [{group_of[id(one)] for one in _sources(tensor, group_of)} for tensor in multiplied(node)])
        for node in graph.nodes
    ]
    wide = {group for node, operands in read if node.name in layers for groups in operands for group in groups}
    wide |= {group_of[id(site.tensor)] for site in sites if serves_only(site.tensor, behind)}
    reals, steps = dict.fromkeys(wide, 0.0), dict.fromkeys(wide, _LARGEST)
    for site in sites:
        group = group_of[id(site.tensor)]
        if group in wide and site.name in grids:
            ends = [abs(float(one)) for one in grids[site.name].real_range()]
            reals[group] = max(reals[group], *ends, _ROOM * largest.get(site.name, 0.0))
    for node, operands in read:  # layers with 8 bits, too: whatever else reads the tensor gets it on its one grid
        widened = [groups & wide for groups in operands]
        for group in set().union(*widened):
            steps[group] = min(steps[group], _most_steps(node, all(widened)))
    found = {}
    for site in sites:
        group = group_of[id(site.tensor)]
        if group in wide and site.name in grids and steps[group] >= _LEAST_STEPS:
            scale = np.float32(reals[group] / steps[group])
            if scale >= SMALLEST_SCALE:
                end = steps[group] if steps[group] < _LARGEST else None  # None: all of int16
                found[site.name] = QuantParams.of(scale, 0, np.int16, qmin=end and -end, qmax=end)
    return found


def steps_of_fine_weights(layer: gs.Node) -> int:
    """How far integers of weights and activations may go where both have more than 8 bits: as far as each other.

    Returns: 0 where that is not enough, or where no kernel takes such weights: depthwise and recurrent layers.
    """
    weights = layer.inputs[1] if layer.op in ("Conv", "Gemm", "MatMul") else None
    if not isinstance(weights, gs.Constant) or weights.values.ndim < 2 or not weights.values.size:
        return 0
    if layer.op == "Conv" and layer.attrs.get("group", 1) == weights.shape[0]:
        return 0
    axis = channel_axis(layer)
    sizes = np.abs(np.moveaxis(weights.values, axis, 0).reshape(weights.shape[axis], -1).astype(np.float64))
    sizes = sizes[sizes.any(axis=1)]  # without channels that are all zero
    if not sizes.size or not np.isfinite(sizes).all():
        return 0
    steps = min(_LARGEST, int(math.sqrt(_MOST / (sizes.sum(axis=1) / sizes.max(axis=1)).max())))
    return steps if steps >= _LEAST_STEPS else 0


def layers_on_16_bits(model: onnx.ModelProto) -> dict[str, int]:
    """The layers of a canonical model that multiply 16-bit activations, and the bits of their weights (0: none)."""
    found = {}
    for node in gs.import_onnx(model).nodes:
        if node.op not in (*LAYERS, *RECURRENT) or any(isinstance(one, gs.Constant) for one in node.inputs[:2]):
            continue
        if any(is_wide(one) for one in multiplied(node)):
            weights = producer(node.inputs[1])
            constant = len(multiplied(node)) == 1 or node.op in RECURRENT
            found[str(node.name)] = 8 * weights.inputs[0].dtype.itemsize if constant and weights is not None else 0
    return found


def is_wide(tensor: gs.Tensor) -> bool:
    """The tensor, or a part of it, lies on a 16-bit grid."""
    maker = producer(tensor)
    if maker is None:
        return False
    if maker.op == DEQUANTIZE:
        return bool(maker.inputs[2].dtype == np.int16)
    if maker.op == "Concat":
        return any(is_wide(one) for one in maker.inputs)
    return (maker.op == "Relu" or keeps_grid(maker)) and is_wide(maker.inputs[0])


def sum_of_weights(layer: gs.Node, index: int = 1) -> int:
    """The largest sum of |w| that one accumulator of a layer adds up, in integers; 0: its weights are floats.

    Args:
        index: which input of the layer the weights are.
    """
    maker = producer(layer.inputs[index])
    if maker is None or maker.op != DEQUANTIZE:
        return 0
    params, values = params_of(maker), maker.inputs[0].values.astype(np.int64)
    points = params.zero_point
    if params.axis is not None:
        points = points.reshape([-1 if at == params.axis else 1 for at in range(values.ndim)])
    sizes = np.abs(values - points)
    if layer.op in RECURRENT:
        return int(sizes.sum(axis=2).max(initial=0))
    axis = channel_axis(layer)
    if layer.op == "ConvTranspose":
        groups = int(layer.attrs.get("group", 1))
        sizes = sizes.reshape(groups, len(sizes) // groups, *sizes.shape[1:])
        return int(sizes.sum(axis=(1, *range(3, sizes.ndim))).max(initial=0))
    return int(sizes.sum(axis=tuple(at for at in range(sizes.ndim) if at != axis)).max(initial=0))


def _most_steps(layer: gs.Node, other_is_wide: bool) -> int:
    """How far the integers that a layer multiplies may go.

    Args:
        other_is_wide: of two activations the other one has 16 bits, too.
    """
    if layer.op in LAYERS and len(multiplied(layer)) > 1:
        products = _MOST / layer.inputs[0].shape[-1]
        return min(_LARGEST - 1, int(math.sqrt(products) if other_is_wide else products / 255))  # -32768 is too far
    total = max(sum_of_weights(layer, at) for at in ((1, 2) if layer.op in RECURRENT else (1,)))
    return min(_LARGEST, int(_MOST / max(total, 1)))


def _sources(tensor: gs.Tensor, sites: Mapping[int, int]) -> Iterator[gs.Tensor]:
    """The tensors with a grid whose elements a tensor holds; `sites`: by their identity."""
    maker = producer(tensor)
    if id(tensor) in sites:
        yield tensor
    elif maker is not None and (keeps_grid(maker) or maker.op == "Concat"):
        for one in maker.inputs if maker.op == "Concat" else maker.inputs[:1]:
            yield from _sources(one, sites)
