"""How tensors are stored between kernels: their grid, and the order of their axes in memory."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from drpai_qat.graph.grid import Grid


@dataclass(frozen=True)
class Stored:
    """A tensor in memory.

    Attributes:
        buffer: number of the buffer in the program.
        shape: ONNX shape.
        order: axes in memory, slowest first; NHWC is (0, 2, 3, 1).
        dtype: of the elements.
        grid: what integers mean; None for float32 and for plain integers.
        pads: pixels of its zero point around each image: top, left, bottom, right. Only convolutions read such tensors.
    """

    buffer: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    dtype: str
    grid: Grid | None = None
    pads: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def physical(self) -> tuple[int, ...]:
        """The dims in memory order; a scalar is one element."""
        return tuple(self.shape[axis] for axis in self.order) or (1,)

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    def ordered_as(self, order: tuple[int, ...]) -> bool:
        """Memory is the same in both orders (axes of size 1 may stand anywhere)."""
        return [a for a in self.order if self.shape[a] != 1] == [a for a in order if self.shape[a] != 1]

    def in_order(self, order: tuple[int, ...]) -> Stored:
        """The same memory read in an equivalent order."""
        return replace(self, order=order)


@dataclass(frozen=True)
class Form:
    """A channels-last tensor as a convolution reads it.

    Attributes:
        pads: pixels of its zero point around each image: top, left, bottom, right.
        channels: of a pixel, with the zero channels that fill up the product's steps.
        grid: of the integers that are multiplied, perhaps 8 bits as int16 without a zero point; None for float32.
        extra_rows: rows below the bottom padding, whatever they hold (`ConvShape.rows_as_pixels`).
    """

    pads: tuple[int, int, int, int]
    channels: int
    grid: Grid | None
    extra_rows: int = 0

    @property
    def dtype(self) -> str:
        """Of the elements."""
        return "float32" if self.grid is None else self.grid.dtype

    @property
    def zero_point(self) -> int:
        """What the padding holds."""
        return 0 if self.grid is None else self.grid.zero_point

    def is_of(self, stored: Stored) -> bool:
        """A channels-last tensor has this form already."""
        same_steps = stored.grid is None if self.grid is None else self.grid.same_steps(stored.grid)
        written = (stored.pads, stored.shape[1], stored.dtype)
        return same_steps and written == (self.pads, self.channels, self.dtype) and not self.extra_rows


def row_major(rank: int) -> tuple[int, ...]:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """N, spatial axes, C."""
    return (0, *range(2, rank), 1) if rank > 2 else row_major(rank)


def permuted(stored: Stored, permutation: tuple[int, ...]) -> Stored:
    """ONNX Transpose as a view: no element moves."""
    shape = tuple(stored.shape[axis] for axis in permutation)
    order = tuple(permutation.index(axis) for axis in stored.order)
    return replace(stored, shape=shape, order=order)
