"""Calibration frames: real or random inputs, and as many made-up ones as it takes to reach both ends of trained ranges.

A quantizer that takes minimum and maximum arrives at a trained range only if the data reaches both of its ends. Inputs
stay within their own range; strong contrast, inverted signs and plain areas drive the layers behind them to theirs.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.backends.drpai_sdk.submodels import FloatModel, TrainedRange
from drpai_qat.runtimes.onnxruntime import Reference

Frame = Mapping[str, NDArray]

INPUT, OUTPUT = "input", "output"
"""Folders in which the Quantizer looks for tensors."""

_CONTRASTS = (2.0, 4.0, -1.0, -4.0, 16.0)
_BLOCKS = (1, 2, 4, 8, 16)
_LARGEST_FAILURES = 12
"""Made-up frames in a row that reach nothing new, after which no more are tried."""


@dataclass(frozen=True)
class Reached:
    """A trained range, and which of its ends the frames reach: then the minimum or maximum taken there is the end's."""

    range: TrainedRange
    low: bool
    high: bool

    @property
    def both(self) -> bool:
        """Calibration arrives at the trained range."""
        return self.low and self.high


@dataclass(frozen=True)
class Calibration:
    """Frames for a float model.

    Attributes:
        frames: inputs by name, the given ones first.
        given: how many of them were given.
        reached: each trained range of the model.
    """

    frames: tuple[Frame, ...]
    given: int
    reached: tuple[Reached, ...]

    def write(self, model: onnx.ModelProto, folder: Path) -> None:
        """Write input/<i>_<frame>.npy and output/<i>_<frame>.npy: tensor i of the model in each frame."""
        reference = Reference(model, "float model")
        inputs = [value.name for value in model.graph.input]
        for place in (INPUT, OUTPUT):
            (folder / place).mkdir(parents=True)
        for index, frame in enumerate(self.frames):
            outputs = reference.run(frame)
            for place, names, values in ((INPUT, inputs, frame), (OUTPUT, reference.outputs, outputs)):
                for at, name in enumerate(names):
                    np.save(folder / place / f"{at}_{index}.npy", values[name])


def calibrate(floats: FloatModel, frames: Sequence[Frame], seed: int) -> Calibration:
    """Add frames to those that are given until no more ends of trained ranges come into reach.

    Args:
        floats: the float model; inputs that a range clips are kept within it.
        frames: real or random inputs, by name.
        seed: of the made-up ones.
    """
    model = onnx.ModelProto()
    model.CopyFrom(floats.model)
    present = {value.name for value in model.graph.output}
    tensors = [one.tensor for one in floats.ranges]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in tensors if name not in present)
    reference = Reference(model, "float model")
    limits = {one.clipped: (one.low, one.high) for one in floats.ranges}
    ends = [(one.tensor, value) for one in floats.ranges for value in (one.low, one.high)]
    reached: set[tuple[str, float]] = set()

    def run(frame: Frame) -> set[tuple[str, float]]:
        values = reference.run(frame, tensors) if tensors else {}
        extremes = {name: (float(value.min()), float(value.max())) for name, value in values.items()}
        return {(name, end) for name, end in ends if end in extremes[name]}

    kept = [{name: _within(value, limits.get(name)) for name, value in frame.items()} for frame in frames]
    given = len(kept)
    for frame in kept:
        reached |= run(frame)
    failures = 0
    for frame in _made_up(kept, limits, seed):
        if failures > _LARGEST_FAILURES or len(reached) == len(ends):
            break
        new = run(frame) - reached
        failures = 0 if new else failures + 1
        if new:
            reached |= new
            kept.append(frame)
    return Calibration(
        tuple(kept), given,
        tuple(Reached(r, (r.tensor, r.low) in reached, (r.tensor, r.high) in reached) for r in floats.ranges),
    )  # fmt: skip


def _made_up(
    frames: Sequence[Frame], limits: Mapping[str, tuple[float, float]], seed: int
) -> Iterator[dict[str, NDArray]]:
    """Frames of strong signals, within the ranges of the inputs."""
    generator = np.random.default_rng([seed, len(frames)])
    ranges = {
        name: limits.get(name) or (min(float(f[name].min()) for f in frames), max(float(f[name].max()) for f in frames))
        for name in frames[0]
    }
    for part in (0.0, 1.0):
        yield {
            name: np.full_like(value, low + part * (high - low))
            for name, value in frames[0].items()
            for low, high in [ranges[name]]
        }
    while True:
        for block in _BLOCKS:
            yield {name: _blocks(value, ranges[name], block, generator) for name, value in frames[0].items()}
        for contrast in _CONTRASTS:
            frame = frames[int(generator.integers(len(frames)))]
            yield {
                name: _within((value - value.mean()) * np.float32(contrast) + value.mean(), ranges[name])
                for name, value in frame.items()
            }


def _blocks(like: NDArray, limits: tuple[float, float], block: int, generator: np.random.Generator) -> NDArray:
    """The ends of the range at random, in blocks of that many elements along the last two axes."""
    shape = like.shape
    coarse = [-(-size // block) if axis >= len(shape) - 2 and axis > 0 else size for axis, size in enumerate(shape)]
    values = generator.integers(0, 2, coarse)
    for axis in range(max(1, len(shape) - 2), len(shape)):
        values = np.repeat(values, block, axis)
    values = values[tuple(slice(size) for size in shape)]
    return np.where(values == 1, limits[1], limits[0]).astype(like.dtype)


def _within(value: NDArray, limits: tuple[float, float] | None) -> NDArray:
    return value if limits is None else np.clip(value, *limits).astype(value.dtype)
