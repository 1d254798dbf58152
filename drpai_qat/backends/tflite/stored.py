"""How the tensors of a TFLite file hold those of the ONNX graph: the order of their axes, and their grid."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite.grids import LiteGrid


@dataclass(frozen=True)
class Stored:
    """A tensor of the file and what it stands for.

    Attributes:
        tensor: its index.
        shape: ONNX shape.
        order: axes as the file has them, slowest first; NHWC is (0, 2, 3, 1).
        grid: what its integers mean; None for float32 and for plain integers.
        columns: where the last axis is a flattened image that kept its channels last: the ONNX position of each
            element. Only matrix products with constant weights read such tensors.
    """

    tensor: int
    shape: tuple[int, ...]
    order: tuple[int, ...]
    grid: LiteGrid | None = None
    columns: NDArray[np.int64] | None = None

    @property
    def physical(self) -> tuple[int, ...]:
        """The shape in the file."""
        return tuple(self.shape[axis] for axis in self.order)

    def permuted(self, permutation: tuple[int, ...]) -> Stored:
        """ONNX Transpose as a view: no element moves."""
        shape = tuple(self.shape[axis] for axis in permutation)
        return replace(self, shape=shape, order=tuple(permutation.index(axis) for axis in self.order))

    def same_elements(self, order: tuple[int, ...]) -> bool:
        """The elements lie in the same sequence in both orders (axes of size 1 may stand anywhere)."""
        return [a for a in self.order if self.shape[a] != 1] == [a for a in order if self.shape[a] != 1]


def row_major(rank: int) -> tuple[int, ...]:
    """ONNX's own order."""
    return tuple(range(rank))


def channels_last(rank: int) -> tuple[int, ...]:
    """N, spatial axes, C."""
    return (0, *range(2, rank), 1) if rank > 2 else row_major(rank)


def placed(values: NDArray[Any], order: tuple[int, ...]) -> NDArray[Any]:
    """A constant of the rank of `order` with its axes in that order."""
    return np.ascontiguousarray(values.transpose(order)) if values.ndim == len(order) else values


def reshaped_order(stored: Stored, shape: tuple[int, ...]) -> tuple[int, ...] | None:
    """The order of a reshaped tensor's axes if its elements stay where they are; None where they have to move.

    Axes that are merged or split must lie side by side in memory, in their own order: (N, C, H, W) with its channels
    last becomes (N, C, H*W) with its channels last.
    """
    blocks = _blocks(stored.shape, shape)
    if blocks is None:
        return None
    place = {axis: i for i, axis in enumerate(axis for axis in stored.order if stored.shape[axis] != 1)}
    placed: list[tuple[int, list[int]]] = []
    for old, new in blocks:
        places = [place[axis] for axis in old]
        if places != list(range(places[0], places[0] + len(places))):
            return None
        placed.append((places[0], new))
    moving = [axis for _, axes in sorted(placed) for axis in axes]
    ones = [axis for axis, size in enumerate(shape) if size == 1]
    order = (*ones, *moving)
    return (0, *(axis for axis in order if axis != 0)) if 0 in ones else order  # N stays in front


def _blocks(old: tuple[int, ...], new: tuple[int, ...]) -> list[tuple[list[int], list[int]]] | None:
    """Axes of both shapes, sizes of 1 left out, in the smallest groups of equal size; None where a size differs."""
    before = [axis for axis, size in enumerate(old) if size != 1]
    after = [axis for axis, size in enumerate(new) if size != 1]
    blocks: list[tuple[list[int], list[int]]] = []
    while before and after:
        left, right = [before.pop(0)], [after.pop(0)]
        sizes = [old[left[0]], new[right[0]]]
        while sizes[0] != sizes[1]:
            smaller = 0 if sizes[0] < sizes[1] else 1
            source, taken, dims = ((before, left, old), (after, right, new))[smaller]
            if not source:
                return None
            taken.append(source.pop(0))
            sizes[smaller] *= dims[taken[-1]]
        blocks.append((left, right))
    return None if before or after else blocks
