"""Convolution and matrix product: one register-tiled template for every dtype and instruction set.

    acc[n, p, k] = bias[k] + sum over r, s, c of  x[n, y(p, r), x(p, s), c] * w[k, r, s, c]
    y(p, r) = row(p) * stride + r * dilation;   x(p, s) = column(p) * stride + s * dilation

p counts output pixels, row-major. A tile is `pixels` output pixels times `vectors * lanes` output channels, held in
registers over the whole reduction; its epilogue runs on the same registers. A matrix product is the 1x1 case. Guarded
products look at the activations of a tile first, once for all its channels (`guard.py`).

Several inputs, each with weights of its own, make a sum of such terms:  float(acc_0) + ratio_1 * float(acc_1) + ...
That is how a residual sum or a concatenation of tensors on different grids enters a convolution exactly, with neither
computed (`graph/parts.py`).

Inputs come channels-last, already padded, the channels of each group a multiple of the product's pack (`prepare.py`).
Weights are packed once, when compiling: [block of channels][r][s][c / pack][channel][pack], so that the inner loop
reads them in order. Source: shared practice of register-tiled GEMM; measured in benchmarks/kernels.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import ConvShape, Index, runs_of
from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg, largest_acc
from drpai_qat.kernels.isa import Isa, Vector, splat, vector
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.term import Term, TermEmitter
from drpai_qat.kernels.tiling import Tiling, choose_tiling


def conv(
    shape: ConvShape,
    product: Product,
    isa: Isa,
    epilogue: Epilogue,
    weights: npt.NDArray[np.generic] | None,
    bias: npt.NDArray[np.int32] | None = None,
    tiling: Tiling | None = None,
) -> Kernel:
    """A convolution kernel of one input; the arguments are those of `Term` and `conv_sum`."""
    return conv_sum(shape, (Term(product, weights, bias),), isa, epilogue, tiling)


def conv_sum(
    shape: ConvShape, terms: Sequence[Term], isa: Isa, epilogue: Epilogue, tiling: Tiling | None = None
) -> Kernel:
    """A kernel that convolves several inputs and adds the results.

    Args:
        shape: sizes; its channels are those of the first term, the others have theirs from their weights.
        terms: at least one; all weights constant where there are several.
    Returns: kernel of (data of each term, operands); output shape (batch, out_height, out_width, out_channels).
    """
    tiling = tiling or _tiling(shape, terms, isa)
    emitters = [TermEmitter(term, shape, isa, tiling.vectors) for term in terms]
    suffixes = [str(i) if i else "" for i in range(len(terms))]
    ratios = np.asarray([term.ratio for term in terms], np.float32)
    out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    largest = sum(largest_acc(term.product.acc_dtype) * term.ratio for term in terms)
    emitter = EpilogueEmitter(epilogue, out_shape, isa, largest)
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("conv")
        T.func_attr({"global_symbol": "conv", "tirx.noalias": True})
        for one, suffix in zip(emitters, suffixes, strict=True):
            one.declare_data(suffix)
        emitter.declare_operands()
        for one, suffix in zip(emitters, suffixes, strict=True):
            one.declare_constants(suffix)
        scales = flat_arg("ratios", ratios.shape, "float32") if len(terms) > 1 else None
        emitter.declare_constants()
        emitter.declare_output()
        emitter.fill_border()
        _Body(shape, isa, tiling, emitters, emitter, scales).emit()
    own = [constant for one in emitters for constant in one.constants]
    constants = (*own, *((ratios,) if len(terms) > 1 else ()), *emitter.constants)
    return Kernel(builder.get(), constants, emitter.stored_shape, epilogue.out_dtype, epilogue.more_dtypes)


def _tiling(shape: ConvShape, terms: Sequence[Term], isa: Isa) -> Tiling:
    """The smallest of the tiles that the terms' products would choose: its registers suffice for all."""
    choices = [choose_tiling(shape, term.product, isa) for term in terms]
    return min(choices, key=lambda one: one.pixels * one.vectors)


@dataclass(frozen=True, eq=False)
class _Body:
    """Everything the loops of one kernel refer to."""

    shape: ConvShape
    isa: Isa
    tiling: Tiling
    terms: list[TermEmitter]
    emitter: EpilogueEmitter
    ratios: Any

    def emit(self) -> None:
        """Parallel over pixel chunks (all blocks inside) or over blocks (all pixels inside), whichever moves less."""
        tiles = math.ceil(self.shape.out_pixels / self.tiling.pixels)
        runs = runs_of(self.terms[0].blocks)
        if self.tiling.parallel == "pixels":
            chunk = self.tiling.chunk
            chunks = math.ceil(tiles / chunk)

            def tile_of(first: Index, t: Index) -> Index:
                # The last chunk repeats its last tile rather than branch: same values, written again.
                return T.min(first * chunk + t, tiles - 1) if tiles % chunk else first * chunk + t

            with T.parallel(self.shape.batch * chunks) as task:
                batch, first = _split(task, chunks, self.shape.batch)
                self._prepare(chunk)
                if self._surveyed:
                    with T.serial(chunk) as t:
                        self._survey(batch, tile_of(first, t), t)
                for run in runs:
                    with T.serial(run.stop - run.start) as index, T.serial(chunk) as t:
                        self._tile(batch, tile_of(first, t), run, index, t)
        else:
            self._prepare(self.shape.batch * tiles)
            if self._surveyed:
                with T.parallel(self.shape.batch * tiles) as task:
                    batch, tile = _split(task, tiles, self.shape.batch)
                    self._survey(batch, tile, task)
            for run in runs:
                count = run.stop - run.start
                with T.parallel(self.shape.batch * count) as task:
                    batch, index = _split(task, count, self.shape.batch)
                    with T.serial(tiles) as tile:
                        self._fetch_ahead(run, index, tile, tiles)
                        self._tile(batch, tile, run, index, batch * tiles + tile)

    @property
    def _surveyed(self) -> bool:
        return any(term.product.guard for term in self.terms)

    def _prepare(self, tiles: int) -> None:
        for term in self.terms:
            term.prepare(tiles)

    def _survey(self, batch: Index, tile: Index, number: Index) -> None:
        first = self._first(tile)
        for term in self.terms:
            term.survey(batch, first, number, self.tiling.pixels)

    def _fetch_ahead(self, run: slice, index: Index, tile: Index, tiles: int) -> None:
        """Ask for this tile's part of the next block's weights, so that they are at hand when it begins."""
        for term in self.terms:
            term.fetch_ahead(run, index, tile, tiles)

    def _first(self, tile: Index) -> Index:
        """First pixel of a tile; the last one starts early and overlaps its neighbour instead of running short."""
        shape, first = self.shape, tile * self.tiling.pixels
        if shape.out_pixels % self.tiling.pixels:
            first = T.Bind(T.min(first, shape.out_pixels - self.tiling.pixels))
        return first

    def _tile(self, batch: Index, tile: Index, run: slice, index: Index, number: Index) -> None:
        """Compute and store one tile; `number` is its number in the survey."""
        shape, lanes, pixels = self.shape, self.isa.lanes, self.tiling.pixels
        first = self._first(tile)
        blocks = self.terms[0].blocks[run]
        block, step = blocks[0], (blocks[1].start - blocks[0].start if len(blocks) > 1 else 0)
        read = self._accumulated(batch, first, run, index, number)
        rows = self.emitter.rows(batch * shape.out_pixels + first, pixels)
        channel, whole = block.start + index * step, block.channels // lanes
        positions = [i * block.vectors * lanes for i in range(pixels)]
        pieces = []
        for i, position in enumerate(positions):
            offsets = [j * lanes for j in range(whole)]
            pieces += [(rows[i], channel + offset, read(position + offset, lanes)) for offset in offsets]
        self.emitter.store_tile(pieces)
        for i, position in enumerate(positions):
            done, end = whole * lanes, block.channels
            while done < end:  # the channels beyond the last full register, by powers of two
                width = 1 << (end - done).bit_length() - 1
                self.emitter.store(rows[i], channel + done, read(position + done, width), width)
                done += width

    def _accumulated(self, batch: Index, first: Index, run: slice, index: Index, number: Index) -> Any:
        """Compute a tile; returns a function that reads `width` accumulators from a position, as float32."""
        pixels, lanes = self.tiling.pixels, self.isa.lanes
        size = pixels * self.terms[0].blocks[run][0].vectors * lanes
        accumulators = []
        total = None
        for i, term in enumerate(self.terms):
            acc = T.alloc_buffer((size,), term.product.acc_dtype)
            accumulators.append(acc)
            term.start(acc, run, index, pixels)
            term.add(acc, batch, first, run, index, number, pixels)
            if len(self.terms) == 1:
                break
            if total is None:
                total = T.alloc_buffer((size,), "float32")
            for position in range(0, size, lanes):
                where = tirx.Ramp(position, 1, lanes)
                value = _as_float(acc, position, lanes)
                if i:
                    value = total[where] + value * splat(self.ratios[i], lanes)
                T.buffer_store(total, value, [where])

        def read(position: int, width: int) -> Vector:
            return _as_float(accumulators[0] if total is None else total, position, width)

        return read


def _as_float(buffer: Any, position: int, lanes: int) -> Vector:
    value: Vector = buffer.vload([position], vector(buffer.dtype, lanes))
    return value if buffer.dtype == "float32" else T.Cast(vector("float32", lanes), value)


def _split(task: Index, inner: int, batch: int) -> tuple[Index, Index]:
    return (0, task) if batch == 1 else (tirx.floordiv(task, inner), tirx.floormod(task, inner))
