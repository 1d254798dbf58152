"""Networks quantized in several ways, compared by what they compute on frames that had no part in making them.

Each step beyond plain ranges is decided, or computed, layer by layer, and what is best for the layers is now and then
not best for the network: a bias corrected on few frames, or where positions depend on each other; a scaled channel; a
fitted weight. A network without the step takes the place of the one with it if its error is less on the average frame,
by more than its standard error, and not much larger over all of them together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.runtimes.onnxruntime import Reference

_LEAST_FRAMES = 4
_LEAST_GAIN_DB = 0.2
_MOST_LOST = 1.1
"""How much larger the drop may be where the average frame is nearer: single frames decide the drop."""
_LEAST_ERROR, _MOST_ERROR = 1e-24, 1e12
_SOFTMAX = ("Softmax", "LogSoftmax")


@dataclass(frozen=True, eq=False)
class Tried:
    """A network.

    Attributes:
        way: how it was quantized.
        model: canonical QDQ.
        errors: squared error of each frame and output in units of the output's power, shape (frames, outputs).
    """

    way: Recipe
    model: onnx.ModelProto
    errors: NDArray[np.float64]

    @property
    def drop(self) -> float:
        """Root mean square of the error over that of the float network, of the worst output, in percent."""
        return 100 * math.sqrt(self.errors.mean(axis=0).max(initial=0))

    @property
    def sqnr_db(self) -> float:
        """SQNR of a frame's output, averaged over frames and outputs."""
        return float(self._by_frame.mean())

    @property
    def _by_frame(self) -> NDArray[np.float64]:
        return np.asarray(-10 * np.log10(np.maximum(self.errors, _LEAST_ERROR)).mean(axis=1))

    def is_nearer(self, other: Tried) -> bool:
        """On the average frame, by 0.2 dB and a standard error or more, and by the drop little farther at most."""
        gains = self._by_frame - other._by_frame
        count = len(gains)
        if count < 2 or not np.isfinite(gains).all():
            return False
        chance = (1 + 1 / count) * gains.std(ddof=1) / math.sqrt(count)  # about Student's t
        return bool(gains.mean() > max(chance, _LEAST_GAIN_DB) and self.drop < _MOST_LOST * other.drop)


class Comparison:
    """Networks beside a float one.

    Attributes:
        frames: that they run.
        tried: the networks, in their order.
    """

    def __init__(self, model: onnx.ModelProto, frames: Sequence[Frame]) -> None:
        """Run the float network.

        Args:
            frames: that have no part in quantizing it; none: nothing is compared.
        """
        self.frames = frames
        self.tried: list[Tried] = []
        self._judged = _judged(model)
        self._wanted = list(self._outputs(model)) if frames else []

    def add(self, way: Recipe, model: onnx.ModelProto) -> Tried:
        """Run a network."""
        squares = [
            [_power(np.subtract(one, other, dtype=np.float64)) for one, other in zip(ours, theirs, strict=True)]
            for ours, theirs in zip(self._outputs(model), self._wanted, strict=True)
        ]
        powers = np.mean([[_power(one) for one in theirs] for theirs in self._wanted], axis=0)
        errors = np.array(squares) / np.maximum(powers, _LEAST_ERROR)
        self.tried.append(Tried(way, model, np.nan_to_num(errors, nan=_MOST_ERROR).clip(max=_MOST_ERROR)))
        return self.tried[-1]

    def _outputs(self, model: onnx.ModelProto) -> Iterator[list[NDArray]]:
        exposed = onnx.ModelProto()
        exposed.CopyFrom(model)
        present = {value.name for value in (*model.graph.output, *model.graph.input)}
        added = [name for name in dict.fromkeys(self._judged) if name not in present]
        exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
        reference = Reference(exposed, "a network to compare")
        for frame in self.frames:
            yield list(reference.run(frame, self._judged).values())

    @property
    def decides(self) -> bool:
        """There are frames enough to leave something out."""
        return len(self.frames) >= _LEAST_FRAMES

    def of(self, model: onnx.ModelProto) -> Tried | None:
        """A network that was tried."""
        return next((one for one in self.tried if one.model is model), None)

    def to_json(self, kept: onnx.ModelProto) -> dict[str, Any]:
        """As report.json has it; `kept`: the network that was."""
        return {
            "frames": len(self.frames),
            "networks": [
                {
                    "equalized": one.way.equalizes, "biases_corrected": one.way.corrects,
                    "weights_fitted": one.way.fits, "sqnr_db": round(one.sqnr_db, 2), "drop": round(one.drop, 4),
                    "kept": one.model is kept,
                }
                for one in self.tried
            ],
        }  # fmt: skip


def _judged(model: onnx.ModelProto) -> list[str]:
    """The outputs; of a softmax what goes into it: where it saturates, single frames decide."""
    makers = {name: node for node in model.graph.node for name in node.output}
    found = []
    for value in model.graph.output:
        maker = makers.get(value.name)
        behind = maker is not None and maker.op_type in _SOFTMAX and maker.input[0] in makers
        found.append(maker.input[0] if maker is not None and behind else value.name)
    return found


def _power(values: NDArray) -> float:
    return float(np.square(values, dtype=np.float64).sum())
