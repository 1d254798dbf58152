"""Interleaving rows of a channels-last image, so that one 32-bit lane holds one channel of several rows.

x86 unpacks within 128-bit lanes. Each row is first permuted in units as wide as a lane's share, so that the unpacked
registers come out with their channels in order.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.isa import Isa, Vector, vector

Index = Any


def shuffle(vectors: list[Vector], order: list[int]) -> Vector:
    """Elements of the concatenated vectors, by constant position; a scalar where there is one."""
    return T.Bind(tirx.Shuffle(vectors, [tirx.const(i, "int32") for i in order]))


def load_row(isa: Isa, data: Any, dtype: str, pack: int, at: Index) -> Vector:
    """2 * lanes channels of one row, permuted so that `interleave` gives them back in order.

    8 bits for dot4 become 4 * lanes bytes (half of each 128-bit lane unused), for dot2 they stay 2 * lanes bytes.
    """
    lanes, blocks = isa.lanes, isa.lanes // 4
    row = T.Bind(data.vload([at], vector(dtype, 2 * lanes)))
    if dtype in ("uint8", "int8") and pack == 4:
        units = T.Bind(T.reinterpret(row, dtype=vector("int32", lanes // 2)))
        order = [unit for block in range(blocks) for unit in (block, blocks + block) * 2]
        return T.Bind(T.reinterpret(shuffle([units, units], order), dtype=vector(dtype, 4 * lanes)))
    if dtype == "int16" and blocks > 1:
        units = T.Bind(T.reinterpret(row, dtype=vector("int64", lanes // 2)))
        order = [unit for block in range(blocks) for unit in (block, blocks + block)]
        return T.Bind(T.reinterpret(shuffle([units], order), dtype=vector("int16", 2 * lanes)))
    return row


def interleave(isa: Isa, rows: list[Vector], dtype: str) -> list[Vector]:
    """Two registers from `load_row`s: lane i of register j holds channel j * lanes + i of each row.

    Args:
        rows: four of 8 bits (four bytes per lane), two of uint8 or int16 (two int16 per lane).
    """
    lanes = isa.lanes
    if len(rows) == 4:
        low, high = (_unpack([rows[i], rows[i + 1]], 4 * lanes, 0, 1) for i in (0, 2))
        words = [T.Bind(T.reinterpret(pairs, dtype=vector("int16", 2 * lanes))) for pairs in (low, high)]
        unpacked = [_unpack(words, 2 * lanes, half, 2) for half in (0, 1)]
        return [T.Bind(T.reinterpret(pairs, dtype=vector(dtype, 4 * lanes))) for pairs in unpacked]
    if dtype == "int16":
        return [_unpack(rows, 2 * lanes, half, 2) for half in (0, 1)]
    halves = [[i for c in range(half * lanes, (half + 1) * lanes) for i in (c, 2 * lanes + c)] for half in (0, 1)]
    return [T.Bind(T.Cast(vector("int16", 2 * lanes), shuffle(rows, order))) for order in halves]


def _unpack(pair: list[Vector], count: int, half: int, size: int) -> Vector:
    """Interleave one half of each 128-bit lane of two vectors of `count` elements, `size` bytes each."""
    width = 16 // size
    starts = [block + half * width // 2 for block in range(0, count, width)]
    return shuffle(pair, [i for start in starts for k in range(start, start + width // 2) for i in (k, count + k)])
