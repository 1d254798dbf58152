"""Run-time packing of the second operand of a product of two activations."""

from __future__ import annotations

import math

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.conv import ConvShape, blocks_of
from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.loops import function, tasks
from drpai_qat.kernels.products import Product
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
    lanes, pack, n = isa.lanes, product.pack, shape.out_channels
    blocks = blocks_of(shape, lanes, tiling.vectors, pack)
    count = blocks[-1].weight_offset + blocks[-1].vectors * lanes * shape.channels
    dtype = product.weight_dtype
    number = "float32" if dtype == "float32" else "int32"
    with function("pack_matrix") as builder:
        data = flat_arg("matrix", (shape.batch, k, n), in_dtype)
        numbers = flat_arg("zero_point", (1,), number)
        out = flat_arg("out", (shape.batch * count,), dtype)
        with tasks(shape.batch, shape.batch * count) as batch:
            for block in blocks:
                width = block.vectors * lanes
                with T.serial(shape.channels // pack) as step, T.serial(width) as c, T.serial(pack) as p:
                    row, column = step * pack + p, block.start + c
                    at = (
                        (T.min(column, n - 1) * k + T.min(row, k - 1))
                        if transposed
                        else (T.min(row, k - 1) * n + T.min(column, n - 1))
                    )
                    value = T.Cast(number, data[batch * (k * n) + at]) - numbers[0]
                    value = T.Select(tirx.all(row < k, column < n), value, tirx.const(0, number))
                    index = batch * count + block.weight_offset + (step * width + c) * pack + p
                    T.buffer_store(out, T.Cast(dtype, value), [index])
    return Kernel(builder.get(), (np.asarray([zero_point], number),), (math.prod((shape.batch, count)),), dtype)
