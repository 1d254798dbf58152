"""How far one tensor is from another, in the units that decide: steps of its grid (LSB), dB, cosine, top-1."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.sqnr import sqnr_db


@dataclass(frozen=True)
class Top1:
    """Agreement of the largest class.

    Attributes:
        equal: samples whose largest class is the reference's.
        ties: further samples whose class differs, but lies within one step of the reference's largest.
        total: samples.
    """

    equal: int
    ties: int
    total: int

    def __str__(self) -> str:
        return f"{self.equal}/{self.total}" + (f" (+{self.ties} within one step)" if self.ties else "")


@dataclass(frozen=True)
class OutputFigures:
    """One network output, over all samples.

    Attributes:
        name: output.
        max_error: largest absolute difference, in the output's own unit.
        lsb: step that errors are counted in; 0 where the reference is all zero.
        lsb_trained: True if the step is the output's trained scale, False if it is max|y|/127.
        max_error_lsb: max_error / lsb.
        sqnr_db: 10 log10(sum y^2 / sum (y - reference)^2); inf if equal.
        cosine: similarity of all values, 1 if equal.
        top1: for outputs of shape (batch, classes), else None.
        unequal: for outputs of integers or booleans, how many differ; None for floats.
        count: number of values.
        not_finite: how many of ours and of the reference's are infinite or NaN; the other figures leave these out.
    """

    name: str
    max_error: float
    lsb: float
    lsb_trained: bool
    max_error_lsb: float
    sqnr_db: float
    cosine: float
    top1: Top1 | None
    unequal: int | None = None
    count: int = 0
    not_finite: tuple[int, int] = (0, 0)

    def shortfalls(self, thresholds: Thresholds) -> list[str]:
        """What falls short of the thresholds, in words; integers must be equal, and reals finite."""
        if any(self.not_finite):
            ours, theirs = self.not_finite
            same = "as many in onnxruntime" if ours == theirs else f"{theirs} in onnxruntime"
            return [f"{self.name}: {ours} of {self.count} values are infinite or NaN, {same}: no board can use them"]
        if self.unequal is not None:
            return [f"{self.name}: {self.unequal} of {self.count} integers differ"] if self.unequal else []
        found = []
        if self.sqnr_db < thresholds.min_sqnr_db:
            found.append(f"{self.name}: SQNR {self.sqnr_db:.1f} dB is below {thresholds.min_sqnr_db:g} dB")
        if thresholds.max_lsb is not None and self.max_error_lsb > thresholds.max_lsb:
            found.append(f"{self.name}: error of {self.max_error_lsb:.2f} LSB is above {thresholds.max_lsb:g}")
        if thresholds.min_cosine is not None and self.cosine < thresholds.min_cosine:
            found.append(f"{self.name}: cosine {self.cosine:.5f} is below {thresholds.min_cosine:g}")
        if self.top1 and (self.top1.equal + self.top1.ties) / self.top1.total < thresholds.min_top1:
            found.append(f"{self.name}: top-1 agrees on {self.top1} samples, below {thresholds.min_top1:.0%}")
        return found

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json; an infinite SQNR is null beside "exact": true."""
        return {
            "name": self.name,
            "exact": self.max_error == 0 and not any(self.not_finite),
            "max_error": finite(self.max_error),
            "lsb": finite(self.lsb),
            "lsb_trained": self.lsb_trained,
            "max_error_lsb": finite(self.max_error_lsb),
            "sqnr_db": finite(self.sqnr_db),
            "cosine": finite(self.cosine),
            "unequal": self.unequal,
            "count": self.count,
            "not_finite": {"deployed": self.not_finite[0], "reference": self.not_finite[1]},
            "top1": None
            if self.top1 is None
            else {"equal": self.top1.equal, "ties": self.top1.ties, "total": self.top1.total},
        }


def compare_output(
    name: str, found: Sequence[NDArray], reference: Sequence[NDArray], grid: QuantParams | None
) -> OutputFigures:
    """Compare an output over samples.

    Args:
        name: of the output.
        found, reference: one array per sample, of equal shapes; integers and booleans count as numbers.
        grid: trained grid of the output, if it has one per tensor.
    """
    ours = np.stack([np.asarray(array, np.float64) for array in found])
    theirs = np.stack([np.asarray(array, np.float64) for array in reference])
    whole = all(array.dtype.kind in "iub" for array in (*map(np.asarray, found), *map(np.asarray, reference)))
    count, broken = theirs.size, (~np.isfinite(ours), ~np.isfinite(theirs))
    not_finite = int(broken[0].sum()), int(broken[1].sum())
    top1 = None if whole or any(not_finite) else _top1(ours, theirs, _step(theirs, grid))
    if any(not_finite):
        kept = ~(broken[0] | broken[1])
        ours, theirs = ours[kept], theirs[kept]
    trained = grid is not None and not grid.per_channel
    step = _step(theirs, grid)
    error = float(np.abs(ours - theirs).max(initial=0))
    return OutputFigures(
        name=name,
        max_error=error,
        lsb=step,
        lsb_trained=trained,
        max_error_lsb=0.0 if error == 0 else error / step if step else math.inf,
        sqnr_db=sqnr_db(ours, theirs),
        cosine=cosine(ours, theirs),
        top1=top1,
        unequal=int((ours != theirs).sum()) if whole else None,
        count=count,
        not_finite=not_finite,
    )


def _step(reference: NDArray, grid: QuantParams | None) -> float:
    """What errors are counted in: a trained step, else a 127th of the largest value."""
    if grid is not None and not grid.per_channel:
        return float(grid.scale)
    return float(np.abs(reference).max(initial=0)) / 127


def cosine(found: NDArray, reference: NDArray) -> float:
    """Cosine of the angle between two tensors; 1 if both are zero, 0 if one is."""
    ours, theirs = found.ravel(), reference.ravel()
    lengths = float(np.linalg.norm(ours)) * float(np.linalg.norm(theirs))
    if not math.isfinite(lengths):
        return 0.0
    if lengths == 0:
        return float(not ours.any() and not theirs.any())
    return float(ours @ theirs) / lengths


def finite(value: float) -> float | None:
    """JSON has no infinity: None stands for it."""
    return value if math.isfinite(value) else None


def _top1(ours: NDArray, theirs: NDArray, step: float) -> Top1 | None:
    """Agreement of argmax for arrays of shape (samples, batch, classes[, 1, 1])."""
    while theirs.ndim > 3 and theirs.shape[-1] == 1:
        ours, theirs = ours[..., 0], theirs[..., 0]
    if theirs.ndim != 3 or theirs.shape[-1] < 2:
        return None
    ours, theirs = ours.reshape(-1, ours.shape[-1]), theirs.reshape(-1, theirs.shape[-1])
    chosen = ours.argmax(axis=1)
    equal = chosen == theirs.argmax(axis=1)
    near = np.take_along_axis(theirs, chosen[:, None], 1)[:, 0] >= theirs.max(axis=1) - step
    return Top1(int(equal.sum()), int((near & ~equal).sum()), len(ours))
