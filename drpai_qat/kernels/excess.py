"""Weights too large for vpmaddubsw's int16 sums, split so that every sum fits.

    sum w * x = sum kept * x + sum moved * x

`steps` products of four channels are added in int16 before they are widened (`products.dot4`). Where the weights of one
output channel could carry such a sum beyond int16, their excess moves to an extra product of its own, added after the
others. All output channels of a register block share their extra products: with 7-bit activations a few percent of the
products, far less than what two steps save over one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from drpai_qat.kernels.conv_shape import Block, ConvShape

Weights = npt.NDArray[np.int8]
_PACK = 4
_SIZES = 16  # lists are as long as one of this many sizes, so that layers of one shape share their function


@dataclass(frozen=True)
class Excess:
    """Weights of a layer as they are multiplied.

    Attributes:
        kept: int8, shape (out_channels, rows, columns, channels): what the main loop reads.
        moved: int8, shape (products, width, 4): weights of the extra products, block by block.
        offsets: int32, shape (products,): where the product's activations are, from the pixel's first one.
        first: int32, shape (blocks + 1,): the first product of each block.
    """

    kept: Weights
    moved: npt.NDArray[np.int8]
    offsets: npt.NDArray[np.int32]
    first: npt.NDArray[np.int32]


def share(weights: Weights, qmax: int, steps: int, width: int) -> float:
    """Extra products that blocks of `width` output channels would need, as a share of all products.

    Args:
        weights: int8, shape (out_channels, rows, columns, channels), channels a multiple of 4 * steps.
        qmax: largest stored activation (uint8).
    """
    over = np.zeros((len(weights), weights[0].size // (_PACK * steps)), bool)
    sums = _signed_parts(weights.reshape(len(weights), -1, _PACK), steps)
    for part, limit in zip(sums, _limits(qmax), strict=True):
        over |= (_group_sums(part) > limit).any(-1)
    starts = np.arange(0, len(weights), width)
    return float(np.logical_or.reduceat(over, starts, axis=0).mean()) / steps


def split(weights: Weights, qmax: int, steps: int, shape: ConvShape, blocks: tuple[Block, ...], lanes: int) -> Excess:
    """Move what could carry a sum beyond int16.

    Args: as in `share`; the blocks are those of the kernel.
    Raises: ValueError: an extra product could leave int16 itself (qmax and steps both large).
    """
    rows, columns = shape.kernel
    width = max(block.vectors for block in blocks) * lanes
    total = shape.pitch
    position = np.arange(rows * columns * shape.channels // _PACK) * _PACK
    tap, channel = np.divmod(position, shape.channels)
    r, s = np.divmod(tap, columns)
    place = r * (shape.dilation[0] * shape.width * total) + s * (shape.dilation[1] * total) + channel
    kept = weights.copy()
    moved_parts, offset_parts, first = [], [], [0]
    for block in blocks:
        own = slice(block.start, block.start + block.channels)
        flat = weights[own].reshape(block.channels, -1, _PACK)
        moved = _moved(flat, qmax, steps)
        kept[own] = (flat - moved).reshape(kept[own].shape)
        used = np.flatnonzero(moved.any((0, 2)))
        padded = np.zeros((len(used), width, _PACK), np.int8)
        padded[:, : block.channels] = moved[:, used].transpose(1, 0, 2)
        moved_parts.append(padded)
        offset_parts.append(place[used])
        first.append(first[-1] + len(used))
    unit = max(1, -(-len(position) * len(blocks) // _SIZES))
    spare = -first[-1] % unit or (unit if first[-1] == 0 else 0)
    moved_parts.append(np.zeros((spare, width, _PACK), np.int8))
    offset_parts.append(np.zeros(spare, np.int64))
    return Excess(
        kept, np.concatenate(moved_parts), np.concatenate(offset_parts).astype(np.int32), np.asarray(first, np.int32)
    )


def _limits(qmax: int) -> tuple[int, int]:
    """Largest sum of positive weights, and of negative ones (as a magnitude), whose products fit int16."""
    return 32767 // qmax, 32768 // qmax


def _signed_parts(flat: Weights, steps: int) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32]]:
    """Positive weights and magnitudes of negative ones, shape (channels, groups, steps, pairs, 2)."""
    wide = flat.astype(np.int32).reshape(len(flat), -1, steps, 2, 2)
    return np.maximum(wide, 0), np.maximum(-wide, 0)


def _group_sums(part: npt.NDArray[np.int32]) -> npt.NDArray[np.int32]:
    """Sums over steps and the two of a pair, shape (channels, groups, pairs); by additions: short axes sum slowly."""
    pairs = part[..., 0] + part[..., 1]
    total = pairs[:, :, 0]
    for step in range(1, pairs.shape[2]):
        total = total + pairs[:, :, step]
    return total


def _moved(flat: Weights, qmax: int, steps: int) -> npt.NDArray[np.int8]:
    """The excess of one block, shape of `flat` (channels, products, 4), taken from few products."""
    parts = _signed_parts(flat, steps)
    over = [np.maximum(_group_sums(part) - limit, 0) for part, limit in zip(parts, _limits(qmax), strict=True)]
    groups = np.flatnonzero((over[0] + over[1]).any((0, 2)))
    moved = np.zeros(parts[0].shape, np.int32)
    if groups.size:
        some = [part[:, groups] for part in parts]
        moved[:, groups] = _taken(some, [need[:, groups] for need in over], qmax, steps)
    return moved.astype(np.int8).reshape(flat.shape)


def _taken(
    parts: list[npt.NDArray[np.int32]], needs: list[npt.NDArray[np.int32]], qmax: int, steps: int
) -> npt.NDArray[np.int32]:
    """What is taken from the groups that need it; the product that can give most of it comes first."""
    short = sum(
        np.maximum(need[:, :, None] - part.sum(-1), 0).sum((0, 3)) for need, part in zip(needs, parts, strict=True)
    )
    order = np.argsort(short, axis=1, kind="stable")
    groups = np.arange(order.shape[0])
    moved = np.zeros(parts[0].shape, np.int32)
    for part, need, sign, limit in zip(parts, needs, (1, -1), _limits(qmax), strict=True):
        left = need
        for step in order.T:
            there = part[:, groups, step]
            taken = np.minimum(left, there.sum(-1))
            left = left - taken
            first = np.minimum(taken, there[..., 0])
            if (taken > limit).any():
                raise ValueError(f"an extra product leaves int16 (activations up to {qmax}, {steps} steps)")
            moved[:, groups, step] += sign * np.stack([first, taken - first], -1)
    return moved
