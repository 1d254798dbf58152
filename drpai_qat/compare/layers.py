"""Layer by layer: B fed with A's values (single), and on its own (accumulated).

Each layer of B, from matched tensors to the next, is fed what A has there. Where A can be evaluated exactly (ONNX), B's
integers are held against the exact values: one is wrong if its rounding boundary lies farther away than B's arithmetic
can tell. Where not, a layer may be off by one step in two of a hundred values.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.figures import cosine, finite
from drpai_qat.compare.arrangement import arranged, inverse
from drpai_qat.compare.matching import Matching, Pair
from drpai_qat.compare.onnx_side import OnnxSide
from drpai_qat.compare.structure import Feeds, Side, Tensor, region
from drpai_qat.core.sqnr import sqnr_db
from drpai_qat.runtimes.exact import ExactNetwork, Quantized

LEAST_EQUAL = 0.98
"""Share of values on A's grid that a layer must have equal where nothing exact is at hand."""

_NOISE = 1e-3
"""Steps."""

Reals = NDArray[np.float64]


@dataclass
class Figures:
    """How far one tensor is from another, over all samples, in steps of A's grid."""

    count: int = 0
    equal: int = 0
    max_lsb: float = 0.0
    _ours: list[Reals] = field(default_factory=list)
    _theirs: list[Reals] = field(default_factory=list)

    def add(self, ours: Reals, theirs: Reals, step: float) -> None:
        """One sample."""
        apart = np.abs(theirs - ours) / step
        near = np.rint(apart)
        apart = np.where(np.abs(apart - near) < _NOISE, near, apart)  # reals of integers, computed in two ways
        self.count += apart.size
        self.equal += int((apart < 0.5 if step else apart == 0).sum())
        self.max_lsb = max(self.max_lsb, float(apart.max(initial=0)))
        self._ours.append(np.asarray(ours, np.float32))
        self._theirs.append(np.asarray(theirs, np.float32))

    def finish(self) -> None:
        """Take the figures that need all samples, and let go of these."""
        self.sqnr_db = sqnr_db(np.stack(self._theirs), np.stack(self._ours))
        self.cosine = cosine(np.stack(self._theirs).astype(np.float64), np.stack(self._ours).astype(np.float64))
        self._ours, self._theirs = [], []

    sqnr_db: float = math.inf
    cosine: float = 1.0

    @property
    def share_equal(self) -> float:
        """Values on the same step, 0..1."""
        return self.equal / self.count if self.count else 1.0

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON form."""
        return {
            "count": self.count, "equal": self.equal, "max_lsb": finite(self.max_lsb),
            "sqnr_db": finite(self.sqnr_db), "cosine": finite(self.cosine),
        }  # fmt: skip


@dataclass
class LayerFigures:
    """One matched tensor.

    Attributes:
        pair: its names.
        node, op: what computes it in A.
        lsb: A's step that errors are counted in.
        single, accumulated: B fed with A's values, and on its own.
        wrong: values of `single` that are no ties; None where nothing exact is at hand.
        missing: why there is no exact value, in words.
    """

    pair: Pair
    node: str
    op: str
    lsb: float = 0.0
    single: Figures = field(default_factory=Figures)
    accumulated: Figures = field(default_factory=Figures)
    wrong: int | None = 0
    missing: str = ""

    @property
    def diverges(self) -> bool:
        """B does not compute what A does, from the same values."""
        if self.wrong is not None:
            return self.wrong > 0
        return self.single.max_lsb > 1.01 or self.single.share_equal < LEAST_EQUAL

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON form."""
        return {
            "tensor": self.pair.ours, "other": self.pair.theirs, "node": self.node, "op": self.op, "lsb": self.lsb,
            "single": self.single.to_json(), "accumulated": self.accumulated.to_json(), "wrong": self.wrong,
            "exact": self.missing or None, "diverges": self.diverges,
        }  # fmt: skip


@dataclass(frozen=True, eq=False)
class Seen:
    """One tensor in one sample, for whoever looks for the cause.

    Attributes:
        steps: A's exact values in steps of its grid, zero point included (reals where it has none); A's own values
            where nothing exact is at hand.
        found: B's values on the same scale, fed with A's; wrong: which of them are no ties.
        exact: `steps` is exact.
    """

    steps: Reals
    found: Reals
    wrong: NDArray[np.bool_]
    exact: bool


class LayerComparison:
    """Runs both sides, sample by sample."""

    def __init__(self, a: Side, b: Side, matching: Matching) -> None:
        """Prepare both sides.

        Raises: DrpaiQatError: B can't be cut.
        """
        self._a, self._b, self._matching = a, b, matching
        names = [pair.ours for pair in matching.points]
        self._reference = a.exposed(names)
        self._whole = b.exposed([pair.theirs for pair in matching.points])
        fed = [pair.theirs for pair in matching.points]
        self._pieces = b.cut(fed, fed)
        self._loose = _with_roundings_inside(a, names)
        self._exact = ExactNetwork(a.model) if isinstance(a, OnnxSide) else None
        self.figures = [
            LayerFigures(pair, a.structure.tensors[pair.ours].node, a.structure.tensors[pair.ours].op)
            for pair in matching.points
        ]

    def add(self, sample: Feeds) -> None:
        """Compare one sample."""
        values = self._reference(sample)
        theirs = self._matching.feeds(sample, self._b.inputs)
        whole = self._whole(theirs)
        for figures, seen in zip(self.figures, self.seen(sample, values, theirs), strict=True):
            pair = figures.pair
            ours = np.asarray(values[pair.ours], np.float64)
            tensor = self._a.structure.tensors[pair.ours]
            figures.lsb = figures.lsb or step_of(tensor, self._b.structure.tensors[pair.theirs], ours)
            found = np.asarray(arranged(whole[pair.theirs], pair.order, tensor.shape), np.float64)
            ours, found = (_within(one, self._limits(pair)) for one in (ours, found))
            figures.accumulated.add(ours, found, figures.lsb)
            figures.single.add(ours, _reals(seen.found, tensor), figures.lsb)
            if not seen.exact:
                figures.wrong, figures.missing = None, "no exact values to hold it against"
            elif figures.wrong is not None:
                figures.wrong += int(seen.wrong.sum())

    def finish(self) -> list[LayerFigures]:
        """The figures over all samples."""
        for one in self.figures:
            one.single.finish()
            one.accumulated.finish()
        return self.figures

    def seen(self, sample: Feeds, values: Feeds | None = None, theirs: Feeds | None = None) -> Iterator[Seen]:
        """Each tensor's exact values, and B's from A's, in A's order.

        Args:
            values: A's, if they are at hand.
            theirs: B's network inputs, if they are others than A's.
        """
        values = self._reference(sample) if values is None else values
        theirs = self._matching.feeds(sample, self._b.inputs) if theirs is None else theirs
        found = self._pieces({**theirs, **self.fed(values)})
        exact = self.exact(sample, values)
        for pair in self._matching.points:
            tensor, other = self._a.structure.tensors[pair.ours], self._b.structure.tensors[pair.theirs]
            reals = np.asarray(arranged(found[pair.theirs], pair.order, tensor.shape), np.float64)
            known = exact.get(pair.ours)
            limits = self._limits(pair)
            own = _within(np.asarray(values[pair.ours], np.float64), limits)
            steps = _steps(own, tensor) if known is None else _steps(_within(_reals(known, tensor), limits), tensor)
            ours = _steps(_within(reals, limits), tensor)
            strict = known is not None and pair.ours not in self._loose
            yield Seen(steps, ours, self._wrong(steps, ours, tensor, other, strict), strict)

    def _limits(self, pair: Pair) -> tuple[float, float]:
        """What all readers clip the tensor to, on either side: a file may do so before it is rounded, or behind."""
        sides = ((self._a, pair.ours), (self._b, pair.theirs))
        known = [side.structure.limits.get(name, (-math.inf, math.inf)) for side, name in sides]
        return max(low for low, _ in known), min(high for _, high in known)

    def fed(self, values: Feeds) -> dict[str, NDArray[Any]]:
        """A's values as B's pieces take them."""
        given = {}
        for pair in self._matching.points:
            order = inverse(pair.order)
            other = self._b.structure.tensors[pair.theirs]
            reals = _within(np.asarray(values[pair.ours], np.float64), self._limits(pair))
            given[pair.theirs] = np.ascontiguousarray(arranged(reals, order, other.shape), np.float32)
        return given

    def exact(self, sample: Feeds, values: Feeds) -> dict[str, Reals]:
        """Exact values before rounding, fed with A's (steps of the grid, reals without one), where there are any."""
        if self._exact is None or not isinstance(self._a, OnnxSide):
            return {}
        given, names = {}, {}
        for pair in self._matching.points:
            tensor = self._a.structure.tensors[pair.ours]
            integers = self._a.integers_of(pair.ours)
            names[integers] = pair.ours
            if tensor.grid is not None:
                given[integers] = _steps(np.asarray(values[pair.ours], np.float64), tensor)
        found: dict[str, Reals] = {}
        for name, value in self._exact.walk(sample, given, names):
            if isinstance(value, Quantized) and name in names:
                found[names[name]] = np.asarray(value.steps, np.float64)
            elif isinstance(value, np.ndarray) and value.dtype.kind == "f" and name in names:
                found.setdefault(names[name], value)
        return found

    def _wrong(self, steps: Reals, found: Reals, tensor: Tensor, other: Tensor, exact: bool) -> NDArray[np.bool_]:
        """Which values B's arithmetic can't have meant."""
        grid = tensor.grid
        unit = 1.0 if grid is not None else step_of(tensor, other, steps)
        inside = steps if grid is None else np.clip(steps, grid.qmin, grid.qmax)
        own = float(grid.scale) if grid is not None else 1.0
        half = 0.0 if other.grid is None or other.grid.per_channel else 0.5 * float(other.grid.scale) / own
        bound = max(side.fineness.bound(_kind(one)) for side, one in ((self._a, tensor), (self._b, other)))
        if not exact:
            bound += 1.0
        elif half == 0:
            bound += 0.01  # two float32 computations
        return np.abs(inside - found) > half + bound * unit


def _with_roundings_inside(side: Side, names: Sequence[str]) -> set[str]:
    """Tensors behind a rounding of A that has no twin in B: a tie there moves them by more than their own."""
    ends = frozenset(names)
    quantized = {name for name in side.structure.points if side.structure.tensors[name].grid is not None} - ends
    return {name for name in names if quantized.intersection(region(side.structure, name, ends))}


def _within(reals: Reals, limits: tuple[float, float]) -> Reals:
    return np.clip(reals, *limits) if np.isfinite(limits).any() else reals


def _kind(tensor: Tensor) -> np.dtype[Any]:
    return np.dtype(np.int8) if tensor.grid is None else tensor.grid.dtype


def step_of(tensor: Tensor, other: Tensor, values: Reals) -> float:
    """The unit of error: A's step, else B's, else a 255th of the range."""
    for one in (tensor, other):
        if one.grid is not None and not one.grid.per_channel:
            return float(one.grid.scale)
    return float(np.ptp(values)) / 255 or 1.0


def _steps(reals: Reals, tensor: Tensor) -> Reals:
    """Reals in steps of a tensor's grid; of one without, themselves."""
    grid = tensor.grid
    if grid is None or grid.per_channel:
        return reals
    steps = reals / float(grid.scale) + float(grid.zero_point)
    near = np.rint(steps)
    return np.where(np.abs(steps - near) < _NOISE, near, steps)


def _reals(steps: Reals, tensor: Tensor) -> Reals:
    grid = tensor.grid
    return steps if grid is None or grid.per_channel else (steps - float(grid.zero_point)) * float(grid.scale)


def first_divergence(figures: Sequence[LayerFigures]) -> LayerFigures | None:
    """The first layer that diverges, in A's order."""
    return next((one for one in figures if one.diverges), None)
