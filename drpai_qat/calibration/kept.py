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
    """At most 80 of the frames, fewer of large ones: equally far apart, from one reading, however many there are."""
    size = sum(4 * math.prod(dim.dim_value for dim in one.type.tensor_type.shape.dim) for one in model.graph.input)
    most = int(np.clip(_MOST_BYTES // max(size, 1), _LEAST_FRAMES, _MOST_FRAMES)) // 2 * 2
    step = 1
    kept: list[Frame] = []
    for at, frame in enumerate(frames):
        if at == step * most:
            step, kept = 2 * step, kept[::2]
        if at % step == 0:
            kept.append(frame)
    return kept


def few_of(frames: Sequence[Frame], most: int) -> list[Frame]:
    """At most `most` of the frames, about equally far apart."""
    count = min(len(frames), most)
    return [frames[at * len(frames) // count] for at in range(count)]


def parted(frames: Sequence[Frame]) -> tuple[list[Frame], list[Frame]]:
    """Frames to make a network of, and others, a quarter, to see how near it is."""
    aside = [at % _EVERY == _EVERY - 1 for at in range(len(frames))]
    made_of, others = (
        [frame for frame, away in zip(frames, aside, strict=True) if away is which] for which in (False, True)
    )
    return made_of, others
