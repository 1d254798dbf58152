"""Which rows share a 32-bit lane in a depthwise kernel, with the weights in that order, proven not to saturate."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from drpai_qat.kernels.isa import Isa

Integers = npt.NDArray[Any]
_MAX_STEPS = 8


@dataclass(frozen=True, eq=False)
class TapLayout:
    """How the taps of some blocks of channels are multiplied.

    Attributes:
        pack: rows in a lane: 4 (8 bits x int8), 2 (int16 x int16) or 1 (float32; int16 x int16 with NEON's SMLAL).
        slots: kernel rows of each product; rows that fill up the last one repeat others.
        steps: vpmaddubsw results that may be added in int16, for pack 4 without VNNI.
        in_dtype, weight_dtype: of the activations as stored, and of `weights`.
        weights: flat, [block][kernel column][slots][register][lane][pack].
        starts: int32, first channel of each block.
    """

    pack: int
    slots: tuple[tuple[int, ...], ...]
    steps: int
    in_dtype: str
    weight_dtype: str
    weights: npt.NDArray[np.generic]
    starts: npt.NDArray[np.int32]

    @property
    def block_size(self) -> int:
        """Weights of one block."""
        return self.weights.size // len(self.starts)


def choose_layouts(
    weights: npt.NDArray[np.generic], isa: Isa, in_dtype: str, registers: int, qmax: int
) -> tuple[TapLayout, ...]:
    """Blocks of channels by the fastest layout that is exact for their weights.

    Args:
        weights: (rows, columns, channels).
        registers: of one block, isa.lanes channels each; the last block overlaps its neighbour.
        qmax: largest stored activation.
    """
    channels, width = weights.shape[2], isa.lanes * registers
    starts = np.minimum(np.arange(math.ceil(channels / width)) * width, channels - width).astype(np.int32)
    blocks = np.stack([weights[:, :, start : start + width] for start in starts])  # block, row, column, channel
    if in_dtype == "float32":
        return (_layout(blocks, starts, isa, 1, _slots(len(weights), 1), in_dtype, "float32"),)
    if isa.arm and not (isa.dot4_exact and in_dtype == "int8"):
        return (_layout(blocks, starts, isa, 1, _slots(len(weights), 1), in_dtype, "int16"),)
    words = _slots(len(weights), 2)
    if in_dtype == "int16":
        return (_layout(blocks, starts, isa, 2, words, in_dtype, "int16"),)
    slots = _slots(len(weights), 4)
    if isa.dot4_exact:
        return (_layout(blocks, starts, isa, 4, slots, in_dtype, "int8"),)
    spread = _relieve_pairs(_arrange(blocks, slots), slots, 32767 // max(qmax, 1))
    exact = _exact_steps(spread, qmax)
    proven = exact[:, 0]
    layouts = []
    if proven.any():
        steps = int(np.flatnonzero(exact[proven].all(0))[-1]) + 1
        packed = _pack(spread[proven], isa.lanes).astype(np.int8)
        layouts.append(TapLayout(4, slots, steps, in_dtype, "int8", packed, starts[proven]))
    if not proven.all():
        layouts.append(_layout(blocks[~proven], starts[~proven], isa, 2, words, in_dtype, "int16"))
    return tuple(layouts)


def _slots(rows: int, pack: int) -> tuple[tuple[int, ...], ...]:
    """Kernel rows in groups of `pack`; the last group is filled with the first rows again."""
    count = -(-rows // pack)
    order = [i if i < rows else (i - rows) % rows for i in range(count * pack)]
    return tuple(tuple(order[i * pack : (i + 1) * pack]) for i in range(count))


def _arrange(blocks: Integers, slots: tuple[tuple[int, ...], ...]) -> Integers:
    """(block, column, slot group, slot, channel) of (block, row, column, channel); 0 where a row repeats."""
    count, rows, columns, width = blocks.shape
    result = np.zeros((count, columns, len(slots), len(slots[0]), width), blocks.dtype)
    for position in range(rows):  # the first `rows` positions are the rows in order
        group, slot = divmod(position, len(slots[0]))
        result[:, :, group, slot] = blocks[:, position]
    return result


def _relieve_pairs(taps: Integers, slots: tuple[tuple[int, ...], ...], limit: int) -> Integers:
    """Move the part by which a pair of slots exceeds `limit` to a slot that repeats one of its rows.

    vpmaddubsw adds slots 0 and 1, and 2 and 3, in int16: their weights of one sign may sum to `limit`.
    """
    taps = taps.astype(np.int32)
    rows = max(max(group) for group in slots) + 1
    for position in range(rows, 4 * len(slots)):
        group, slot = divmod(position, 4)
        source, primary = divmod(slots[group][slot], 4)
        if (source, primary // 2) == (group, slot // 2):
            continue
        weight, partner = taps[:, :, source, primary], taps[:, :, source, primary ^ 1]
        same_sign = np.where(np.sign(weight) == np.sign(partner), np.abs(partner), 0)
        excess = np.clip(np.abs(weight) + same_sign - limit, 0, np.abs(weight)) * np.sign(weight)
        taps[:, :, source, primary] -= excess
        taps[:, :, group, slot] += excess
    return taps


def _exact_steps(taps: Integers, qmax: int) -> npt.NDArray[np.bool_]:
    """[block, n - 1]: n successive vpmaddubsw results, counted from the first, always add up within int16."""
    count, columns, groups, _, width = taps.shape
    pairs = taps.reshape(count, columns * groups, 2, 2, width).astype(np.int64)
    high, low = np.maximum(pairs, 0).sum(3) * qmax, np.minimum(pairs, 0).sum(3) * qmax
    exact = np.zeros((count, min(columns * groups, _MAX_STEPS)), np.bool_)
    for steps in range(1, exact.shape[1] + 1):
        chunks = range(0, columns * groups, steps)
        high_sums = np.stack([high[:, i : i + steps].sum(1) for i in chunks])
        low_sums = np.stack([low[:, i : i + steps].sum(1) for i in chunks])
        exact[:, steps - 1] = (high_sums.max((0, 2, 3)) <= 32767) & (low_sums.min((0, 2, 3)) >= -32768)
    return exact


def _layout(
    blocks: npt.NDArray[np.generic],
    starts: npt.NDArray[np.int32],
    isa: Isa,
    pack: int,
    slots: tuple[tuple[int, ...], ...],
    in_dtype: str,
    weight_dtype: str,
) -> TapLayout:
    packed = _pack(_arrange(blocks, slots), isa.lanes).astype(weight_dtype)
    return TapLayout(pack, slots, 1, in_dtype, weight_dtype, packed, starts)


def _pack(taps: npt.NDArray[np.generic], lanes: int) -> npt.NDArray[np.generic]:
    """Flat, [block][column][group][register][lane][slot], of (block, column, group, slot, channel)."""
    count, columns, groups, pack, width = taps.shape
    registers = taps.reshape(count, columns, groups, pack, width // lanes, lanes)
    return np.ascontiguousarray(registers.transpose(0, 1, 2, 4, 5, 3)).reshape(-1)
