"""Tile sizes and loop order of the convolution template."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from drpai_qat.kernels.isa import Isa

if TYPE_CHECKING:
    from drpai_qat.kernels.conv_shape import ConvShape
    from drpai_qat.kernels.products import Product

# Registers besides accumulators and weights: the spread activation, and for dot4 without VNNI the ones and a product.
_SCRATCH = {"dot4": 3, "dot2": 4, "fma": 2, "pairs": 3}
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
    """The tile that loads least per product within the registers, and the loop order that moves least memory."""
    vectors_needed = math.ceil(shape.out_channels / shape.groups / isa.lanes)
    pixels, vectors = _tile(shape, vectors_needed, product, isa)
    tiles = math.ceil(shape.out_pixels / pixels)
    blocks = shape.groups * math.ceil(vectors_needed / vectors)
    reduction = math.prod(shape.kernel) * shape.channels
    weight_bytes = blocks * vectors * isa.lanes * reduction * np.dtype(product.weight_dtype).itemsize
    input_bytes = shape.in_size // shape.batch * {"uint8": 1, "int8": 1, "int16": 2, "float32": 4}[product.in_dtype]
    chunk = even_chunk(tiles, min(math.ceil(tiles / _MIN_TASKS), _chunk_tiles(shape, pixels, input_bytes)))
    by_pixels = _reread(weight_bytes, math.ceil(tiles / chunk))
    by_channels = _reread(input_bytes, blocks)
    enough_blocks = blocks >= _MIN_TASKS or tiles < _MIN_TASKS
    if enough_blocks and by_channels < by_pixels and shape.batch * blocks > 1:
        return Tiling(pixels, vectors, "channels", 1)
    return Tiling(pixels, vectors, "pixels", chunk)


def even_chunk(tiles: int, largest: int) -> int:
    """Tiles of one task, at most `largest`: few are computed twice, since the last task repeats its last tile, and few
    are waited for by another thread."""

    def computed(chunk: int) -> int:
        tasks = math.ceil(tiles / chunk)
        return chunk * (tasks + 2 * math.ceil(tasks / 2))

    largest = max(1, min(tiles, largest))
    return min(range(largest, math.ceil(largest / 3) - 1, -1), key=computed)


def _reread(size: int, times: int) -> int:
    """Cost of reading the same bytes this often: what stays in L2 is cheap after the first time."""
    return size * (times if size > _L2_BYTES else 1 + times // _L2_ADVANTAGE)


def _chunk_tiles(shape: ConvShape, pixels: int, input_bytes: int) -> int:
    per_pixel = max(1, input_bytes // shape.out_pixels)
    return max(1, _L2_BYTES // (per_pixel * pixels))


def _tile(shape: ConvShape, vectors_needed: int, product: Product, isa: Isa) -> tuple[int, int]:
    out_pixels, out_width, steps = shape.out_pixels, shape.out_width, math.ceil(shape.reduction / product.pack)
    best, best_cost = (1, 1), math.inf
    for vectors in range(1, min(4, vectors_needed) + 1):
        for pixels in range(1, min(_MAX_PIXELS, out_pixels) + 1):
            planes = 2 if product.name == "planes" else 1  # each has accumulators and activations of its own
            if planes * pixels * vectors + _beside(planes * pixels, vectors, product, isa) > isa.registers:
                continue
            waste = math.ceil(out_pixels / pixels) * pixels / out_pixels
            waste *= math.ceil(vectors_needed / vectors) * vectors / vectors_needed
            # Of weights and of activations, per product. dot2 widens its weights. On a Cortex-A55 a load takes the time
            # of two products, and activations last longer.
            weight_loads = 4 if product.by_lane(isa) else 3 if product.name == "dot2" else 1
            loads = weight_loads / (planes * pixels) + 1 / vectors
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


def _beside(pixels: int, vectors: int, product: Product, isa: Isa) -> int:
    """Registers a tile needs besides its accumulators."""
    if product.by_lane(isa):
        return pixels + 6  # the activations; weights, and room for LLVM to load ahead (with less it spills)
    if isa.arm:
        scratch = vectors + _SCRATCH[product.name]
        # Activations of all pixels stay, for several steps.
        return max(scratch, pixels + _SCRATCH[product.name]) if product.steps > 1 else scratch
    if product.name == "dot4" and not isa.dot4_exact and product.steps > 1:
        # The weights of all steps, the activations of two, the ones, two products on their way to a sum.
        return vectors * product.steps + 2 + 1 + 2
    return vectors + _SCRATCH[product.name] - (1 if product.name == "dot4" and isa.dot4_exact else 0)
