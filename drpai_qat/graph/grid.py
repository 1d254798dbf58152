"""What the integers of a quantized tensor mean, and in which type they are stored."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from drpai_qat.core.quantization import QuantParams


@dataclass(frozen=True)
class Grid:
    """real = scale * (q - zero_point), q in qmin..qmax, stored as `dtype`.

    The signed and unsigned type of one width are two labels of one thing: `as_dtype` moves a grid between them by
    shifting the zero point.
    """

    scale: float
    zero_point: int
    qmin: int
    qmax: int
    dtype: str

    @classmethod
    def of(cls, params: QuantParams, activation: str) -> Grid:
        """The grid of a per-tensor activation: 8 bits in the instruction set's `activation` dtype, 16 bits as int16."""
        grid = cls(float(params.scale), int(params.zero_point), params.qmin, params.qmax, params.dtype.name)
        if grid.dtype == "uint16":
            return grid.as_dtype("int16")
        return grid.as_dtype(activation) if grid.dtype in ("int8", "uint8") else grid

    def as_dtype(self, dtype: str) -> Grid:
        """The same grid under the name of the other type of its width."""
        if dtype == self.dtype:
            return self
        shift = {"uint8": 128, "int8": -128, "int16": -32768, "uint16": 32768}[dtype]
        return Grid(self.scale, self.zero_point + shift, self.qmin + shift, self.qmax + shift, dtype)

    def same_steps(self, other: Grid | None) -> bool:
        """Integers of one mean the same reals in the other (their ranges may differ)."""
        return other is not None and (self.scale, self.zero_point, self.dtype) == (
            other.scale,
            other.zero_point,
            other.dtype,
        )

    def narrowed(self, low: float, high: float) -> Grid:
        """The grid with its range cut to reals low..high; a bound between steps keeps the step beyond it."""
        qmin = int(np.clip(self.steps(low), self.qmin, self.qmax)) if np.isfinite(low) else self.qmin
        qmax = int(np.clip(self.steps(high), qmin, self.qmax)) if np.isfinite(high) else self.qmax
        return replace(self, qmin=qmin, qmax=qmax)

    def from_zero(self) -> Grid:
        """uint8 stored from 0 on: of small integers more products fit int16 (`dot4_steps`).

        Where the range lies above zero, zero itself is stored as 0: convolutions pad with it.
        """
        if self.dtype != "uint8":
            return self
        shift = min(self.qmin, self.zero_point)
        return replace(self, zero_point=self.zero_point - shift, qmin=self.qmin - shift, qmax=self.qmax - shift)

    def centred(self) -> Grid:
        """8 bits as int16 without a zero point; other grids as they are."""
        if self.dtype not in ("uint8", "int8"):
            return self
        return Grid(self.scale, 0, self.qmin - self.zero_point, self.qmax - self.zero_point, "int16")

    def covers(self, other: Grid | None) -> bool:
        """Every value of the other grid is one of this: no rounding and no clamping between them."""
        return other is not None and self.scale == other.scale and (
            self.qmin - self.zero_point <= other.qmin - other.zero_point
            and other.qmax - other.zero_point <= self.qmax - self.zero_point
        )  # fmt: skip

    def steps(self, real: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """The stored integers nearest to reals, not clamped to the range; float64, which holds those far beyond it."""
        return np.rint(np.asarray(real, np.float64) / self.scale) + self.zero_point

    def holds(self, real: float) -> bool:
        """The real is a step of the grid (to float32 accuracy)."""
        exact = real / self.scale
        return abs(exact - np.rint(exact)) <= 1e-5 * max(1.0, abs(exact))

    @property
    def bounds(self) -> tuple[float, float]:
        """Smallest and largest real in the range."""
        return (self.qmin - self.zero_point) * self.scale, (self.qmax - self.zero_point) * self.scale
