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

_MOST_VALUES = 1 << 16
"""Values of one tensor and sample that the histogram counts, so that it costs next to nothing."""


@dataclass(frozen=True)
class UsedRange:
    """A quantized activation of the canonical model, over the samples that were looked at.

    Attributes:
        tensor: its integers' name.
        scale, zero_point: of its grid.
        qmin, qmax: the integers that training left to it.
        least, greatest: the smallest and the largest that occur.
        at_least, at_most: shares of the values that are qmin and qmax, 0..1.
        histogram: counts in `BINS` equal parts of qmin..qmax; of large tensors, of every n-th value.
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


_UNDEFINED_SOMEWHERE = frozenset(
    ("Div", "Reciprocal", "Log", "Sqrt", "Pow", "Exp", "Mod", "Acos", "Acosh", "Asin", "Atanh")
)
"""Operators that have no finite result for some inputs: NaN comes from them, or from constants."""


class Watched:
    """The canonical model in onnxruntime; the first runs also count the integers of every quantized activation, and NaN
    in front of quantizers.
    """

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
        floats = _may_be_nan(model)
        have = {one.name for one in exposed.graph.output}
        exposed.graph.output.extend(
            onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None)
            for name in floats
            if name not in have
        )
        self._reference = Reference(exposed, name)
        self._nan: dict[str, tuple[int, int]] = dict.fromkeys(floats, (0, 0))
        self._seen: dict[str, _Seen] = {name: _Seen(grid) for name, grid in self._grids.items()}
        self._runs = 0

    def run(self, sample: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """The model's own outputs."""
        self._runs += 1
        if self._runs > _MOST_SAMPLES:
            return self._reference.run(sample, self._outputs)
        found = self._reference.run(sample)
        for name, seen in self._seen.items():
            seen.add(found[name])
        for name, (nan, count) in self._nan.items():
            self._nan[name] = nan + int(np.isnan(found[name]).sum()), count + found[name].size
        return {name: found[name] for name in self._outputs}

    def used(self) -> tuple[UsedRange, ...]:
        """What was counted, in order of computation."""
        return tuple(seen.used(name) for name, seen in self._seen.items() if seen.count)

    def undefined(self) -> tuple[str, ...]:
        """Where NaN was quantized, in words, in order of computation."""
        return tuple(
            f"{name}: {nan} of {count} values are NaN where they are quantized, in onnxruntime too: what integers "
            "those become is up to the CPU"
            for name, (nan, count) in self._nan.items()
            if nan
        )


@dataclass(frozen=True)
class _Grid:
    """Of an activation with one scale."""

    scale: float
    zero_point: int
    qmin: int
    qmax: int


class _Seen:
    """What was seen of one tensor."""

    def __init__(self, grid: _Grid) -> None:
        self._grid = grid
        self.count, self._least, self._greatest = 0, grid.qmax, grid.qmin
        self._at_least = self._at_most = 0
        self._counts = np.zeros(grid.qmax - grid.qmin + 1, np.int64)

    def add(self, integers: NDArray) -> None:
        """Look at one sample's values."""
        low, high, flat = self._grid.qmin, self._grid.qmax, integers.reshape(-1)
        self.count += flat.size
        self._least = min(self._least, int(flat.min(initial=high)))
        self._greatest = max(self._greatest, int(flat.max(initial=low)))
        self._at_least += int(np.count_nonzero(flat == low))
        self._at_most += int(np.count_nonzero(flat == high))
        some = flat[:: 1 + flat.size // _MOST_VALUES].astype(np.int32) - low
        self._counts += np.bincount(np.clip(some, 0, high - low), minlength=self._counts.size)

    def used(self, tensor: str) -> UsedRange:
        """All of it."""
        edges = np.linspace(0, self._counts.size, min(BINS, self._counts.size), endpoint=False).astype(int)
        return UsedRange(
            tensor=tensor,
            scale=self._grid.scale,
            zero_point=self._grid.zero_point,
            qmin=self._grid.qmin,
            qmax=self._grid.qmax,
            least=self._least,
            greatest=self._greatest,
            at_least=self._at_least / self.count,
            at_most=self._at_most / self.count,
            histogram=tuple(int(count) for count in np.add.reduceat(self._counts, edges)),
        )


def _may_be_nan(model: onnx.ModelProto) -> tuple[str, ...]:
    """The tensors that are quantized behind operators, or constants, that can make NaN."""
    suspects = {
        one.name
        for one in model.graph.initializer
        if one.data_type == onnx.TensorProto.FLOAT and not np.isfinite(onnx.numpy_helper.to_array(one)).all()
    }
    found = []
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear":
            if node.input[0] in suspects:
                found.append(node.input[0])
        elif node.op_type in _UNDEFINED_SOMEWHERE or not suspects.isdisjoint(node.input):
            suspects.update(node.output)
    return tuple(dict.fromkeys(found))


def _grids_of(model: onnx.ModelProto) -> dict[str, _Grid]:
    """The grid of each quantized activation that has one scale, by the name of its integers."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    makers = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for node in model.graph.node:
        if node.op_type == "QuantizeLinear" and math.prod(constants[node.input[1]].dims) == 1:
            scale, zero_point = (onnx.numpy_helper.to_array(constants[name]).item() for name in node.input[1:3])
            limits = integer_limits(node, makers, constants)
            found[node.output[0]] = _Grid(float(scale), int(zero_point), *limits)
    return found
