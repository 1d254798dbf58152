"""How much of each trained range the samples use: a tensor that fills a tenth of its grid has three bits less, and one
that piles up at an end is clipped there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.check.layers import integer_limits
from drpai_qat.runtimes.onnxruntime import Reference

BINS = 32
_MOST_SAMPLES = 4
"""More would tell little that these do not, and each brings millions of values."""


@dataclass(frozen=True)
class UsedRange:
    """A quantized activation of the canonical model, over the samples that were looked at.

    Attributes:
        tensor: its integers' name.
        scale, zero_point: of its grid.
        qmin, qmax: the integers that training left to it.
        least, greatest: the smallest and the largest that occur.
        at_least, at_most: shares of the values that are qmin and qmax, 0..1.
        histogram: counts in `BINS` equal parts of qmin..qmax.
    """

    tensor: str
    scale: float
    zero_point: int
    qmin: int
    qmax: int
    least: int
    greatest: int
    at_least: float
    at_most: float
    histogram: tuple[int, ...]

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {name: list(value) if isinstance(value, tuple) else value for name, value in vars(self).items()}


class Watched:
    """The canonical model in onnxruntime; the first runs also count the integers of every quantized activation."""

    def __init__(self, model: onnx.ModelProto, name: str) -> None:
        """Start a session.

        Args:
            model: canonical QDQ model; not changed.
            name: for messages.
        """
        self._outputs = [value.name for value in model.graph.output]
        self._grids = _grids_of(model)
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        types = {one.name: one.data_type for one in model.graph.initializer}
        for node in model.graph.node:
            if (
                node.op_type == "QuantizeLinear"
                and node.output[0] in self._grids
                and node.output[0] not in self._outputs
            ):
                kind = types[node.input[2]]
                exposed.graph.output.append(onnx.helper.make_tensor_value_info(node.output[0], kind, None))
        self._reference = Reference(exposed, name)
        self._counts: dict[str, NDArray[np.int64]] = {}
        self._runs = 0

    def run(self, sample: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The model's own outputs."""
        self._runs += 1
        if self._runs > _MOST_SAMPLES:
            return self._reference.run(sample, self._outputs)
        found = self._reference.run(sample)
        for name, grid in self._grids.items():
            counts = np.bincount(_from_zero(found[name], grid), minlength=grid.qmax - grid.qmin + 1)
            self._counts[name] = self._counts.get(name, 0) + counts
        return {name: found[name] for name in self._outputs}

    def used(self) -> tuple[UsedRange, ...]:
        """What was counted, in order of computation."""
        return tuple(_used(name, self._grids[name], counts) for name, counts in self._counts.items())


@dataclass(frozen=True)
class _Grid:
    """Of an activation with one scale."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int


def _grids_of(model: onnx.ModelProto) -> dict[str, _Grid]:
    """The grid of each quantized activation that has one scale, by the name of its integers."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and math.prod(constants[node.input[1]].dims) == 1:
            scale, zero_point = (onnx.numpy_helper.to_array(constants[name]).item() for name in node.input[1:3])
            limits = integer_limits(node, makers.get(node.input[0]), constants)
            found[node.output[0]] = _Grid(float(scale), int(zero_point), *limits)
    return found


def _from_zero(integers: NDArray, grid: _Grid) -> NDArray:
    """Flat and counted from qmin; what is beyond the ends counts as the end."""
    flat = integers.reshape(-1)
    if grid.qmin == 0 and flat.dtype == np.uint8:
        return np.minimum(flat, grid.qmax) if grid.qmax < np.iinfo(np.uint8).max else flat
    return np.clip(flat.astype(np.int32) - grid.qmin, 0, grid.qmax - grid.qmin)


def _used(name: str, grid: _Grid, counts: NDArray[np.int64]) -> UsedRange:
    low, total = grid.qmin, max(int(counts.sum()), 1)
    found = np.flatnonzero(counts)
    edges = np.linspace(0, counts.size, min(BINS, counts.size), endpoint=False).astype(int)
    return UsedRange(
        tensor=name,
        scale=grid.scale,
        zero_point=grid.zero_point,
        qmin=low,
        qmax=grid.qmax,
        least=low + int(found[0]) if found.size else low,
        greatest=low + int(found[-1]) if found.size else low,
        at_least=float(counts[0]) / total,
        at_most=float(counts[-1]) / total,
        histogram=tuple(int(count) for count in np.add.reduceat(counts, edges)),
    )
