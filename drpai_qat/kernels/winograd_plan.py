"""Which convolutions Winograd's algorithms compute, exactly and faster than a direct one, and in which loop order."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.product_choice import DOT2_COST
from drpai_qat.kernels.winograd_lines import FOUR, TWO, Lines

BYTE = 255  # the largest
VECTORS = 2  # registers of output channels in a tile of products
# Times as multiples of a vpmaddubsw product's (`DOT2_COST`), fitted on a Golden Cove core held to AVX2.
_WEIGHT, _INPUT, _TOTAL = 20.0, 4.0, 9.0  # of transforming a weight, of making a transformed input, of using up a total
_BATCH_BYTES = 160 * 1024  # part of L2 that a batch of transformed windows may fill
_MOST_WINDOWS = 64  # in a batch
_MOST_CHUNK = 128  # channels whose weights are transformed together: 147 KB
_GAP = 32  # elements between two positions, lest all of them fall into one set of the cache


@dataclass(frozen=True)
class WinogradPlan:
    """How one convolution is computed.

    Attributes:
        shape: sizes; channels and out_channels are multiples of `granularity`.
        lines: the algorithm.
        ahead: the operand that is transformed before the convolution, for all tasks.
        tile: windows multiplied together.
        batch: windows of which all products are made before their outputs are, a multiple of `tile`.
        chunk: input channels whose weights are transformed together, where those are not transformed ahead.
        planes: how many are multiplied with the same weights: uint8 inputs, or the two bytes of an int16 one.
        bytes_of_int16: the planes are those of int16 activations.
    """

    shape: ConvShape
    lines: Lines
    isa: Isa
    ahead: Literal["weights", "windows"]
    tile: int
    batch: int
    chunk: int
    planes: int = 1
    bytes_of_int16: bool = False

    @property
    def dtype(self) -> str:
        """Of the activations."""
        return "int16" if self.bytes_of_int16 else "uint8"

    @property
    def inputs(self) -> int:
        """Tensors of activations, each with a scale of its own."""
        return 1 if self.bytes_of_int16 else self.planes

    @property
    def positions(self) -> int:
        """Products of one window and channel."""
        return self.lines.window**2

    @property
    def block(self) -> int:
        """Output channels of one tile of products."""
        return granularity(self.isa)

    @property
    def blocks(self) -> int:
        """Tiles that cover the output channels."""
        return self.shape.out_channels // self.block

    @property
    def grid(self) -> tuple[int, int]:
        """Windows of one image: rows, columns."""
        outputs = self.lines.outputs
        return math.ceil(self.shape.out_height / outputs), math.ceil(self.shape.out_width / outputs)

    @property
    def windows(self) -> int:
        """Windows of all images."""
        return self.shape.batch * math.prod(self.grid)

    @property
    def batches(self) -> int:
        """Batches that cover all windows; the last repeats the last window."""
        return math.ceil(self.windows / self.batch)

    @property
    def cost(self) -> float:
        """Time per product of a direct convolution, as a multiple of a vpmaddubsw product's."""
        shape, elements = self.shape, self.planes * self.batches * self.batch * self.positions
        weights = 9 * shape.channels * shape.out_channels * (self.batches if self.ahead == "windows" else 1)
        products = DOT2_COST * elements * shape.channels * shape.out_channels
        operands = elements * (_INPUT * shape.channels + _TOTAL * shape.out_channels)
        return (products + operands + _WEIGHT * weights) / shape.macs

    def window_slab(self, windows: int) -> int:
        """Elements of one position of so many transformed windows: [window][channel]."""
        return windows * self.shape.channels + _GAP

    def weight_slab(self, channels: int) -> int:
        """Elements of one position of one block's transformed weights: [pair of channels][output channel][2]."""
        return channels * self.block + _GAP


def granularity(isa: Isa) -> int:
    """Input and output channels must be multiples of this."""
    return VECTORS * isa.lanes


def choose_plan(
    shape: ConvShape, weights: npt.NDArray[np.integer], qmax: int | None, isa: Isa, inputs: int = 1
) -> WinogradPlan | None:
    """The fastest plan that is exact for these weights; None where there is none.

    Args:
        weights: 8-bit values, shape (out_channels, rows, columns, channels).
        qmax: largest stored activation (uint8); None where they are int16, and all sums are known to fit int32.
        inputs: how many of uint8 are multiplied with the weights.
    """
    planes, largest = (inputs, qmax) if qmax is not None else (2, BYTE)
    plans = [_plan(shape, isa, lines, planes, qmax is None) for lines in (TWO, FOUR) if _applies(shape, isa, lines)]
    return next((plan for plan in sorted(plans, key=lambda one: one.cost) if fits(weights, largest, plan.lines)), None)


def _applies(shape: ConvShape, isa: Isa, lines: Lines) -> bool:
    """x86 without VNNI: with it, direct products are as fast."""
    size = granularity(isa)
    return (
        not isa.arm
        and not isa.dot4_exact
        and (shape.kernel, shape.stride, shape.dilation, shape.groups) == ((3, 3), (1, 1), (1, 1), 1)
        and shape.channels % size == 0
        and shape.out_channels % size == 0
        and min(shape.out_height, shape.out_width) >= lines.outputs
    )


def fits(weights: npt.NDArray[np.integer], qmax: int, lines: Lines) -> bool:
    """The transforms stay within int16, and the outputs within the bits that their factor leaves of int32.

    Args:
        weights: 8-bit values, shape (out_channels, 3, 3, channels).
        qmax: largest stored activation (uint8); of int16, largest low byte.
    """
    flat = weights.reshape(len(weights), -1).astype(np.int64)
    positive, negative = (np.maximum(part, 0).sum(1).max(initial=0) for part in (flat, -flat))
    return bool(
        np.abs(flat).max(initial=0) * lines.weight_growth**2 < 2**15
        and qmax * lines.input_growth**2 < 2**15
        and qmax * max(positive, negative) < 2 ** (31 - 2 * lines.shift)
    )


def _plan(shape: ConvShape, isa: Isa, lines: Lines, planes: int, bytes_of_int16: bool) -> WinogradPlan:
    rows, columns = (math.ceil(size / lines.outputs) for size in (shape.out_height, shape.out_width))
    windows = shape.batch * rows * columns
    ahead: Literal["weights", "windows"] = "weights" if shape.out_channels < windows else "windows"
    size = granularity(isa)
    chunk = max(n for n in range(size, _MOST_CHUNK + 1, size) if shape.channels % n == 0)
    most = _MOST_WINDOWS // planes
    if ahead == "weights":
        most = min(most, _BATCH_BYTES // (2 * planes * lines.window**2 * shape.channels))
    plans = [
        WinogradPlan(shape, lines, isa, ahead, tile, batch, chunk, planes, bytes_of_int16)
        for tile in (4, 5)
        for batch in range(tile, max(most, tile) + 1, tile)
    ]
    return min(plans, key=_waste)


def _waste(plan: WinogradPlan) -> tuple[float, int]:
    """Windows computed, those of the slowest of two and of four threads included; the largest batch among equals."""
    threads = (1, 2, 4) if plan.ahead == "weights" else (1,)
    computed = [math.ceil(plan.batches / n) * n * plan.batch for n in threads]
    return sum(computed) / len(computed) * (1 + 0.2 / plan.batch), -plan.batch
