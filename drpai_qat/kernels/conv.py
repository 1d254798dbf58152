"""Convolution and matrix product: one register-tiled template for every dtype and instruction set.

    acc[n, p, k] = bias[k] + sum over r, s, c of  x[n, y(p, r), x(p, s), c] * w[k, r, s, c]
    y(p, r) = row(p) * stride + r * dilation;   x(p, s) = column(p) * stride + s * dilation

p counts output pixels, row-major. A tile is `pixels` output pixels times `vectors * lanes` output channels, held in
registers over the whole reduction; its epilogue runs on the same registers. A matrix product is the 1x1 case.

Inputs come channels-last, already padded, the channels of each group a multiple of the product's pack (`prepare.py`).
Weights are packed once, when compiling: [block of channels][r][s][c / pack][channel][pack], so that the inner loop
reads them in order. Source: shared practice of register-tiled GEMM; measured in benchmarks/kernels.py.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.excess import Excess, split
from drpai_qat.kernels.isa import Isa, Vector, splat, vector
from drpai_qat.kernels.products import Product
from drpai_qat.kernels.tiling import Tiling, choose_tiling

Index = Any  # a TIR index expression or a Python int


@dataclass(frozen=True)
class ConvShape:
    """Sizes of one convolution over an already padded, channels-last input.

    Attributes:
        batch, height, width: of the input as stored.
        channels: input channels of one group, a multiple of the product's pack.
        out_height, out_width, out_channels: of the output (out_channels counts all groups).
        kernel, stride, dilation: (rows, columns).
        groups: the input holds groups * channels channels.
    """

    batch: int
    height: int
    width: int
    channels: int
    out_height: int
    out_width: int
    out_channels: int
    kernel: tuple[int, int] = (1, 1)
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def out_pixels(self) -> int:
        """Pixels of one output image."""
        return self.out_height * self.out_width

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included."""
        rows, columns = self.kernel
        return self.batch * self.out_pixels * self.out_channels * rows * columns * self.channels

    @property
    def is_dense_product(self) -> bool:
        """Input pixels are output pixels, in order: the pixels form one long row."""
        return (
            self.kernel == (1, 1)
            and self.stride == (1, 1)
            and (self.height, self.width) == (self.out_height, self.out_width)
        )

    @property
    def in_size(self) -> int:
        """Elements of the input."""
        return self.batch * self.height * self.width * self.groups * self.channels


@dataclass(frozen=True)
class Block:
    """Neighbouring output channels computed together: `vectors` registers wide, the last one perhaps not full."""

    start: int
    channels: int
    vectors: int
    group: int
    weight_offset: int


def blocks_of(shape: ConvShape, lanes: int, vectors: int, pack: int) -> tuple[Block, ...]:
    """The output channels cut into register blocks, group by group."""
    per_group = shape.out_channels // shape.groups
    reduction = shape.kernel[0] * shape.kernel[1] * shape.channels
    blocks, offset = [], 0
    for group in range(shape.groups):
        for start in range(0, per_group, lanes * vectors):
            channels = min(lanes * vectors, per_group - start)
            block = Block(group * per_group + start, channels, math.ceil(channels / lanes), group, offset)
            blocks.append(block)
            offset += block.vectors * lanes * reduction
    return tuple(blocks)


def pack_weights(
    weights: npt.NDArray[np.generic], shape: ConvShape, blocks: tuple[Block, ...], lanes: int, pack: int
) -> npt.NDArray[np.generic]:
    """Weights (out_channels, rows, columns, channels) in the order in which the kernel reads them; flat."""
    rows, columns = shape.kernel
    parts = []
    for block in blocks:
        padded = np.zeros((block.vectors * lanes, rows, columns, shape.channels), weights.dtype)
        padded[: block.channels] = weights[block.start : block.start + block.channels]
        grouped = padded.reshape(block.vectors * lanes, rows, columns, shape.channels // pack, pack)
        parts.append(grouped.transpose(1, 2, 3, 0, 4).reshape(-1))
    return np.concatenate(parts)


def conv(
    shape: ConvShape,
    product: Product,
    isa: Isa,
    epilogue: Epilogue,
    weights: npt.NDArray[np.generic] | None,
    bias: npt.NDArray[np.int32] | None = None,
    tiling: Tiling | None = None,
) -> Kernel:
    """A convolution kernel with its packed weights.

    Args:
        weights: int8 or float32, shape (out_channels, rows, columns, channels); None where they are a second input of
            the function (one packed matrix per batch element), as for products of two activations (`pack.py`).
        bias: int32, shape (out_channels,): what the accumulators start from (bias and zero-point correction).
    Returns: the kernel; output shape (batch, out_height, out_width, out_channels).
    """
    tiling = tiling or choose_tiling(shape, product, isa)
    blocks = blocks_of(shape, isa.lanes, tiling.vectors, product.pack)
    out_shape = (shape.batch, shape.out_height, shape.out_width, shape.out_channels)
    emitter = EpilogueEmitter(epilogue, out_shape, isa)
    padded_bias = _pad_bias(bias, blocks, isa.lanes) if bias is not None else None
    extra = None
    if product.repair and weights is not None:
        extra = split(weights.astype(np.int8, copy=False), product.repair, product.steps, shape, blocks, isa.lanes)
        weights = extra.kept
    weight_count = blocks[-1].weight_offset + blocks[-1].vectors * isa.lanes * math.prod(shape.kernel) * shape.channels
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name("conv")
        T.func_attr({"global_symbol": "conv", "tirx.noalias": True})
        data = flat_arg("data", (shape.in_size,), product.in_dtype)
        dynamic = flat_arg("matrix", (shape.batch * weight_count,), product.weight_dtype) if weights is None else None
        emitter.declare_operands()
        packed = dynamic if weights is None else flat_arg("weights", (weight_count,), product.weight_dtype)
        start = None if padded_bias is None else flat_arg("bias", padded_bias.shape, "int32")
        extra_args = None if extra is None else _ExtraProducts.declare(extra)
        emitter.declare_constants()
        emitter.declare_output()
        batch_stride = weight_count if weights is None else 0
        _Body(shape, product, isa, tiling, blocks, emitter, data, packed, start, batch_stride, extra_args).emit()
    own = () if weights is None else (pack_weights(weights, shape, blocks, isa.lanes, product.pack),)
    start_values = () if padded_bias is None else (padded_bias,)
    extra_values = () if extra is None else (extra.moved.reshape(-1), extra.offsets, extra.first)
    constants = (*own, *start_values, *extra_values, *emitter.constants)
    return Kernel(builder.get(), constants, out_shape, epilogue.out_dtype)


def _pad_bias(bias: npt.NDArray[np.int32], blocks: tuple[Block, ...], lanes: int) -> npt.NDArray[np.int32]:
    parts = []
    for block in blocks:
        part = np.zeros(block.vectors * lanes, np.int32)
        part[: block.channels] = bias[block.start : block.start + block.channels]
        parts.append(part)
    return np.concatenate(parts)


@dataclass(frozen=True, eq=False)
class _ExtraProducts:
    """Arguments that hold what `excess.split` moved; `width` elements of `moved` a product."""

    moved: Any
    offsets: Any
    first: Any
    width: int

    @classmethod
    def declare(cls, extra: Excess) -> _ExtraProducts:
        moved = flat_arg("moved", extra.moved.shape, "int8")
        offsets = flat_arg("offsets", extra.offsets.shape, "int32")
        return cls(moved, offsets, flat_arg("first", extra.first.shape, "int32"), extra.moved[0].size)


@dataclass(frozen=True, eq=False)
class _Body:
    """Everything the loops of one kernel refer to."""

    shape: ConvShape
    product: Product
    isa: Isa
    tiling: Tiling
    blocks: tuple[Block, ...]
    emitter: EpilogueEmitter
    data: Any
    weights: Any
    bias: Any
    batch_stride: int
    extra: _ExtraProducts | None = None

    def emit(self) -> None:
        """Parallel over pixel chunks (all blocks inside) or over blocks (all pixels inside), whichever moves less."""
        tiles = math.ceil(self.shape.out_pixels / self.tiling.pixels)
        runs = _runs(self.blocks)
        if self.tiling.parallel == "pixels":
            chunk = self.tiling.chunk
            chunks = math.ceil(tiles / chunk)
            with T.parallel(self.shape.batch * chunks) as task:
                batch, first = _split(task, chunks, self.shape.batch)
                for run in runs:
                    with T.serial(len(run)) as index, T.serial(chunk) as t:
                        # The last chunk repeats its last tile rather than branch: same values, written again.
                        tile = T.min(first * chunk + t, tiles - 1) if tiles % chunk else first * chunk + t
                        self._tile(batch, tile, run, index)
        else:
            for run in runs:
                with T.parallel(self.shape.batch * len(run)) as task:
                    batch, index = _split(task, len(run), self.shape.batch)
                    with T.serial(tiles) as tile:
                        self._tile(batch, tile, run, index)

    def _tile(self, batch: Index, tile: Index, run: tuple[Block, ...], index: Index) -> None:
        shape, isa, pixels = self.shape, self.isa, self.tiling.pixels
        block, step = run[0], (run[1].start - run[0].start if len(run) > 1 else 0)
        lanes, vectors = isa.lanes, block.vectors
        # The last tile starts early and overlaps its neighbour instead of running short.
        first = tile * pixels
        if shape.out_pixels % pixels:
            first = T.Bind(T.min(first, shape.out_pixels - pixels))
        bases = [T.Bind(base) for base in self._input_offsets(batch, first, self._group(run, index))]
        weight_step = run[1].weight_offset - run[0].weight_offset if len(run) > 1 else 0
        weight_base = T.Bind(block.weight_offset + index * weight_step + batch * self.batch_stride)
        acc = T.alloc_buffer((pixels * vectors * lanes,), self.product.acc_dtype, scope="local")
        bias_base = block.weight_offset // (math.prod(shape.kernel) * shape.channels)
        bias_step = vectors * lanes
        for i in range(pixels):
            for j in range(vectors):
                if self.bias is None:
                    value = splat(tirx.const(0, self.product.acc_dtype), lanes)
                else:
                    value = self.bias.vload([bias_base + index * bias_step + j * lanes], vector("int32", lanes))
                T.buffer_store(acc, value, [tirx.Ramp((i * vectors + j) * lanes, 1, lanes)])
        self._reduce(acc, bases, weight_base, vectors)
        if self.extra is not None:
            self._add_extra(acc, bases, self.blocks.index(block) + index, vectors, self.extra)
        row = batch * shape.out_pixels + first
        channel, whole = block.start + index * step, block.channels // lanes
        positions = [i * vectors * lanes for i in range(pixels)]
        pieces = []
        for i, position in enumerate(positions):
            offsets = [j * lanes for j in range(whole)]
            pieces += [(row + i, channel + offset, self._float(acc, position + offset, lanes)) for offset in offsets]
        self.emitter.store_tile(pieces)
        for i, position in enumerate(positions):
            self._store_rest(acc, position + whole * lanes, row + i, channel + whole * lanes, block.channels % lanes)

    def _group(self, run: tuple[Block, ...], index: Index) -> Index:
        if len(run) == 1 or run[0].group == run[1].group:
            return run[0].group
        return run[0].group + index

    def _input_offsets(self, batch: Index, first: Index, group: Index) -> list[Index]:
        shape = self.shape
        total = shape.groups * shape.channels
        image = batch * (shape.height * shape.width * total) + group * shape.channels
        step = shape.stride[1] * total
        if shape.is_dense_product:
            return [image + (first + i) * total for i in range(self.tiling.pixels)]
        if shape.out_width % self.tiling.pixels == 0:  # the tile lies within one output row
            row, column = tirx.floordiv(first, shape.out_width), tirx.floormod(first, shape.out_width)
            base = image + (row * shape.stride[0] * shape.width) * total + column * step
            return [base + i * step for i in range(self.tiling.pixels)]
        offsets = []
        for i in range(self.tiling.pixels):
            row, column = tirx.floordiv(first + i, shape.out_width), tirx.floormod(first + i, shape.out_width)
            offsets.append(image + (row * shape.stride[0] * shape.width) * total + column * step)
        return offsets

    def _reduce(self, acc: Any, bases: list[Index], weight_base: Index, vectors: int) -> None:
        """Accumulate over kernel rows, columns and channel groups; short loops are unrolled."""
        shape, product = self.shape, self.product
        rows, columns = shape.kernel
        total = shape.groups * shape.channels
        steps = shape.channels // product.pack
        group = product.steps if steps % product.steps == 0 else 1
        row_step, column_step = shape.dilation[0] * shape.width * total, shape.dilation[1] * total
        weight_width = vectors * self.isa.lanes * product.pack
        short = 8 // max(1, steps // group)
        with _loop(rows, 1) as r, _loop(columns, short) as s, _loop(steps // group, 2) as c:
            offset = r * row_step + s * column_step + c * (group * product.pack)
            weight = weight_base + ((r * columns + s) * steps + c * group) * weight_width
            product.accumulate(self.isa, acc, self.data, self.weights, bases, offset, weight, vectors, group)

    def _add_extra(self, acc: Any, bases: list[Index], block: Index, vectors: int, extra: _ExtraProducts) -> None:
        start = T.Bind(extra.first[block])
        with T.serial(T.Bind(extra.first[block + 1] - start)) as i:
            offset, weight = T.Bind(extra.offsets[start + i]), (start + i) * extra.width
            self.product.accumulate(self.isa, acc, self.data, extra.moved, bases, offset, weight, vectors, 1)

    def _float(self, acc: Any, position: int, lanes: int) -> Vector:
        value: Vector = acc.vload([position], vector(self.product.acc_dtype, lanes))
        return value if self.product.acc_dtype == "float32" else T.Cast(vector("float32", lanes), value)

    def _store_rest(self, acc: Any, position: int, row: Index, channel: Index, count: int) -> None:
        """The channels beyond the last full register, by powers of two."""
        done = 0
        while done < count:
            width = 1 << (count - done).bit_length() - 1
            self.emitter.store(row, channel + done, self._float(acc, position + done, width), width)
            done += width


def _loop(extent: int, unroll_up_to: int) -> Any:
    return T.unroll(extent) if extent <= unroll_up_to else T.serial(extent)


def _split(task: Index, inner: int, batch: int) -> tuple[Index, Index]:
    return (0, task) if batch == 1 else (tirx.floordiv(task, inner), tirx.floormod(task, inner))


def _runs(blocks: tuple[Block, ...]) -> list[tuple[Block, ...]]:
    """Neighbouring blocks of one width and even distance, so that a loop can count them."""
    runs: list[list[Block]] = []
    for block in blocks:
        run = runs[-1] if runs else None
        same = run is not None and run[0].channels == block.channels
        if same and run is not None and len(run) > 1:
            same = (
                block.start - run[-1].start == run[1].start - run[0].start
                and block.weight_offset - run[-1].weight_offset == run[1].weight_offset - run[0].weight_offset
                and block.group - run[-1].group == run[1].group - run[0].group
            )
        if same and run is not None:
            run.append(block)
        else:
            runs.append([block])
    return [tuple(run) for run in runs]
