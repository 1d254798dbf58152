"""Scales, zero points, weights and biases of two networks, tensor by tensor."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.figures import finite
from drpai_qat.compare.matching import Matching
from drpai_qat.compare.structure import Layer, Side
from drpai_qat.core.quantization import QuantParams

SCALE_TOLERANCE = 1e-5
"""Relative: a scale made of min and max in float32 lies an ulp or two beside the trained one."""


@dataclass(frozen=True)
class GridDifference:
    """One grid on both sides.

    Attributes:
        tensor, other: names in A and B.
        kind: "activation" or "weights".
        ours, theirs: in words; "" where there is none.
        ulp: largest distance of two scales in float32 units in the last place; None where they can't be compared.
        percent: largest relative distance of two scales.
        zero_points: steps by which A's range reaches beyond B's; of weights, the largest distance of the zero points.
        integers: weights that differ; None for activations, and where a side has reals.
    """

    tensor: str
    other: str
    kind: str
    ours: str
    theirs: str
    ulp: int | None
    percent: float | None
    zero_points: int | None
    integers: int | None = None

    @property
    def equal(self) -> bool:
        """Bit for bit."""
        return self.ulp == 0 and self.zero_points == 0 and not self.integers

    @property
    def same(self) -> bool:
        """One grid, but for roundings of the scale."""
        return self.percent is not None and self.percent <= 100 * SCALE_TOLERANCE and self.zero_points == 0

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON form."""
        return {**vars(self), "equal": self.equal, "same": self.same}


@dataclass(frozen=True)
class BiasDifference:
    """One bias on both sides.

    Attributes:
        layer, other: nodes in A and B.
        steps: largest distance, in accumulator steps (s_x * s_w) of the side that has them; None where none has.
        relative: largest distance over the largest bias.
    """

    layer: str
    other: str
    steps: float | None
    relative: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON form."""
        steps = None if self.steps is None else finite(self.steps)
        return {**vars(self), "steps": steps, "relative": finite(self.relative)}


@dataclass(frozen=True)
class Parameters:
    """Both networks' numbers, and what differs.

    Attributes:
        operators, parameters: number in A and in B.
        grids: of matched tensors and layers.
        biases: of matched layers.
    """

    operators: tuple[int, int]
    parameters: tuple[int, int]
    grids: tuple[GridDifference, ...]
    biases: tuple[BiasDifference, ...]

    def grid(self, tensor: str) -> GridDifference | None:
        """Of one of A's tensors."""
        return next((one for one in self.grids if one.tensor == tensor), None)

    def to_json(self) -> dict[str, Any]:
        """As it stands in the JSON form."""
        return {
            "operators": list(self.operators),
            "parameters": list(self.parameters),
            "grids": [one.to_json() for one in self.grids],
            "biases": [one.to_json() for one in self.biases],
        }


def compare_parameters(a: Side, b: Side, matching: Matching) -> Parameters:
    """Hold the parameters of matched tensors and layers against each other."""
    grids = []
    for pair in matching.points:
        ours, theirs = a.structure.tensors[pair.ours].grid, b.structure.tensors[pair.theirs].grid
        if ours is not None or theirs is not None:
            grids.append(compare_grids(pair.ours, pair.theirs, "activation", ours, theirs))
    biases = []
    for mine, yours in matching.layers:
        if mine.scale is not None or yours.scale is not None:
            grids.append(_weights(mine, yours))
        if mine.bias is not None or yours.bias is not None:
            biases.append(_bias(mine, yours))
    return Parameters(
        (a.structure.operators, b.structure.operators),
        (a.structure.parameters, b.structure.parameters),
        tuple(grids),
        tuple(biases),
    )


def compare_grids(
    tensor: str, other: str, kind: str, ours: QuantParams | None, theirs: QuantParams | None
) -> GridDifference:
    """One grid against another; a side without one has None."""
    if ours is None or theirs is None or ours.scale.size != theirs.scale.size:
        return GridDifference(tensor, other, kind, told(ours), told(theirs), None, None, None)
    low = (theirs.qmin - theirs.zero_point) - (ours.qmin - ours.zero_point)
    high = (ours.qmax - ours.zero_point) - (theirs.qmax - theirs.zero_point)
    points = int(np.maximum(low, high).max(initial=0))
    return GridDifference(tensor, other, kind, told(ours), told(theirs), *_scales(ours.scale, theirs.scale), points)


def _weights(mine: Layer, yours: Layer) -> GridDifference:
    names = (mine.output, yours.output, "weights", _told_scales(mine), _told_scales(yours))
    if mine.scale is None or yours.scale is None or mine.weights.shape != yours.weights.shape:
        return GridDifference(*names, None, None, None)
    rows = len(mine.weights)
    scales = [np.broadcast_to(layer.scale, rows) for layer in (mine, yours) if layer.scale is not None]
    ours, theirs = (_centred(layer) for layer in (mine, yours))
    points = [np.broadcast_to(_signed_points(layer), rows) for layer in (mine, yours)]
    return GridDifference(
        *names, *_scales(scales[0], scales[1]), int(np.abs(points[0] - points[1]).max(initial=0)),
        int((ours != theirs).sum()),
    )  # fmt: skip


def _bias(mine: Layer, yours: Layer) -> BiasDifference:
    rows = len(mine.weights)
    ours, theirs = (np.zeros(rows) if one.bias is None else one.bias for one in (mine, yours))
    if ours.shape != theirs.shape:
        return BiasDifference(mine.node, yours.node, None, float("inf"))
    apart = np.abs(ours - theirs)
    relative = float(apart.max(initial=0) / (np.abs(ours).max(initial=0) or 1.0))
    step = accumulator_step(mine)
    step = accumulator_step(yours) if step is None else step
    steps = None if step is None else float((apart / step).max(initial=0))
    return BiasDifference(mine.node, yours.node, steps, relative)


def accumulator_step(layer: Layer) -> NDArray[np.float64] | None:
    """s_x * s_w for each output, from a bias that is stored in it; None where it is not."""
    if layer.bias is None or layer.bias_integers is None or not layer.bias_integers.any():
        return None
    known = layer.bias_integers != 0
    ratio = np.where(known, layer.bias / np.where(known, layer.bias_integers, 1), np.nan)
    return np.where(known, ratio, np.nanmean(ratio))


def _scales(ours: NDArray[Any], theirs: NDArray[Any]) -> tuple[int, float]:
    """Largest distance in units of the last place, and in percent."""
    bits = [np.asarray(one, np.float32).view(np.int32).astype(np.int64) for one in (ours, theirs)]
    relative = np.abs(np.asarray(theirs, np.float64) / np.asarray(ours, np.float64) - 1)
    return int(np.abs(bits[0] - bits[1]).max(initial=0)), float(100 * relative.max(initial=0))


def _centred(layer: Layer) -> NDArray[np.int64]:
    point = np.zeros(1, np.int64) if layer.zero_point is None else layer.zero_point
    return layer.weights.astype(np.int64) - point.reshape(-1, 1)


def _signed_points(layer: Layer) -> NDArray[np.int64]:
    point = np.zeros(1, np.int64) if layer.zero_point is None else layer.zero_point
    return point - (128 if layer.weights.dtype == np.uint8 else 0)


def moved(ours: QuantParams | None, theirs: QuantParams | None) -> bool:
    """Two grids per tensor of different scale or zero point, whatever the range that each leaves of its type."""
    if ours is None or theirs is None or ours.per_channel or theirs.per_channel:
        return False
    same_scale = bool(np.isclose(ours.scale, theirs.scale, rtol=SCALE_TOLERANCE, atol=0))
    same_point = ours.zero_point == theirs.zero_point or signed_zero_point(ours) == signed_zero_point(theirs)
    return not (same_scale and bool(same_point))


def signed_zero_point(params: QuantParams) -> NDArray[Any]:
    """The zero point, counted as in the signed type of the same size."""
    offset = 1 << (8 * params.dtype.itemsize - 1) if params.dtype.kind == "u" else 0
    return np.asarray(params.zero_point - offset)


def told(params: QuantParams | None) -> str:
    """A grid in words; zero points as in the signed type."""
    if params is None:
        return ""
    points = np.unique(signed_zero_point(params))
    point = str(int(points[0])) if points.size == 1 else f"{int(points[0])}..{int(points[-1])}"
    return f"scale {_told(params.scale)}, zero point {point}"


def _told_scales(layer: Layer) -> str:
    return "" if layer.scale is None else f"scale {_told(layer.scale)}"


def _told(scale: NDArray[Any]) -> str:
    low, high = float(scale.min()), float(scale.max())
    return f"{low:.7g}" if low == high else f"{low:.4g}..{high:.4g} per channel"
