"""Ranges that are likely not what training meant: told by the numbers alone.

Scales are read in the source file, where even those are seen that a compilation refuses; weights in the canonical
model, where they are integers whatever form the file gives them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from drpai_qat.core.moving import MOVING
from drpai_qat.core.quantization import SMALLEST_SCALE
from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Weight
from drpai_qat.graph.ranges import MATRIX

_NOTHING_SEEN = 1.2e-7
"""PyTorch gives ranges without extent its epsilon, 2^-23, as scale."""
_PRACTICALLY_INFINITE = 1e30
_FAR = 100.0
"""A range this many times the median one is an outlier."""
_FAR_CHANNEL = 16.0
_FEW_STEPS = 8
_MANY_CLIPPED = 0.02
"""Beside the two of each scale that lie there in any case."""
_LEAST_BITS = 6
"""Of fewer bits, many weights lie at the ends by design."""


@dataclass(frozen=True)
class Doubt:
    """One suspicious range.

    Attributes:
        kind: "not finite", "never observed", "all zero", "outlier", "outlier channel" or "clipped".
        tensors: where.
        what: is seen there, and what it does.
    """

    kind: str
    tensors: tuple[str, ...]
    what: str


def doubts_of_scales(model: onnx.ModelProto) -> tuple[Doubt, ...]:
    """Of the quantizers of a source file, whose scales are constants."""
    constants = _small_constants(model.graph)
    given = _given(model.graph)
    broken, fresh, nothing, all_scales = [], [], [], 0
    seen: set[str] = set()
    for node in model.graph.node:
        if node.op_type != "QuantizeLinear" or len(node.input) < 2:
            continue
        scale = constants.get(node.input[1])
        if scale is None or node.input[0] in seen:
            continue
        seen.add(node.input[0])
        where = node.name or node.output[0]
        bad = ~np.isfinite(scale) | (scale <= 0) | (scale > _PRACTICALLY_INFINITE) | (scale < SMALLEST_SCALE)
        if bad.any() and scale.size == 1:
            broken.append((where, float(scale.reshape(-1)[0])))
        elif node.input[0] in given or scale.size != 1:
            continue
        else:
            all_scales += 1
            if scale.item() == 1.0:
                fresh.append(where)
            elif scale.item() <= _NOTHING_SEEN:
                nothing.append(where)
    found = []
    if broken:
        values = sorted({f"{value:g}" for _, value in broken})
        found.append(Doubt("not finite", tuple(where for where, _ in broken), f"scale {', '.join(values[:3])}"))
    if len(fresh) > 1:
        what = f"scale 1.0, as observers begin, at {len(fresh)} of {all_scales} activations: run data through them"
        found.append(Doubt("never observed", tuple(fresh), what))
    if nothing:
        what = "a scale of 1.2e-07 or less: the observer saw nothing but zeros"
        found.append(Doubt("all zero", tuple(nothing), what))
    return tuple(found)


def _given(graph: onnx.GraphProto) -> set[str]:
    """Inputs and constants, and what lies behind them without being computed: no range of theirs tells of training."""
    found = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type in ("Constant", *MOVING) and found.issuperset(node.input):
            found.update(node.output)
    return found


def _small_constants(graph: onnx.GraphProto) -> dict[str, NDArray[np.float64]]:
    """Float constants of at most one dimension, as scales are."""
    found: dict[str, NDArray[np.float64]] = {}

    def add(name: str, tensor: onnx.TensorProto) -> None:
        if len(tensor.dims) <= 1 and tensor.data_type in (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16):
            found[name] = onnx.numpy_helper.to_array(tensor).astype(np.float64)

    for tensor in graph.initializer:
        add(tensor.name, tensor)
    for node in graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            add(node.output[0], node.attribute[0].t)
        elif node.op_type == "Identity" and node.input[0] in found:  # with which exporters share constants
            found[node.output[0]] = found[node.input[0]]
    return found


def doubts_of_ranges(graph: Graph) -> tuple[Doubt, ...]:
    """Of a canonical network's activations and weights."""
    weights = {
        node.name: graph.weights[node.inputs[1]]
        for node in graph.nodes
        if node.op in MATRIX and node.inputs[1] in graph.weights
    }
    return (*_far_ranges(graph), *_clipped(weights), *_far_channels(weights))


def _far_ranges(graph: Graph) -> Iterator[Doubt]:
    ends = {
        node.inputs[0]: max(float(np.abs(end).max()) for end in node.params.real_range())
        for node in graph.nodes
        if node.op == FAKE_QUANT and node.params is not None
        if not (node.params.scale == 1).all()  # integers, as per-channel grids are rounded with their scales outside
    }
    if len(ends) < 4:
        return
    middle = float(np.median(list(ends.values())))
    for name, end in ends.items():
        if end > _FAR * middle:
            yield Doubt("outlier", (name,), f"reaches {end:.3g}, where most ranges end at {middle:.3g}")


def _clipped(weights: Mapping[str, Weight]) -> Iterator[Doubt]:
    for layer, weight in weights.items():
        low, high = int(weight.values.min(initial=0)), int(weight.values.max(initial=0))
        if weight.values.size < 256 or high - low < 2**_LEAST_BITS:
            continue
        ends = int(np.count_nonzero(weight.values == low)) + int(np.count_nonzero(weight.values == high))
        scales = 1 if weight.params is None else weight.params.scale.size
        share = (ends - 2 * scales) / weight.values.size
        if share > _MANY_CLIPPED:
            yield Doubt("clipped", (layer,), f"{share:.1%} of its weights lie at an end of their range")


def _far_channels(weights: Mapping[str, Weight]) -> Iterator[Doubt]:
    for layer, weight in weights.items():
        params = weight.params
        if params is None or weight.values.ndim < 2:
            continue
        if params.axis is not None and params.scale.size > 3:
            middle, largest = float(np.median(params.scale)), float(params.scale.max())
            if largest > _FAR * middle:
                what = f"one channel's weights reach {largest / middle:.0f} times as far as most channels'"
                yield Doubt("outlier channel", (layer,), what)
        elif params.axis is None and weight.values.shape[0] > 3:
            rows = (
                np.abs(weight.values.astype(np.int32) - int(params.zero_point)).reshape(len(weight.values), -1).max(1)
            )
            few = int((rows < _FEW_STEPS).sum())
            if few and rows.max() > _FAR_CHANNEL * max(float(np.median(rows)), 1.0):
                what = f"one scale for all channels, of which {few} of {len(rows)} use fewer than {_FEW_STEPS} steps"
                yield Doubt("outlier channel", (layer,), what)
