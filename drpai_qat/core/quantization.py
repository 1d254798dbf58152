"""Quantization parameters: the one value type that preprocess and lowering share.

    real = scale * (q - zero_point),   q = clamp(round_half_even(real / scale) + zero_point, qmin, qmax)

Knows numpy only.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import QuantizationError

FloatArray: TypeAlias = NDArray[np.float32]
IntArray: TypeAlias = NDArray[np.integer]

SMALLEST_SCALE = float(np.finfo(np.float32).tiny)
"""Smallest normal float32. Below it x / scale loses bits, and kernels that flush denormals divide by zero."""

LARGEST_SCALE = float(np.finfo(np.float32).max) / 2**16
"""Beyond it the ends of a 16-bit grid are infinite in float32."""


@dataclass(frozen=True, eq=False)
class QuantParams:
    """How integers stand for reals.

    Attributes:
        scale: float32, shape () per tensor or (channels,) per channel; positive, normal, at most LARGEST_SCALE.
        zero_point: int64, shape of scale; within qmin..qmax.
        dtype: integer type that holds q (int8, uint8, int16, uint16, int32).
        qmin, qmax: the range that training used; may be narrower than dtype (0..127, -7..7).
        axis: channel axis if per channel, None if per tensor.
    """

    scale: FloatArray
    zero_point: IntArray
    dtype: np.dtype[np.integer]
    qmin: int
    qmax: int
    axis: int | None = None

    @classmethod
    def of(
        cls,
        scale: object,
        zero_point: object = 0,
        dtype: object = np.int8,
        *,
        qmin: int | None = None,
        qmax: int | None = None,
        axis: int | None = None,
        where: str = "",
    ) -> QuantParams:
        """Build and check parameters.

        Args:
            scale: number or array; arrays of one element and no axis become scalars.
            zero_point: integer or array; broadcast to the shape of scale.
            dtype: numpy integer type.
            qmin, qmax: range; default that of dtype.
            axis: channel axis of a per-channel scale.
            where: node and tensor, for the message.
        Raises: QuantizationError: scale is not finite, positive and normal; zero_point or range doesn't fit dtype.
        """
        kind = np.dtype(dtype)  # type: ignore[call-overload]
        limits = np.iinfo(kind)
        low = int(limits.min) if qmin is None else int(qmin)
        high = int(limits.max) if qmax is None else int(qmax)
        with np.errstate(over="ignore"):  # infinity is refused below
            scales = np.asarray(scale, dtype=np.float32)
        if axis is None and scales.size == 1:
            scales = scales.reshape(())
        check_scale(scales, where)
        if axis is None and scales.ndim != 0:
            raise QuantizationError(f"{_at(where)}scale of shape {list(scales.shape)} without a channel axis")
        if axis is not None and scales.ndim != 1:
            raise QuantizationError(f"{_at(where)}per-channel scale must be 1-D, is {list(scales.shape)}")
        points = np.asarray(zero_point).astype(np.int64)
        if points.size not in (1, scales.size):
            raise QuantizationError(f"{_at(where)}{points.size} zero points for {scales.size} scales")
        points = np.broadcast_to(points.reshape(()) if points.size == 1 else points.reshape(-1), scales.shape).copy()
        if not limits.min <= low < high <= limits.max:
            raise QuantizationError(f"{_at(where)}range {low}..{high} doesn't fit {kind.name}")
        if points.size and not (points.min() >= limits.min and points.max() <= limits.max):
            raise QuantizationError(
                f"{_at(where)}zero point {int(points.min())}..{int(points.max())} outside {kind.name}"
            )
        return cls(scales, points, kind, low, high, axis)

    @classmethod
    def read(
        cls,
        scale: FloatArray,
        zero_point: IntArray | None,
        *,
        axis: int = 1,
        default: object = np.uint8,
        where: str = "",
    ) -> QuantParams:
        """Parameters of a QuantizeLinear or DequantizeLinear from its constants.

        Args:
            scale: second input.
            zero_point: third input; None if omitted, which is 0.
            axis: attribute, counted from the front; means nothing if scale has a single element.
            default: type of an omitted zero point: uint8 for QuantizeLinear, that of the data for DequantizeLinear.
            where: node and tensor, for the message.
        Raises: QuantizationError: as `of`.
        """
        points = np.zeros((), default) if zero_point is None else zero_point  # type: ignore[call-overload]
        return cls.of(scale, points, points.dtype, axis=axis if np.size(scale) > 1 else None, where=where)

    @property
    def per_channel(self) -> bool:
        """True if scale has one entry per channel."""
        return self.axis is not None

    @property
    def full_range(self) -> bool:
        """True if qmin..qmax is all of dtype."""
        limits = np.iinfo(self.dtype)
        return self.qmin == limits.min and self.qmax == limits.max

    @property
    def symmetric(self) -> bool:
        """True if every zero point is 0."""
        return not self.zero_point.any()

    def real_range(self) -> tuple[FloatArray, FloatArray]:
        """Smallest and largest real that the grid holds; float32, shape of scale."""
        low = np.float64(self.scale) * (self.qmin - self.zero_point)
        high = np.float64(self.scale) * (self.qmax - self.zero_point)
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def quantize(self, real: FloatArray) -> IntArray:
        """Round reals to the grid as ONNX QuantizeLinear does (float32 division, half to even); dtype `dtype`."""
        scale, zero_point = self._aligned(np.ndim(real))
        with np.errstate(over="ignore"):  # far outside the range: infinity clips to its end as well
            steps = np.rint(np.asarray(real, np.float32) / scale).astype(np.float64) + zero_point
        return np.clip(steps, self.qmin, self.qmax).astype(self.dtype)

    def dequantize(self, q: IntArray) -> FloatArray:
        """Reals of integers as ONNX DequantizeLinear computes them; float32, shape of q."""
        scale, zero_point = self._aligned(np.ndim(q))
        return (np.asarray(q).astype(np.int64) - zero_point).astype(np.float32) * scale

    def _aligned(self, rank: int) -> tuple[FloatArray, IntArray]:
        """Scale and zero point, reshaped to broadcast along `axis` of a tensor of `rank` dimensions."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * rank
        shape[self.axis] = self.scale.size
        return self.scale.reshape(shape), self.zero_point.reshape(shape)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, QuantParams) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> tuple[object, ...]:
        return (
            self.scale.tobytes(),
            self.zero_point.tobytes(),
            self.scale.shape,
            self.dtype.name,
            self.qmin,
            self.qmax,
            self.axis,
        )


def check_scale(scale: FloatArray, where: str = "") -> None:
    """Refuse scales that no grid can have.

    Raises: QuantizationError: a scale is NaN, infinite or next to it, zero, negative or denormal, or there is none.
    """
    if scale.size == 0:
        raise QuantizationError(f"{_at(where)}scale is empty")
    bad = ~((scale >= SMALLEST_SCALE) & (scale <= LARGEST_SCALE))
    if not bad.any():
        return
    first = int(np.flatnonzero(bad)[0])
    value = float(scale.reshape(-1)[first])
    what = (
        "is NaN" if np.isnan(value)
        else "is infinite" if np.isinf(value)
        else "is zero" if value == 0
        else "is negative" if value < 0
        else "is denormal" if value < 1
        else "is so large that its grid leaves float32"
    )  # fmt: skip
    index = f"[{first}]" if scale.size > 1 else ""
    raise QuantizationError(
        f"{_at(where)}scale{index} = {value:g} {what}; the observer saw no usable data there: train it again with the "
        "observers on, or leave that tensor out of quantization"
    )


def _at(where: str) -> str:
    return f"{where}: " if where else ""
