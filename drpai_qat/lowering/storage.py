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
