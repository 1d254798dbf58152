"""Calibration frames: real or random inputs, and as many made-up ones as it takes to reach both ends of trained ranges.

A quantizer that takes minimum and maximum arrives at a trained range only if the data reaches both of its ends. Inputs
stay within their own range; strong contrast, inverted signs and plain areas drive the layers behind them to theirs.
"""

from __future__ import annotations

from collections import Counter
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
_MOST_TRIES, _FEWEST_TRIES = 400, 60
_MOST_VALUES = 2e9
"""Values looked at in all tries: some 20 seconds; a ResNet-50 at 224x224 has 15 million a try."""
_MOST_FAILURES = 80
"""Frames tried in a row that come no closer to any end, after which the search is over."""
_MOST_NEAR = 16
"""Frames kept for ends that none reaches: a range nearly as wide as the trained one is better than half of it."""


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
    """Add frames to those that are given, so that trained ranges are reached at both ends, or nearly.

    Args:
        floats: the float model; inputs that a range clips are kept within it.
        frames: real or random inputs, by name.
        seed: of the made-up ones.
    """
    limits = {one.clipped: (one.low, one.high) for one in floats.ranges if one.clipped in frames[0]}
    given = [{name: _within(value, limits.get(name)) for name, value in frame.items()} for frame in frames]
    search = _Search(floats)
    for frame in given:
        search.run(frame)
    from_given = search.reached.copy()
    _search(search, given, limits, np.random.default_rng([seed, len(given)]))
    added = search.cover(from_given)
    low, high = search.reached.reshape(-1, 2).T
    reached = tuple(Reached(*one) for one in zip(floats.ranges, map(bool, low), map(bool, high), strict=True))
    return Calibration((*given, *added), len(given), reached)


class _Search:
    """What frames reach. Ends are counted range by range, low before high; closeness is 1 at an end and beyond.

    Attributes:
        reached: by end, whether a frame got there.
        closest: by end, how close the best frame came.
        values: looked at in a run.
    """

    def __init__(self, floats: FloatModel) -> None:
        self._ranges = floats.ranges
        model = onnx.ModelProto()
        model.CopyFrom(floats.model)
        inputs = {value.name for value in model.graph.input}
        present = {value.name for value in model.graph.output}
        self._tensors = [name for name in dict.fromkeys(one.clipped for one in floats.ranges) if name not in inputs]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in self._tensors if name not in present)
        self._reference = Reference(model, "float model")
        self.closest = np.full(2 * len(self._ranges), -np.inf)
        self.best: dict[int, Frame] = {}
        self.values = 0
        self._reaching: list[tuple[Frame, NDArray]] = []

    @property
    def reached(self) -> NDArray:
        """See the class."""
        return self.closest >= 1

    def run(self, frame: Frame) -> bool:
        """Run a frame; returns whether it comes closer to an end that none has reached."""
        if not self._ranges:
            return False
        values = {**frame, **(self._reference.run(frame, self._tensors) if self._tensors else {})}
        self.values = sum(values[one.clipped].size for one in self._ranges)
        close = np.array([end for one in self._ranges for end in _closeness(one, values[one.clipped])])
        new = (close >= 1) & ~self.reached
        closer = np.flatnonzero((close > self.closest) & ~self.reached)
        if new.any():
            self._reaching.append((frame, close >= 1))
        self.closest = np.maximum(self.closest, close)
        for end in closer:
            self.best[int(end)] = frame
        for end in np.flatnonzero(self.reached):
            self.best.pop(int(end), None)
        return closer.size > 0

    def cover(self, already: NDArray) -> list[Frame]:
        """Few frames that reach what `already` lacks, then some that come close to what none reaches."""
        wanted, chosen = self.reached & ~already, []
        while wanted.any():
            frame, ends = max(self._reaching, key=lambda one: int((one[1] & wanted).sum()))
            chosen.append(frame)
            wanted &= ~ends
        near = Counter(id(frame) for frame in self.best.values())
        frames = {id(frame): frame for frame in self.best.values()}
        known = {id(frame) for frame in chosen}
        return [*chosen, *(frames[one] for one, _ in near.most_common(_MOST_NEAR) if one not in known)]


def _closeness(one: TrainedRange, values: NDArray) -> tuple[float, float]:
    """How much of the way from the middle of a range to its ends the values go."""
    middle, half = (one.high + one.low) / 2, (one.high - one.low) / 2
    low, high = np.float32(values.min()), np.float32(values.max())
    return (
        1.0 if low <= one.low else min((middle - float(low)) / half, 0.999999),
        1.0 if high >= one.high else min((float(high) - middle) / half, 0.999999),
    )


def _search(
    search: _Search, given: Sequence[Frame], limits: Mapping[str, tuple[float, float]], generator: np.random.Generator
) -> None:
    """Strong signals first, then what came closest to an end, changed here and there: as long as that leads on."""
    failures = 0
    made_up = _made_up(given, limits, generator)
    for index in range(int(np.clip(_MOST_VALUES / max(search.values, 1), _FEWEST_TRIES, _MOST_TRIES))):
        if search.reached.all() or failures > _MOST_FAILURES:
            return
        ends = sorted(search.best)
        if index < 2 * (len(_BLOCKS) + len(_CONTRASTS)) or not ends:
            frame = next(made_up)
        else:
            first, second = (search.best[ends[int(generator.integers(len(ends)))]] for _ in range(2))
            frame = _changed(first, second, next(made_up), generator)
        failures = 0 if search.run(frame) else failures + 1


def _changed(first: Frame, second: Frame, other: Frame, generator: np.random.Generator) -> dict[str, NDArray]:
    """A frame with patches of two others in it."""
    changed = {name: np.array(value) for name, value in first.items()}
    for name, value in changed.items():
        for source in (second, other):
            if generator.random() < 0.7:
                patch = _patch(value.shape, generator)
                value[patch] = source[name][patch]
    return changed


def _patch(shape: tuple[int, ...], generator: np.random.Generator) -> tuple[slice, ...]:
    """A random box, over the whole batch."""
    box = []
    for axis, size in enumerate(shape):
        length = size if axis == 0 else int(generator.integers(1, size + 1))
        start = int(generator.integers(0, size - length + 1))
        box.append(slice(start, start + length))
    return tuple(box)


def _made_up(
    frames: Sequence[Frame], limits: Mapping[str, tuple[float, float]], generator: np.random.Generator
) -> Iterator[dict[str, NDArray]]:
    """Frames of strong signals, within the ranges of the inputs."""
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
    return np.asarray(value if limits is None else np.clip(value, *limits), value.dtype)
