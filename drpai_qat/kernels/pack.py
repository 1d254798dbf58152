"""Run-time packing of the second operand of a product of two activations."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv_shape import Block, ConvShape, blocks_of
from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector, span, splat, vector
from drpai_qat.kernels.loops import Index, function, tasks
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.tiling import Tiling


def pack_matrix(
    shape: ConvShape,
    k: int,
    transposed: bool,
    in_dtype: str,
    zero_point: int,
    product: Product,
    tiling: Tiling,
    isa: Isa,
) -> Kernel:
    """Bring a stored matrix into the order in which `conv(shape, product, ..., weights=None, tiling=tiling)` reads it.

        packed[b] = pack(in[b] - zero_point), rows k .. shape.channels filled with zeros

    Args:
        shape: of the product: batch, channels = k rounded up to the product's pack, out_channels = n, kernel 1x1.
        k: rows of the matrix as stored, (batch, k, n), or (batch, n, k) where `transposed`.
        in_dtype: uint8, int8 or int16 for int16 weights (DOT2_WIDE), float32 for FMA.
        tiling: the one given to `conv`; `choose_tiling(shape, product, isa)`.
    Returns: kernel of (matrix); flat output of weight_dtype.
    """
    blocks = blocks_of(shape, isa.lanes, tiling.vectors)
    count = blocks[-1].weight_offset + blocks[-1].vectors * isa.lanes * shape.channels
    dtype = product.weight_dtype
    full = sum(block.channels == blocks[0].vectors * isa.lanes for block in blocks)  # all but perhaps the last
    with function("pack_matrix") as builder:
        data = flat_arg("matrix", (shape.batch, k, shape.out_channels), in_dtype)
        zero = flat_arg("zero_point", (1,), dtype)
        out = flat_arg("out", (shape.batch * count,), dtype)
        pack = _Pack(
            isa, product.pack, k, shape.channels, shape.out_channels, transposed, in_dtype, dtype, data, zero[0], out
        )
        with tasks(shape.batch * len(blocks), shape.batch * count) as task:
            image, index = tirx.floordiv(task, len(blocks)), tirx.floormod(task, len(blocks))
            source, target = T.Bind(image * (k * shape.out_channels)), T.Bind(image * count)
            if full == len(blocks):
                pack.block(blocks[0], index, source, target)
            elif full == 0:
                pack.block(blocks[0], 0, source, target)
            else:
                with T.If(index < full):
                    with T.Then():
                        pack.block(blocks[0], index, source, target)
                    with T.Else():
                        pack.block(blocks[-1], 0, source, target)
    return Kernel(builder.get(), (np.asarray([zero_point], dtype),), (shape.batch * count,), dtype)


@dataclass(frozen=True, eq=False)
class _Pack:
    """One matrix: k rows of n columns, brought to [k / pack][channel of the block][pack]."""

    isa: Isa
    pack: int
    k: int
    padded: int
    n: int
    transposed: bool
    in_dtype: str
    dtype: str
    data: Any
    zero: Any
    out: Any

    def block(self, block: Block, index: Index, source: Index, target: Index) -> None:
        """The columns of `block`, or of the index-th block after it."""
        width = block.vectors * self.isa.lanes
        first = T.Bind(block.start + index * width)
        base = T.Bind(target + block.weight_offset + index * (width * self.padded))
        whole = self.k // self.pack  # steps all of whose rows are stored
        with T.serial(whole) as step:
            self._step(block, width, source, first, step, base + step * (width * self.pack), self.pack)
        if whole * self.pack < self.padded:
            self._step(block, width, source, first, whole, base + whole * (width * self.pack), self.k % self.pack)

    def _step(
        self, block: Block, width: int, source: Index, first: Index, step: Index, target: Index, rows: int
    ) -> None:
        lanes = 1 if self.transposed else self.isa.lanes
        vectors = block.channels // lanes
        with T.serial(vectors) as v:
            column = T.Bind(first + v * lanes)
            self._columns(source, column, step, target + v * (lanes * self.pack), rows, lanes)
        with T.serial(block.channels - vectors * lanes) as i:
            done = vectors * lanes + i
            self._columns(source, first + done, step, target + done * self.pack, rows, 1)
        with T.serial((width - block.channels) * self.pack) as i:
            T.buffer_store(self.out, tirx.const(0, self.dtype), [target + block.channels * self.pack + i])

    def _columns(self, source: Index, column: Index, step: Index, target: Index, rows: int, lanes: int) -> None:
        """`lanes` columns of one step: its rows interleaved, the missing ones zero."""
        values = [self._load(source, column, step * self.pack + row, lanes) for row in range(rows)]
        values += [splat(tirx.const(0, self.dtype), lanes)] * (self.pack - rows)
        if lanes == 1 or self.pack == 1:
            for row, value in enumerate(values):
                T.buffer_store(self.out, value, [span(target + row, lanes)])
            return
        order = [row * lanes + lane for lane in range(lanes) for row in range(self.pack)]
        packed = tirx.Shuffle(values, [tirx.const(i, "int32") for i in order])
        T.buffer_store(self.out, packed, [span(target, lanes * self.pack)])

    def _load(self, source: Index, column: Index, row: Index, lanes: int) -> Vector:
        at = source + (column * self.k + row if self.transposed else row * self.n + column)
        value = self.data.vload([at], vector(self.in_dtype, lanes))
        return T.Bind(T.Cast(vector(self.dtype, lanes), value) - splat(self.zero, lanes))
