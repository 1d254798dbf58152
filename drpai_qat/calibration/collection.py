"""Observing tensors of a model while it runs over data, one frame at a time.

A frame runs in one thread, so its bits do not depend on how many threads, processes or machines share the frames.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.calibration.observers import BINS, Histogram, finite_ends
from drpai_qat.core.workers import Tell
from drpai_qat.runtimes.onnxruntime import Reference

T = TypeVar("T")

Frame: TypeAlias = Mapping[str, NDArray]
Shard: TypeAlias = tuple[Sequence[Frame], NDArray[np.float64] | None]
"""Frames, and for the second pass the ends of the tensors, shape (tensors, 2), NaN for those that have none."""
Found: TypeAlias = tuple[NDArray, ...]
"""Of the first pass (ends,), shape (frames, tensors, 2), NaN where a frame held no finite value; of the second one
(counts, zeros) of the histograms, shapes (tensors, BINS) and (tensors,)."""

_MOST_BYTES = 256 << 20  # of observed tensors that are fetched in one run


class Observed:
    """A model that gives tensors from its middle, a few at a time where they are large. It can be pickled."""

    def __init__(self, model: onnx.ModelProto, names: Sequence[str]) -> None:
        """Expose the tensors; the session starts with the first frame.

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
        self.names = tuple(dict.fromkeys(names))
        self._inputs = [name for name in self.names if name in inputs]
        sizes = _sizes(exposed.graph)
        self.bytes = sum(sizes.get(name, 0) for name in {*inner, *inputs})  # of one frame
        self._slices = list(in_slices(inner, lambda name: sizes.get(name, 0), _MOST_BYTES))
        self._model = exposed
        self._reference: Reference | None = None
        self._turn = threading.Lock()

    def run(self, frame: Frame) -> Iterator[tuple[str, NDArray]]:
        """The tensors of one frame, with their names. Any number of threads may do so at a time."""
        reference = self.start()
        for name in self._inputs:
            yield name, frame[name]
        for names in self._slices:
            yield from reference.run(frame, names).items()

    def start(self, *, to_stay: bool = False) -> Reference:
        """The session; `to_stay`: this object will not be pickled, so that it need not keep the model."""
        with self._turn:
            if self._reference is None:
                self._reference = Reference(self._model, "the model to calibrate", threads=1, optimized=True)
            if to_stay:
                self._model = onnx.ModelProto()
            return self._reference

    def __call__(self, shard: Shard, tell: Tell) -> Found:
        """What one pass is to know of a shard's frames; `tell` is told of each."""
        frames, ends = shard
        return self._ends(frames, tell) if ends is None else self._histograms(frames, ends, tell)

    def _ends(self, frames: Sequence[Frame], tell: Tell) -> Found:
        at = {name: index for index, name in enumerate(self.names)}
        found = np.full((len(frames), len(at), 2), np.nan)
        for row, frame in zip(found, frames, strict=True):
            for name, values in self.run(frame):
                row[at[name]] = finite_ends(values)
            tell(1)
        return (found,)

    def _histograms(self, frames: Sequence[Frame], ends: NDArray[np.float64], tell: Tell) -> Found:
        counts = np.zeros((len(self.names), BINS), np.int64)
        found = {
            name: Histogram(float(low), float(high), row)
            for name, (low, high), row in zip(self.names, ends, counts, strict=True)
            if not math.isnan(low)
        }
        for frame in frames:
            for name, values in self.run(frame):
                if name in found:
                    found[name].add(values)
            tell(1)
        zeros = [found[name].zeros if name in found else 0 for name in self.names]
        return counts, np.array(zeros, np.int64)

    def __getstate__(self) -> dict[str, object]:
        left = {"_reference": None, "_turn": None, "_model": self._model.SerializeToString()}
        return {**self.__dict__, **left}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update(state)
        self._model = onnx.ModelProto.FromString(state["_model"])
        self._turn = threading.Lock()


def _sizes(graph: onnx.GraphProto) -> dict[str, int]:
    """Bytes of each tensor of known shape, as float32."""
    return {
        value.name: 4 * math.prod(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        for value in (*graph.value_info, *graph.output, *graph.input)
    }


def in_slices(items: Iterable[T], size: Callable[[T], int], most: int) -> Iterator[list[T]]:
    """The items in their order, as many at a time as take at most `most` bytes together, and at least one."""
    slice_: list[T] = []
    total = 0
    for item in items:
        bytes_ = size(item)
        if slice_ and total + bytes_ > most:
            yield slice_
            slice_, total = [], 0
        slice_.append(item)
        total += bytes_
    if slice_:
        yield slice_
