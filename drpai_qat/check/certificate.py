"""Whether one tensor is what exact arithmetic makes of its inputs: equal, equal but for ties, or wrong.

    distance = how far the exact value would have to move to round to the integer that was found, in steps (LSB)

A tie is an integer whose distance is at most `TIE_LSB`. Two float32 computations of one layer, which differ in the
order of their sums alone, flip integers at distances of up to some 1e-5; a format or a formula that is coarser than
float32 shows from 1e-3 on. The bound lies between, and belongs to 8 bits: rounding in float32 is relative to the size
of the values, so a grid of 16 bits over the same range, with steps of a 256th, has 256 times as many of its own.

A float output has no boundary: its distance is its error, in steps of an 8-bit grid over its range. Where onnxruntime's
own float32 is farther than a tie from the exact values, a few times that is the bound: no float32 network is closer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.choices import Choice
from drpai_qat.runtimes.exact import Missing, Quantized

TIE_LSB = 1e-4
"""Distance up to which float32 can't tell two integers of 8 bits apart."""

NOISE_FACTOR = 4.0
"""Float outputs may be this many times as far from the exact values as onnxruntime's float32 is."""


@dataclass(frozen=True)
class Fineness:
    """How finely a target computes. By default as float32; fixed-point kernels are coarser.

    Attributes:
        tie_lsb, tie_lsb_16: distance up to which a difference is a tie, in steps of a grid of 8 and of 16 bits.
        output_steps: by name of the output, the step of a grid that the target rounds it to though training did not.
    """

    tie_lsb: float = TIE_LSB
    tie_lsb_16: float = 256 * TIE_LSB
    output_steps: Mapping[str, float] = field(default_factory=dict)

    def bound(self, dtype: np.dtype[Any]) -> float:
        """Distance up to which a difference is a tie, in steps of a grid of this type."""
        return self.tie_lsb if dtype.itemsize == 1 else self.tie_lsb_16


AS_FLOAT32 = Fineness()


@dataclass(frozen=True)
class Certificate:
    """One tensor: a quantized one, or a network output.

    Attributes:
        tensor: its name in the canonical model.
        node: what computes it, as "op name".
        count: number of values compared.
        unequal: values that differ: integers that are not those of exact arithmetic (floats: beyond `bound`).
        wrong: of those, the ones that are no ties.
        max_lsb: largest difference, in steps.
        distance: largest distance of the exact value from what was found, in steps: of integers from the rounding
            boundary that lies between.
        bound: distance up to which a difference is a tie.
        reference_unequal: values that differ in onnxruntime's float32, for comparison.
        missing: why exact arithmetic has no value here; "" if it has.
    """

    tensor: str
    node: str
    count: int = 0
    unequal: int = 0
    wrong: int = 0
    max_lsb: float = 0.0
    distance: float = 0.0
    bound: float = TIE_LSB
    reference_unequal: int = 0
    missing: str = ""

    @property
    def certified(self) -> bool:
        """True if nothing is wrong, and everything was compared."""
        return not self.missing and not self.wrong

    @property
    def verdict(self) -> str:
        """In a word or two: "equal", "3 ties", "5 wrong", "not evaluated"."""
        if self.missing:
            return "not evaluated"
        if self.wrong:
            return f"{self.wrong} wrong"
        return f"{self.unequal} tie{'s' if self.unequal > 1 else ''}" if self.unequal else "equal"

    def __str__(self) -> str:
        if self.missing:
            return f"{self.tensor} ({self.node}) can't be certified: {self.missing}"
        return (
            f"{self.tensor} ({self.node}): {self.wrong} of {self.count} values are wrong, up to {self.distance:.2g} LSB"
            f" beyond their rounding boundary (ties end at {self.bound:.2g}), largest difference {self.max_lsb:.3g} LSB"
        )

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        entry = {name: value if value != float("inf") else None for name, value in vars(self).items()}
        return {**entry, "verdict": self.verdict}


class Tally(Protocol):
    """Adds up what is found of one tensor, sample by sample."""

    def add(self, exact: object, found: NDArray, reference: NDArray, scores: dict[str, NDArray]) -> None:
        """Compare one sample.

        Args:
            exact: value in exact arithmetic.
            found: what the deployed network computes.
            reference: what onnxruntime computes.
            scores: exact values of the tensors that choices are made from.
        """
        ...

    def certificate(self) -> Certificate:
        """What was found so far."""
        ...


@dataclass
class _Counts:
    tensor: str
    node: str
    count: int = 0
    unequal: int = 0
    wrong: int = 0
    max_lsb: float = 0.0
    distance: float = 0.0
    bound: float = TIE_LSB
    reference_unequal: int = 0
    missing: str = ""
    fineness: Fineness = AS_FLOAT32

    def certificate(self) -> Certificate:
        """As a finished one."""
        return Certificate(**{name: getattr(self, name) for name in Certificate.__dataclass_fields__})


class StepTally(_Counts):
    """A quantized tensor, integer by integer."""

    def add(self, exact: object, found: NDArray, reference: NDArray, scores: dict[str, NDArray]) -> None:
        """Compare one sample."""
        if not isinstance(exact, Quantized):
            self.missing = exact.reason if isinstance(exact, Missing) else "it is no quantized tensor"
            return
        self.missing = self.missing or _not_a_number(exact)
        self.bound = self.fineness.bound(exact.integers.dtype)
        self.count += exact.integers.size
        self.reference_unequal += int((reference != exact.integers).sum())
        unequal = found != exact.integers
        if unequal.any():
            self.unequal += int(unequal.sum())
            far = distances(exact, found)[unequal]
            self.wrong += int((far > self.bound).sum())
            self.distance = max(self.distance, float(far.max()))
            steps = np.abs(found[unequal].astype(np.int64) - exact.integers[unequal].astype(np.int64))
            self.max_lsb = max(self.max_lsb, float(steps.max()))


@dataclass
class GridTally(_Counts):
    """A quantized tensor whose other side is given as reals: they must lie on the grid, and be its rounding.

    Attributes:
        scale, zero_point: of the grid.
    """

    scale: float = 1.0
    zero_point: int = 0

    def add(self, exact: object, reals: NDArray) -> None:
        """Compare one sample: `exact` before its rounding, `reals` behind the other one."""
        if not isinstance(exact, Quantized):
            self.missing = exact.reason if isinstance(exact, Missing) else "it is no quantized tensor"
            return
        if exact.steps.shape != reals.shape:
            self.missing = f"its shape is {list(reals.shape)} in the source and {list(exact.steps.shape)} in the fold"
            return
        self.missing = self.missing or _not_a_number(exact)
        self.bound = tie_bound(exact.integers.dtype)
        self.count += exact.integers.size
        steps = reals / self.scale + self.zero_point
        found = np.rint(steps)
        unequal = found != exact.integers
        off_grid = float(np.abs(steps - found).max(initial=0))
        if off_grid > self.bound:
            self.unequal, self.wrong = self.count, self.count
            self.distance = self.max_lsb = max(self.distance, float(np.abs(steps - exact.steps).max(initial=0)))
        elif unequal.any():
            self.unequal += int(unequal.sum())
            far = distances(exact, found)[unequal]
            self.wrong += int((far > self.bound).sum())
            self.distance = max(self.distance, float(far.max()))
            self.max_lsb = max(self.max_lsb, float(np.abs(found - exact.integers)[unequal].max()))


class RealTally(_Counts):
    """A float output: in steps of an 8-bit grid over its range. An integer output that is no choice: exactly."""

    noise: float = 0.0

    def add(self, exact: object, found: NDArray, reference: NDArray, scores: dict[str, NDArray]) -> None:
        """Compare one sample."""
        if not isinstance(exact, np.ndarray):
            self.missing = exact.reason if isinstance(exact, Missing) else "it is a quantized tensor"
            return
        self.count += exact.size
        if exact.dtype.kind != "f":
            self._add_integers(exact, found, reference)
            return
        step = float(np.ptp(exact)) / 255 if exact.size else 0.0
        step = step or float(np.abs(exact).max(initial=0)) / 255 or 1.0
        ours, theirs = (_apart(one, exact) / step for one in (found, reference))
        self.noise = max(self.noise, float(theirs.max(initial=0)))
        rounding = 0.5 * self.fineness.output_steps.get(self.tensor, 0.0) / step
        self.bound = max(self.fineness.tie_lsb, NOISE_FACTOR * self.noise) + rounding
        self.distance = self.max_lsb = max(self.distance, float(ours.max(initial=0)))
        beyond = int((ours > self.bound).sum())
        self.unequal += beyond
        self.wrong += beyond

    def _add_integers(self, exact: NDArray, found: NDArray, reference: NDArray) -> None:
        unequal = found != exact
        self.reference_unequal += int((reference != exact).sum())
        self.unequal += int(unequal.sum())
        self.wrong += int(unequal.sum())
        if unequal.any():
            self.distance = self.max_lsb = max(
                self.max_lsb, float(np.abs(found.astype(np.float64) - exact.astype(np.float64)).max())
            )


@dataclass
class ChoiceTally(_Counts):
    """A position of the largest score: another one is a tie if its score is as large within float32's noise."""

    choice: Choice = field(default_factory=lambda: Choice("", 0, 1))

    def add(self, exact: object, found: NDArray, reference: NDArray, scores: dict[str, NDArray]) -> None:
        """Compare one sample."""
        if not isinstance(exact, np.ndarray) or self.choice.scores not in scores:
            self.missing = exact.reason if isinstance(exact, Missing) else "its scores are not evaluated"
            return
        self.count += exact.size
        self.reference_unequal += int((reference.astype(np.int64) != exact.astype(np.int64)).sum())
        unequal = found.astype(np.int64) != exact.astype(np.int64)
        if unequal.any():
            far = 255 * self.choice.shortfall(scores[self.choice.scores], found).reshape(unequal.shape)[unequal]
            self.unequal += int(unequal.sum())
            self.wrong += int((far > self.bound).sum())
            self.distance = max(self.distance, float(far.max()))
            self.max_lsb = self.distance


def tie_bound(dtype: np.dtype[Any]) -> float:
    """Distance up to which a difference is a tie, in steps of a grid of this type."""
    return AS_FLOAT32.bound(dtype)


def distances(exact: Quantized, found: NDArray) -> NDArray[np.float64]:
    """How far each exact value would have to move to round to the integer found; 0 where it does."""
    limits = np.iinfo(exact.integers.dtype)
    inside = np.clip(exact.steps, limits.min, limits.max)
    return np.maximum(np.abs(inside - found) - 0.5, 0)


def _not_a_number(exact: Quantized) -> str:
    """Why no integer is right; "" if there is one for each value."""
    count = int(np.isnan(exact.steps).sum())
    if not count:
        return ""
    return f"{count} of {exact.steps.size} values are NaN there, and what integers those become is up to the CPU"


def _apart(values: NDArray, exact: NDArray) -> NDArray[np.float64]:
    """Absolute differences; infinite where one is not a number and the other is."""
    with np.errstate(invalid="ignore"):
        apart = np.abs(values.astype(np.float64) - exact)
    same = (np.isnan(values) & np.isnan(exact)) | (values == exact)
    return np.where(same, 0, np.where(np.isnan(apart), np.inf, apart))
