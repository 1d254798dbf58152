"""Some of the calibration data, in memory for all that looks at frames one layer after the other."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np
import onnx

from drpai_qat.calibration.collection import Frame

_EVERY = 4
"""One of so many frames is set aside."""
_MOST_FRAMES, _LEAST_FRAMES = 80, 16
_MOST_BYTES = 128 << 20  # but not fewer than _LEAST_FRAMES


def keep(frames: Iterable[Frame], model: onnx.ModelProto) -> list[Frame]:
    """At most 80 of the frames, fewer of large ones, in mixed order; from one reading, however many there are.

    Picked and mixed by chance, the same chance each time: data is often sorted by class, or has one class after the
    other in turn, and every fourth frame of it may be of one kind.
    """
    size = sum(4 * math.prod(dim.dim_value for dim in one.type.tensor_type.shape.dim) for one in model.graph.input)
    most = int(np.clip(_MOST_BYTES // max(size, 1), _LEAST_FRAMES, _MOST_FRAMES))
    chance = np.random.default_rng(0)
    kept: list[Frame] = []
    for at, frame in enumerate(frames):
        if at < most:
            kept.append(frame)
        elif (place := int(chance.integers(at + 1))) < most:  # reservoir sampling: Vitter 1985, algorithm R
            kept[place] = frame
    return [kept[at] for at in chance.permutation(len(kept))]


def few_of(frames: Sequence[Frame], most: int) -> list[Frame]:
    """At most `most` of the frames that were kept."""
    return list(frames[:most])


def parted(frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Frames to make a network of, and others, a quarter, to see how near it is."""
    aside = [at % _EVERY == _EVERY - 1 for at in range(len(frames))]
    made_of, others = (
        [frame for frame, away in zip(frames, aside, strict=True) if away is which] for which in (False, True)
    )
    return made_of, others
