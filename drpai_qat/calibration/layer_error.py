"""Ranges of activations chosen by the error that they leave in the layers that read them.

The range that rounds a tensor with the least squared error need not be the one with which the layers behind it compute
best: they may look at the large values that it clips, and frames to come may hold larger ones. So it is tried beside
wider ones. The tensor is rounded, weights are, and what reads it is computed, up to layers' results, on a few frames
whose values are first taken out of the histogram that the ranges are read off. The one with the least error there (but
for each channel's mean, which is the bias correction's) is read off the whole histogram, if the error is clearly less.
Narrower ranges are not tried: so few frames don't show what they would clip.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from drpai_qat.calibration import ranges
from drpai_qat.calibration.collection import Frame, Observed, in_slices
from drpai_qat.calibration.insertion import quantize_weights
from drpai_qat.calibration.kept import few_of
from drpai_qat.calibration.observers import Histogram
from drpai_qat.calibration.placement import LAYERS, RECURRENT, Site, is_weight
from drpai_qat.calibration.ranges import Range
from drpai_qat.calibration.walk import copy_of
from drpai_qat.core.progress import Stages, counted
from drpai_qat.core.quantization import QuantParams
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess.surgery import is_graph_output

MOST_FRAMES = 16
_SHARE = 4
"""One of so many frames tries ranges, at most."""
_LEAST_FRAMES = 4
_WORTH = 0.9
"""Share of the error with `mse` that has to be left at most."""
_WIDER = (1.1, 1.25)
_WIDER_THAN_ALL = 1.2
_BUDGET = 256 << 20  # bytes of tensors that are kept

Arrays = Mapping[str, NDArray[np.float32]]
"""Of one frame, by name."""


def choose(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    histograms: Mapping[str, Histogram],
    frames: Sequence[Frame],
    count: int,
    progress: Stages,
    *,
    symmetric: bool,
) -> dict[str, Range]:
    """The range of each site.

    Args:
        model: float, or trained with gaps.
        sites: of the model, those that share a grid among them.
        histograms: of whole grids, by the name of the first site of each.
        frames: some of those in the histograms.
        count: how many are in the histograms.
    """
    graph = gs.import_onnx(model)
    stops = {site.name for site in sites}
    groups: dict[str, list[_Reading]] = {}
    for site in sites:
        first = site.name if site.shares is None else str(site.shares.name)
        if first in histograms:
            groups.setdefault(first, []).append(_reading(graph, site.name, stops))
    frames = few_of(frames, min(MOST_FRAMES, count // _SHARE))
    found = {first: ranges.mse(histograms[first]) for first in groups}
    if len(frames) >= _LEAST_FRAMES:
        told = counted(_with_data(model, graph, groups, frames), len(groups), progress)
        for first, data in told:
            found[first] = _best(graph, groups[first], histograms[first], data, symmetric=symmetric)
    return {reading.name: found[first] for first, readings in groups.items() for reading in readings}


def _best(
    graph: gs.Graph, readings: Sequence[_Reading], whole: Histogram, data: Sequence[Arrays], *, symmetric: bool
) -> Range:
    """The range of one grid."""
    if not whole.high > whole.low:
        return whole.low, whole.high
    seen = Histogram(whole.low, whole.high)
    for reading in readings:
        for frame in data:
            seen.add(frame[reading.name])
    others = Histogram(whole.low, whole.high, np.maximum(whole.counts - seen.counts, 0), whole.zeros - seen.zeros)
    trials = [_Trial(graph, reading, data) for reading in readings if reading.wanted]
    errors = []
    for candidate in _candidates(others):
        params = ranges.grid_of_range(*candidate, symmetric=symmetric)
        errors.append(sum(trial.error(params) for trial in trials))
    best = int(np.argmin(errors))
    return _candidates(whole)[best if errors[best] < _WORTH * errors[0] else 0]


def _candidates(histogram: Histogram) -> list[Range]:
    """Ranges to try, that of `mse` first."""
    used = np.flatnonzero(histogram.counts)
    first, last = (int(used[0]), int(used[-1]) + 1) if used.size else (0, histogram.counts.size)
    every = (
        max(histogram.low, histogram.low + first * histogram.width),
        min(histogram.high, histogram.low + last * histogram.width),
    )
    low, high = ranges.mse(histogram)
    return [
        (low, high), *((low * factor, high * factor) for factor in _WIDER), every,
        (every[0] * _WIDER_THAN_ALL, every[1] * _WIDER_THAN_ALL),
    ]  # fmt: skip


@dataclass(frozen=True, eq=False)
class _Reading:
    """What reads a tensor: up to results of layers, to other tensors with a grid, and to outputs of the network.

    Attributes:
        name: of the tensor.
        nodes: in order.
        others: names of what else they read.
        wanted: names of what they compute, with the axis of the channels of layers' results.
    """

    name: str
    nodes: Sequence[gs.Node]
    others: tuple[str, ...]
    wanted: Mapping[str, int | None]

    @property
    def names(self) -> tuple[str, ...]:
        """Of what goes in."""
        return (self.name, *self.others)


def _reading(graph: gs.Graph, name: str, stops: set[str]) -> _Reading:
    inside, wanted = {name}, dict[str, int | None]()
    nodes = []
    for node in graph.nodes:
        if not any(one.name in inside for one in node.inputs):
            continue
        nodes.append(node)
        for result in node.outputs:
            if result.is_empty():
                continue
            if node.op in LAYERS:
                wanted[result.name] = 1 if node.op.startswith("Conv") else -1
            elif node.op in RECURRENT or result.name in stops or is_graph_output(graph, result):
                wanted[result.name] = None
            else:
                inside.add(result.name)
    made = {one.name for node in nodes for one in node.outputs}
    read = {one.name for node in nodes for one in node.inputs if not one.is_empty() and not is_weight(one)}
    return _Reading(name, nodes, tuple(sorted(read - made - {name})), wanted)


class _Trial:
    """What reads a tensor, run alone with the tensor and the weights rounded, beside its own results."""

    def __init__(self, graph: gs.Graph, reading: _Reading, frames: Sequence[Arrays]) -> None:
        """Run it as it is."""
        self._reading, self._frames = reading, frames
        made: dict[str, gs.Tensor] = {}
        nodes = [copy_of(node, made) for node in reading.nodes]
        inputs, outputs = ([made[name] for name in names] for names in (reading.names, reading.wanted))
        part = gs.Graph(
            nodes, inputs, outputs, name="part", opset=graph.opset, ir_version=10, import_domains=graph.import_domains
        )  # fmt: skip
        self._wanted = self._run(_reference(part), [frame[reading.name] for frame in frames])
        self._powers = [max(sum(float(np.vdot(one, one)) for one in of), 1e-30) for of in self._wanted]
        quantize_weights(part)
        self._rounded = _reference(part)

    def _run(self, reference: Reference, values: Sequence[NDArray[np.float32]]) -> list[list[NDArray[np.float32]]]:
        """Each result, one array a frame."""
        found = []
        for frame, one in zip(self._frames, values, strict=True):
            feeds = {**{name: frame[name] for name in self._reading.others}, self._reading.name: one}
            found.append(list(reference.run(feeds, list(self._reading.wanted)).values()))
        return [list(of) for of in zip(*found, strict=True)]

    def error(self, params: QuantParams) -> float:
        """Relative squared error of the results, but for the means of layers' channels, with the tensor on a grid."""
        total = 0.0
        found = self._run(self._rounded, [_rounded(frame[self._reading.name], params) for frame in self._frames])
        axes = self._reading.wanted.values()
        for ours, theirs, axis, power in zip(found, self._wanted, axes, self._powers, strict=True):
            off = np.stack([np.subtract(one, other) for one, other in zip(ours, theirs, strict=True)])
            if axis is not None:
                channels = axis % (off.ndim - 1) + 1
                off -= off.mean(axis=tuple(at for at in range(off.ndim) if at != channels), keepdims=True)
            total += float(np.vdot(off, off)) / power
        return total


def _reference(part: gs.Graph) -> Reference:
    return Reference(gs.export_onnx(part, do_type_check=False), "a part of the network to calibrate")


def _rounded(values: NDArray[np.float32], params: QuantParams) -> NDArray[np.float32]:
    return np.asarray(params.dequantize(params.quantize(values)), np.float32)


def _with_data(
    model: onnx.ModelProto, graph: gs.Graph, groups: Mapping[str, Sequence[_Reading]], frames: Sequence[Frame]
) -> Iterator[tuple[str, list[Arrays]]]:
    """Each grid's name with what goes into its readers; the network runs once for as many as fit in memory."""
    shapes = {name: tensor.shape for name, tensor in graph.tensors().items()}

    def size(first: str) -> int:
        names = {name for one in groups[first] for name in (*one.names, *one.wanted)}
        return 4 * len(frames) * sum(math.prod(shapes[name] or (1,)) for name in names)

    for some in in_slices(groups, size, _BUDGET):
        observed = Observed(model, [name for first in some for one in groups[first] for name in one.names])
        data: list[Arrays] = [dict(observed.run(frame)) for frame in frames]
        for first in some:
            yield first, data
