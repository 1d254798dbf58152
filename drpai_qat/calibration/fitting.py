"""--ptq best: a second network with fitted weights, kept if it is nearer on frames that did not fit it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import onnx

from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.max_drop import drop_of, outputs_of
from drpai_qat.core.progress import Silent, Stages

_EVERY = 4
"""One of so many frames decides; the others fit."""

_LEAST_FRAMES = 8


Make = Callable[[Sequence[Frame], Stages], onnx.ModelProto]


@dataclass(frozen=True)
class Fitted:
    """What fitting came to.

    Attributes:
        model: the fitted network; None: it is no better, or there are too few frames to tell.
        before, after: drop of the outputs, percent, without and with fitted weights, on the frames that decide.
        frames: how many these are.
    """

    model: onnx.ModelProto | None
    before: float = 0.0
    after: float = 0.0
    frames: int = 0

    def to_json(self) -> dict[str, Any]:
        """As report.json has it."""
        return {
            "kept": "fast" if self.model is None else "best", "frames": self.frames,
            "drop_fast": round(self.before, 4), "drop_best": round(self.after, 4),
        }  # fmt: skip


def fit(
    model: onnx.ModelProto,
    fast: Make,
    best: Make,
    frames: Sequence[Frame],
    progress: Stages,
) -> Fitted:
    """Make the fitted network, and see whether it is the better one.

    Args:
        model: the float network.
        fast: quantizes with biases corrected on frames.
        best: quantizes with weights fitted on frames.
        frames: some of the calibration data, in memory.
    """
    if len(frames) < _LEAST_FRAMES:
        return Fitted(None, frames=len(frames))
    deciding, others = frames[::_EVERY], [frame for at, frame in enumerate(frames) if at % _EVERY]
    found = best(others, progress)
    wanted = outputs_of(model, deciding)
    before, after = (drop_of(outputs_of(one, deciding), wanted) for one in (fast(others, Silent()), found))
    return Fitted(found if after < before else None, before, after, len(deciding))
