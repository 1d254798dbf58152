"""vpmaddubsw where the activations at hand cannot make int16 saturate; a slower, exact way where they might.

With activations of the full 8 bits hardly any weights prove that sums of products fit int16. But behind a ReLU most
activations are far below the largest, and by the inequality of Cauchy and Schwarz

    |sum a * w|  <=  |a| * |w|        (Euclidean norms over the products that one int16 sums up)

no more is needed than a look at the activations. Before a tile of pixels is multiplied, its activations are surveyed:
groups of channels that are small enough for every pixel of the tile are listed from the front of a list, the others
from its back. The main loop follows the front, the exact one the back. Whatever the data, every product is exact; the
data decides how fast.

The survey reads the activations once for all output channels. So that it needs no shuffles, the `steps` products of
four channels that are added in int16 lie a register apart.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import ConvShape, Index
from drpai_qat.kernels.isa import Isa, dot4_int16, nothing_set, saturating_add, span, splat, vector

_PACK = 4
_LARGEST = 32767
_MEAN, _RMS = 1 / 14, 1 / 8  # typical behind a ReLU, as parts of the largest activation seen
# Typical norms over largest ones, so that few are beyond. Four steps gain a tenth over two and can lose a half.
_LOADS = {4: 0.3, 2: 0.45, 1: 0.45}


def apart(channels: int, steps: int, isa: Isa) -> int:
    """Channels from one step of a group to the next: as many as fill a register, or half of one; 0 where none fit."""
    sizes = (size for size in (32, 16) if size <= isa.lanes * _PACK and channels % (steps * size) == 0)
    return next(sizes, 0)


def largest_norms(weights: npt.NDArray[np.int8], steps: int, isa: Isa) -> npt.NDArray[np.float64]:
    """Largest norm of the activations whose products fit int16, for each int16 of a group.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels).
    Returns: shape (registers of the survey, their int16).
    """
    size = apart(weights.shape[-1], steps, isa)
    squares = weights.reshape(len(weights), -1, steps, size // 2, 2).astype(np.int32) ** 2
    return _LARGEST / np.sqrt(np.maximum(squares.sum((2, 4)).max(0), 1))


def limits(weights: npt.NDArray[np.int8], steps: int, isa: Isa) -> npt.NDArray[np.int16]:
    """Largest sums of a * (a >> 1) with which the norms stay below `largest_norms`; flat.

    a² is at most 2 * a * (a >> 1) + a, and the sum of n activations at most sqrt(n) times their norm.
    """
    norms = largest_norms(weights, steps, isa)
    sums = (norms**2 - math.sqrt(2 * steps) * norms) / 2
    return np.clip(np.floor(sums), 0, _LARGEST - 1).astype(np.int16).reshape(-1)


def likely_steps(weights: npt.NDArray[np.int8], zero_point: int, qmax: int, isa: Isa) -> int:
    """How many vpmaddubsw results to add in int16 so that the survey will find few exceptions; 0 where one is many.

    A guess about speed: the range tells how large the largest activation is, and nothing tells it of the others.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels).
        zero_point, qmax: of the stored activations (uint8); zero, the most frequent one, is stored as `zero_point`.
    """
    above = qmax - zero_point
    typical = math.sqrt(zero_point**2 + 2 * zero_point * _MEAN * above + (_RMS * above) ** 2)
    for steps, load in _LOADS.items():
        if apart(weights.shape[-1], steps, isa):
            room = float(np.median(largest_norms(weights, steps, isa)))
            if math.sqrt(2 * steps) * typical <= load * room:
                return steps
    return 0


@dataclass(frozen=True, eq=False)
class Survey:
    """The lists of the tiles that one task walks.

    A group of channels under one position of the kernel is listed as where its activations are, counted from the
    pixel's first, and as where its weights are, counted in weights of one output channel.

    Attributes:
        shape: of the convolution; one group.
        steps: how many products are added in int16.
        limits: the buffer of `limits`.
    """

    shape: ConvShape
    steps: int
    isa: Isa
    limits: Any
    _activations: Any
    _weights: Any
    _counts: Any

    @classmethod
    def of(cls, shape: ConvShape, steps: int, isa: Isa, limits: Any, tiles: int) -> Survey:
        """Room for the lists of so many tiles, allocated where it is called."""
        count = tiles * shape.reduction // (_PACK * steps)
        activations = T.alloc_buffer((count,), "int32")
        # Of a 1x1 convolution both are the same.
        weights = activations if shape.kernel == (1, 1) else T.alloc_buffer((count,), "int32")
        return cls(shape, steps, isa, limits, activations, weights, T.alloc_buffer((tiles,), "int32"))

    @property
    def entries(self) -> int:
        """Groups of channels in one list."""
        return self.shape.reduction // (_PACK * self.steps)

    @property
    def apart(self) -> int:
        """Channels from one step of a group to the next."""
        return apart(self.shape.channels, self.steps, self.isa)

    def fitting(self, tile: Index) -> Index:
        """How many groups at the front of a tile's list have products that fit int16."""
        return T.Bind(self._counts[tile])

    def group(self, tile: Index, index: Index) -> tuple[Index, Index]:
        """Where the activations and the weights of one group are."""
        at = tile * self.entries + index
        activations = T.Bind(self._activations[at])
        return activations, activations if self._weights is self._activations else T.Bind(self._weights[at])

    def write(self, tile: Index, data: Any, pixels: list[Index]) -> None:
        """Fill the list of a tile.

        Args:
            pixels: where the activations of each of its pixels start in `data`.
        """
        shape, size = self.shape, self.apart
        groups = size // _PACK
        first = T.Bind(tile * self.entries)
        fitting = T.alloc_buffer((1,), "int32")
        excess = T.alloc_buffer((groups,), "int32")
        T.buffer_store(fitting, T.int32(0), [0])
        rows, columns = shape.kernel
        each = shape.channels // (size * self.steps)
        with T.serial(rows) as r, T.serial(columns) as s, T.serial(each) as i:
            turn = T.Bind((r * columns + s) * each + i)
            place = T.Bind(shape.tap_offset(r, s) + i * (size * self.steps))
            weight = turn * (size * self.steps)
            over = self._over(data, [pixel + place for pixel in pixels], turn)
            with T.If(nothing_set(over, groups)):
                with T.Then():
                    self._list(first + fitting[0], place, weight, groups)
                    T.buffer_store(fitting, fitting[0] + groups, [0])
                with T.Else():
                    T.buffer_store(excess, over, [tirx.Ramp(0, 1, groups)])
                    with T.serial(groups) as j:
                        fits = T.Bind(T.Cast("int32", excess[j] == 0))
                        back = self.entries - 1 - (turn * groups + j - fitting[0])
                        at = T.Bind(first + T.Select(fits == 1, fitting[0], back))
                        self._list(at, place + j * _PACK, weight + j * _PACK, 1)
                        T.buffer_store(fitting, fitting[0] + fits, [0])
        T.buffer_store(self._counts, fitting[0], [tile])

    def _list(self, at: Index, place: Index, weight: Index, groups: int) -> None:
        """Note neighbouring groups."""
        numbers = {self._activations: place, self._weights: weight}
        for buffer, first in numbers.items():
            some = first if groups == 1 else tirx.Ramp(first, _PACK, groups)
            T.buffer_store(buffer, some, [span(at, groups)])

    def _over(self, data: Any, starts: list[Index], turn: Index) -> Any:
        """int32 for each group of channels, zero where all pixels are within the limits."""
        size = self.apart
        lanes = size // _PACK
        isa = replace(self.isa, lanes=lanes)
        largest = None
        for start in starts:
            squares = None
            for step in range(self.steps):
                a = T.Bind(data.vload([start + step * size], vector("uint8", size)))
                half = T.reinterpret(a >> splat(T.uint8(1), size), dtype=vector("int8", size))
                some = dot4_int16(isa, a, half)
                squares = some if squares is None else saturating_add(squares, some)
            largest = T.Bind(squares if largest is None else T.max(largest, squares))
        limit = self.limits.vload([turn * (2 * lanes)], vector("int16", 2 * lanes))
        # Both are 0 or more, so the difference fits.
        beyond = T.max(largest - limit, splat(T.int16(0), 2 * lanes))
        return T.Bind(T.reinterpret(beyond, dtype=vector("int32", lanes)))
