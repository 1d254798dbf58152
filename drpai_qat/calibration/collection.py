"""Observing tensors of a model while it runs over data, one frame at a time."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence

import onnx
from numpy.typing import NDArray

from drpai_qat.calibration.observers import Ends, Histogram
from drpai_qat.core.errors import OptionError
from drpai_qat.runtimes.onnxruntime import Reference

Frame = Mapping[str, NDArray]

_MOST_BYTES = 256 << 20  # of observed tensors that are fetched in one run


class Observed:
    """A model that gives tensors from its middle, a few at a time where they are large."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        """Start a session.

        Args:
            model: with static shapes, float or quantized.
            names: of tensors; the network's inputs may be among them.
        """
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        present = {value.name for value in exposed.graph.output}
        inputs = {value.name for value in exposed.graph.input}
        known = {value.name: value for value in exposed.graph.value_info}
        inner = [name for name in dict.fromkeys(names) if name not in inputs]
        exposed.graph.output.extend(
            known.get(name, onnx.ValueInfoProto(name=name)) for name in inner if name not in present
        )
        self._inputs = [name for name in names if name in inputs]
        self._slices = list(_slices(inner, exposed.graph))
        self._reference = Reference(exposed, "the model to calibrate", optimized=True)

    def run(self, frame: Frame) -> Iterator[tuple[str, NDArray]]:
        """The tensors of one frame, with their names."""
        for name in self._inputs:
            yield name, frame[name]
        for names in self._slices:
            yield from self._reference.run(frame, names).items()


def find_ends(observed: Observed, names: Iterable[str], frames: Iterable[Frame]) -> tuple[dict[str, Ends], int]:
    """One pass over data: the ends of each tensor, and the number of frames.

    Raises: OptionError: there are no frames.
    """
    ends = {name: Ends() for name in names}
    count = 0
    for frame in frames:
        count += 1
        for name, values in observed.run(frame):
            ends[name].add(values)
    if not count:
        raise OptionError("there are no calibration frames: give at least one")
    return ends, count


def find_histograms(observed: Observed, ends: Mapping[str, Ends], frames: Iterable[Frame]) -> dict[str, Histogram]:
    """Another pass: a histogram of each tensor between its ends."""
    histograms = {name: Histogram(one.low, one.high) for name, one in ends.items() if one.seen}
    for frame in frames:
        for name, values in observed.run(frame):
            if name in histograms:
                histograms[name].add(values)
    return histograms


def _slices(names: Sequence[str], graph: onnx.GraphProto) -> Iterator[list[str]]:
    sizes = {
        value.name: 4 * math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output)
    }
    slice_: list[str] = []
    total = 0
    for name in names:
        size = sizes.get(name, 0)
        if slice_ and total + size > _MOST_BYTES:
            yield slice_
            slice_, total = [], 0
        slice_.append(name)
        total += size
    if slice_:
        yield slice_
