"""Tile sizes and loop order of the convolution template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from drpai_qat.kernels.isa import Isa

if TYPE_CHECKING:
    from drpai_qat.kernels.conv_shape import ConvShape
    from drpai_qat.kernels.product import Product

_MAX_PIXELS = 8  # each pixel takes a general register for its address
_ACROSS_ROWS = 0.05  # extra cost of a tile that may lie in two output rows: each pixel's address is computed
_NARROWED = 4  # registers of int32 that are narrowed to one of 8 bits
_L2_BYTES = 256 * 1024  # part of L2 that one thread's weights or input chunk may fill
_L2_ADVANTAGE = 4  # how much cheaper a byte from L2 is than one from beyond
_MIN_TASKS = 8  # enough parallel tasks that 2 to 4 threads stay balanced


@dataclass(frozen=True)
class Tiling:
    """Shape of a register tile and how tiles are walked.

    Attributes:
        pixels, vectors: output pixels and vector registers of output channels in one tile.
        parallel: which loop is shared by the threads.
        chunk: tiles of one task where pixels are shared.
    """

    pixels: int
    vectors: int
    parallel: Literal["pixels", "channels"]
    chunk: int


def choose_tiling(shape: ConvShape, product: Product, isa: Isa) -> Tiling:
    """The tile with the fewest loads per product that fits the registers; the loop order that moves least memory."""
    vectors_needed = math.ceil(shape.out_channels / shape.groups / isa.lanes)
    pixels, vectors = _tile(shape, vectors_needed, product, isa)
    tiles = math.ceil(shape.out_pixels / pixels)
    blocks = shape.groups * math.ceil(vectors_needed / vectors)
    reduction = math.prod(shape.kernel) * shape.channels
    weight_bytes = blocks * vectors * isa.lanes * reduction * np.dtype(product.weight_dtype).itemsize
    input_bytes = shape.in_size // shape.batch * np.dtype(product.in_dtype).itemsize
    chunk = even_chunk(tiles, min(math.ceil(tiles / _MIN_TASKS), _chunk_tiles(shape, pixels, input_bytes)))
    by_pixels = _reread(weight_bytes, math.ceil(tiles / chunk))
    by_channels = _reread(input_bytes, blocks)
    enough_blocks = blocks >= _MIN_TASKS or tiles < _MIN_TASKS
    if enough_blocks and by_channels < by_pixels and shape.batch * blocks > 1:
        return Tiling(pixels, vectors, "channels", 1)
    return Tiling(pixels, vectors, "pixels", chunk)


def even_chunk(tiles: int, largest: int) -> int:
    """Tiles per task, at most `largest`, such that few are computed twice (the last task repeats its last tile) and no
    thread waits long for another."""

    def computed(chunk: int) -> int:
        tasks = math.ceil(tiles / chunk)
        return chunk * (tasks + 2 * math.ceil(tasks / 2))

    largest = max(1, min(tiles, largest))
    return min(range(largest, math.ceil(largest / 3) - 1, -1), key=computed)


def _reread(size: int, times: int) -> int:
    """Cost of reading the same bytes this often: cheap after the first time where they stay in L2."""
    return size * (times if size > _L2_BYTES else 1 + times // _L2_ADVANTAGE)


def _chunk_tiles(shape: ConvShape, pixels: int, input_bytes: int) -> int:
    per_pixel = max(1, input_bytes // shape.out_pixels)
    return max(1, _L2_BYTES // (per_pixel * pixels))


def _tile(shape: ConvShape, vectors_needed: int, product: Product, isa: Isa) -> tuple[int, int]:
    out_pixels, out_width, steps = shape.out_pixels, shape.out_width, math.ceil(shape.reduction / product.pack)
    best, best_cost = (1, 1), math.inf
    for vectors in range(1, min(4, vectors_needed) + 1):
        for pixels in range(1, min(_MAX_PIXELS, out_pixels) + 1):
            if product.registers(isa, pixels, vectors) > isa.registers:
                continue
            planes = product.planes  # each has accumulators and activations of its own
            waste = math.ceil(out_pixels / pixels) * pixels / out_pixels
            waste *= math.ceil(vectors_needed / vectors) * vectors / vectors_needed
            # Of weights and of activations, per product.
            loads = product.weight_loads(isa) / (planes * pixels) + 1 / vectors
            across_rows = out_width % pixels and out_pixels != out_width
            short = 2.0 / (planes * pixels * vectors)  # few accumulators leave the multipliers waiting
            cost = 1.0 + 0.5 * loads + short + (_ACROSS_ROWS if across_rows else 0.0)
            if not isa.arm:
                # Registers are narrowed by fours, and pixels in two rows have addresses of their own: much, beside few
                # products.
                unused = -(pixels * vectors) % _NARROWED / (pixels * vectors)
                cost += (1.2 * unused + (2.0 if across_rows else 0.0)) / steps
            cost *= waste
            if cost < best_cost:
                best, best_cost = (pixels, vectors), cost
    return best
