"""One term of a convolution: an input, its weights, and how a tile of accumulators takes in their products."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import Block, ConvShape, Index, blocks_of, pack_weights
from drpai_qat.kernels.epilogue import after_wrap, flat_arg
from drpai_qat.kernels.guard import Survey, limits
from drpai_qat.kernels.isa import Isa, prefetch, splat, vector
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.products import HALVES

Constant = npt.NDArray[np.generic]
_FEW_PIXELS = 8  # beside fewer, asking for weights takes as long as multiplying them


@dataclass(frozen=True, eq=False)
class Term:
    """One input of a convolution, with its weights.

    Attributes:
        product: the arithmetic.
        weights: int8, int16 or float32, shape (out_channels, rows, columns, channels), channels a multiple of the
            product's pack; None where they are an input of the function (one packed matrix per batch element), as for
            products of two activations (`pack.py`).
        bias: int32, shape (out_channels,): start values of the accumulators (bias and zero-point correction).
        ratio: real value of one accumulator step, as a multiple of the first term's.
    """

    product: Product
    weights: Constant | None
    bias: npt.NDArray[np.int32] | None = None
    ratio: float = 1.0


class TermEmitter:
    """Emits one term inside a convolution under construction.

    Use, in this order: `declare_data()`, `declare_constants()`, where tiles are walked `prepare()`, then for each tile
    `survey()`, and for each tile and block `start()` and `add()`.
    """

    def __init__(self, term: Term, shape: ConvShape, isa: Isa, vectors: int) -> None:
        self.product, self.isa = term.product, isa
        self.shape = shape if term.weights is None else replace(shape, channels=term.weights.shape[-1])
        self.blocks = blocks_of(self.shape, isa.lanes, vectors)
        self._dynamic = term.weights is None
        bias = term.bias if term.weights is None else self.product.start(term.weights, term.bias)
        self._bias = None if bias is None else _pad_bias(bias, self.blocks, isa.lanes)
        self._bounds: npt.NDArray[np.int16] | None = None
        self._packed: Constant | None = None
        if term.weights is not None:
            if self.product.guard:
                self._bounds = limits(term.weights.astype(np.int8, copy=False), self.product.steps, isa)
            self._packed = pack_weights(term.weights, self.shape, self.blocks, isa.lanes, self.product.pack)
        self._data: Any
        self._weights: Any
        self._start: Any
        self._limits: Any
        self._survey: Survey | None = None

    @property
    def weight_count(self) -> int:
        """Packed weights of one matrix, in elements."""
        last = self.blocks[-1]
        return last.weight_offset + last.vectors * self.isa.lanes * self.shape.reduction

    @property
    def constants(self) -> tuple[Constant, ...]:
        """In the order `declare_constants` declares them."""
        return tuple(c.reshape(-1) for c in (self._packed, self._bias, self._bounds) if c is not None)

    def declare_data(self, suffix: str) -> None:
        """Add the term's inputs to the function's arguments."""
        self._data = flat_arg(f"data{suffix}", (self.shape.in_size,), self.product.in_dtype)
        if self._dynamic:
            count = self.shape.batch * self.weight_count
            self._weights = flat_arg(f"matrix{suffix}", (count,), self.product.weight_dtype)

    def declare_constants(self, suffix: str) -> None:
        """Add `constants` to the function's arguments."""
        if not self._dynamic:
            self._weights = flat_arg(f"weights{suffix}", (self.weight_count,), self.product.weight_dtype)
        if self._bias is not None:
            self._start = flat_arg(f"bias{suffix}", self._bias.shape, "int32")
        if self._bounds is not None:
            self._limits = flat_arg(f"limits{suffix}", self._bounds.shape, "int16")

    def prepare(self, tiles: int) -> None:
        """Make room for the notes of `survey` on so many tiles; allocated where this is called."""
        if self.product.guard:
            self._survey = Survey.of(self.shape, self.product.steps, self.isa, self._limits, tiles)

    def survey(self, batch: Index, first: Index, tile: Index, pixels: int) -> None:
        """Look at the activations of a tile, where its products depend on them.

        Args:
            tile: its number among those that `prepare` made room for.
        """
        if self._survey is None:
            return
        bases = [T.Bind(base) for base in self._input_offsets(batch, first, 0, pixels)]
        self._survey.write(tile, self._data, bases)

    def fetch_ahead(self, run: slice, index: Index, tile: Index, tiles: int) -> None:
        """Bring one of `tiles` parts of the next block's weights into the cache."""
        blocks = self.blocks[run]
        if self._dynamic or len(blocks) == 1 or self.shape.out_pixels < _FEW_PIXELS:
            return
        size = blocks[1].weight_offset - blocks[0].weight_offset
        line = 64 // np.dtype(self.product.weight_dtype).itemsize
        lines = math.ceil(size / (line * tiles))
        start = T.Bind(blocks[0].weight_offset + (index + 1) * size + tile * (lines * line))
        with T.serial(lines) as i:
            prefetch(self._weights, start + i * line)

    def start(self, acc: Any, run: slice, index: Index, pixels: int) -> None:
        """Set the accumulators of a tile to their start values.

        Args:
            acc: local buffer, [pixel][vector][lane].
            run: neighbouring blocks of one width, of which `index` selects one.
        """
        lanes, dtype = self.isa.lanes, self.product.acc_dtype
        block = self.blocks[run][0]
        base = block.weight_offset // self.shape.reduction
        for i in range(pixels):
            for j in range(block.vectors):
                if self._bias is None:
                    value = splat(tirx.const(0, dtype), lanes)
                else:
                    value = self._start.vload(
                        [base + index * (block.vectors * lanes) + j * lanes], vector("int32", lanes)
                    )
                T.buffer_store(acc, value, [tirx.Ramp((i * block.vectors + j) * lanes, 1, lanes)])

    def add(self, acc: Any, batch: Index, first: Index, run: slice, index: Index, tile: Index, pixels: int) -> None:
        """Add this term's products for `pixels` output pixels from `first` on; `tile` is their number in `survey`."""
        blocks = self.blocks[run]
        block = blocks[0]
        group: Index = block.group
        step = 0
        if len(blocks) > 1:
            step = blocks[1].weight_offset - block.weight_offset
            group = block.group + index * (blocks[1].group - block.group)
        bases = [T.Bind(base) for base in self._input_offsets(batch, first, group, pixels)]
        batch_stride = self.weight_count if self._dynamic else 0
        weight_base = T.Bind(block.weight_offset + index * step + batch * batch_stride)
        size = pixels * block.vectors * self.isa.lanes
        with self.product.sums(self.isa, acc, size) as sums:
            if self._survey is None:
                self._reduce(sums, bases, weight_base, block.vectors)
            else:
                self._reduce_surveyed(self._survey, sums, bases, weight_base, block.vectors, tile)

    def _input_offsets(self, batch: Index, first: Index, group: Index, pixels: int) -> list[Index]:
        shape = self.shape
        total = shape.pitch
        image = batch * (shape.height * shape.width * total) + group * shape.channels
        step = shape.stride[1] * total
        if shape.is_dense_product:
            return [image + (first + i) * total for i in range(pixels)]
        if shape.out_width % pixels == 0:  # the tile lies within one output row
            base = self._input_offset(image, first)
            return [base + i * step for i in range(pixels)]
        next_row = (shape.stride[0] * shape.width) * total - shape.out_width * step
        if pixels <= shape.out_width:
            start = T.Bind(self._input_offset(image, first))
            return [
                start + (i * step + wrapped)
                for i, wrapped in enumerate(after_wrap(first, pixels, shape.out_width, next_row))
            ]
        return [self._input_offset(image, first + i) for i in range(pixels)]

    def _input_offset(self, image: Index, pixel: Index) -> Index:
        shape = self.shape
        row, column = tirx.floordiv(pixel, shape.out_width), tirx.floormod(pixel, shape.out_width)
        return image + (row * shape.stride[0] * shape.width + column * shape.stride[1]) * shape.pitch

    def _reduce(self, sums: Any, bases: list[Index], weight_base: Index, vectors: int) -> None:
        """Accumulate over kernel rows, columns and channel groups; short loops are unrolled."""
        shape, product = self.shape, self.product
        rows, columns = shape.kernel
        steps = shape.channels // product.pack
        if product.by_lane(self.isa) and shape.dilation[1] == 1 and shape.groups == 1:
            steps, columns = steps * columns, 1  # a row under the kernel is one run of memory
        weight_width = vectors * self.isa.lanes * product.pack
        groups = product.groups(self.isa, steps)
        short = 8 // max(1, sum(count for _, count in groups))
        with _loop(rows, 1) as r, _loop(columns, short) as s:
            done = 0
            for group, count in groups:
                with _loop(count, 2) as c:
                    step = done + c * group
                    offset = shape.tap_offset(r, s) + step * product.pack
                    weight = weight_base + ((r * columns + s) * steps + step) * weight_width
                    product.accumulate(self.isa, sums, self._data, self._weights, bases, offset, weight, vectors, group)
                done += group * count

    def _reduce_surveyed(
        self, survey: Survey, sums: Any, bases: list[Index], weight_base: Index, vectors: int, tile: Index
    ) -> None:
        """Accumulate group by group as the tile's lists say."""
        steps, apart = self.product.steps, survey.apart
        width = vectors * self.isa.lanes
        fitting = survey.fitting(tile)
        with T.serial(fitting) as i:
            at, weight = survey.group(tile, i)
            self.product.accumulate(
                self.isa, sums, self._data, self._weights, bases, at, weight_base + weight * width, vectors, steps,
                apart // self.product.pack,
            )  # fmt: skip
        with T.serial(survey.entries - fitting) as i:
            at, weight = survey.group(tile, survey.entries - 1 - i)
            for step in range(steps):
                start = weight_base + (weight + step * apart) * width
                HALVES.accumulate(
                    self.isa, sums, self._data, self._weights, bases, at + step * apart, start, vectors, 1
                )


def _pad_bias(bias: npt.NDArray[np.int32], blocks: tuple[Block, ...], lanes: int) -> npt.NDArray[np.int32]:
    parts = []
    for block in blocks:
        part = np.zeros(block.vectors * lanes, np.int32)
        part[: block.channels] = bias[block.start : block.start + block.channels]
        parts.append(part)
    return np.concatenate(parts)


def _loop(extent: int, unroll_up_to: int) -> Any:
    return T.unroll(extent) if extent <= unroll_up_to else T.serial(extent)
