"""Integer grids as TFLite writes them: int8 with a zero point, int16 without one, weights with one scale per channel.

real = scale * (q - zero_point). ONNX's uint8 becomes int8 with 128 taken off the zero point. A trained range that does
not use all of its type (0..127) keeps its integers instead where the type's own saturation then makes one end.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from drpai_qat.core.quantization import QuantParams

LIMITS = {"int8": (-128, 127), "int16": (-32768, 32767), "int32": (-(2**31), 2**31 - 1)}


@dataclass(frozen=True)
class LiteGrid:
    """What the integers of a TFLite tensor mean.

    Attributes:
        scales: one float32 value, or one per channel along `axis`.
        zero_point: of all channels.
        dtype: int8, int16, int32 or int64 (biases).
    """

    scales: tuple[float, ...]
    zero_point: int
    dtype: str
    axis: int = 0

    @classmethod
    def of(cls, scale: float | np.float32, zero_point: int, dtype: str) -> LiteGrid:
        """A grid per tensor; the scale is rounded to float32."""
        return cls((float(np.float32(scale)),), int(zero_point), dtype)

    @property
    def scale(self) -> float:
        """The scale of a grid per tensor."""
        assert len(self.scales) == 1
        return self.scales[0]

    @property
    def limits(self) -> tuple[int, int]:
        """Smallest and largest integer of the type."""
        return LIMITS[self.dtype]

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest real that the type can hold."""
        low, high = self.limits
        return (low - self.zero_point) * self.scale, (high - self.zero_point) * self.scale

    def steps(self, real: float) -> int:
        """The integer of a real: rounded half to even, as QuantizeLinear does, and saturated."""
        if not np.isfinite(real):
            return self.limits[real > 0]
        step = float(np.rint(np.float32(real) / np.float32(self.scale))) + self.zero_point
        return int(np.clip(step, *self.limits))

    def params(self) -> QuantParams:
        """The grid as deploy.json states it."""
        return QuantParams.of(np.float32(self.scale), self.zero_point, np.dtype(self.dtype))


@dataclass(frozen=True)
class Target:
    """The grid a value is rounded to, and the integers that training left in use.

    Attributes:
        low, high: integers of `grid`; where they are the type's own limits, saturation is enough.
    """

    grid: LiteGrid
    low: int
    high: int

    @property
    def clamps(self) -> int:
        """How many ends the type's saturation does not make."""
        return (self.low > self.grid.limits[0]) + (self.high < self.grid.limits[1])


def target_of(params: QuantParams, low: float = -np.inf, high: float = np.inf) -> Target | None:
    """The TFLite grid of a trained one whose values were limited to low..high before; None where it has none.

    int16 must have no zero point; uint16 becomes int16 by taking 32768 off.
    """
    name, zero_point = params.dtype.name, int(params.zero_point)
    scale = float(params.scale)

    def at(shift: int, dtype: str) -> Target:
        ends = [
            params.qmin if real == -np.inf else params.qmax if real == np.inf
            else int(np.clip(np.rint(np.float32(real) / params.scale) + zero_point, params.qmin, params.qmax))
            for real in (low, high)
        ]  # fmt: skip
        return Target(LiteGrid.of(scale, zero_point - shift, dtype), ends[0] - shift, max(ends) - shift)

    if name in ("int16", "uint16"):
        found = at(0 if name == "int16" else 32768, "int16")
        return found if found.grid.zero_point == 0 else None
    if name == "int8":
        return at(0, "int8")
    if name != "uint8":
        return None
    shifted, same = at(128, "int8"), at(0, "int8")
    fits = same.high <= 127 and same.grid.zero_point <= 127
    # 0..127 as it is: the type ends at 127, and a fused ReLU ends at the zero point.
    relu = fits and same.low == same.grid.zero_point
    return same if fits and (relu or same.clamps < shifted.clamps) else shifted


def symmetric_int16(largest: float) -> LiteGrid:
    """The int16 grid of a tensor whose values stay within -largest..largest."""
    return LiteGrid.of(np.float32(max(largest, 1e-30)) / np.float32(32767), 0, "int16")


def asymmetric_int8(low: float, high: float) -> LiteGrid:
    """The int8 grid of a range, widened to hold zero exactly."""
    low, high = min(low, 0.0), max(high, 0.0)
    scale = np.float32(max(high - low, 1e-6) / 255)
    return LiteGrid.of(scale, int(np.clip(-128 - np.rint(low / scale), -128, 127)), "int8")


def widened(grid: LiteGrid) -> LiteGrid:
    """int16 without a zero point that holds every value of an int8 grid exactly."""
    return grid if grid.dtype == "int16" else LiteGrid.of(np.float32(grid.scale) / np.float32(128), 0, "int16")


def finer(target: Target) -> LiteGrid:
    """int16 over the integers that an int8 target uses, for a result that is rounded to it next."""
    grid = target.grid
    if grid.dtype == "int16":
        return grid
    ends = (target.low - grid.zero_point, target.high - grid.zero_point)
    return symmetric_int16((max(abs(end) for end in ends) + 0.5) * grid.scale)
