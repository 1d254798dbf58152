"""Sizes of a convolution, its output channels cut into register blocks, and its weights in the blocks' order."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

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
        pixel: elements from one input pixel to the next, where they are not these channels: a whole row under the
            kernel is then read as the channels of one pixel (`rows_as_pixels`).
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
    pixel: int = 0

    @property
    def pitch(self) -> int:
        """Elements from one input pixel to the next."""
        return self.pixel or self.groups * self.channels

    @property
    def out_pixels(self) -> int:
        """Pixels of one output image."""
        return self.out_height * self.out_width

    @property
    def macs(self) -> int:
        """Multiply-accumulates, those with padding included."""
        return self.batch * self.out_pixels * self.out_channels * self.reduction

    @property
    def reduction(self) -> int:
        """Products in one accumulator."""
        return math.prod(self.kernel) * self.channels

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
        return self.batch * self.height * self.width * self.pitch

    @property
    def suits_rows(self) -> bool:
        """`rows_as_pixels` saves products, whose steps take 4 channels."""
        padded, row = (math.ceil(n / 4) * 4 for n in (self.channels, self.kernel[1] * self.channels))
        is_depthwise = self.groups == self.channels == self.out_channels
        return self.groups == self.dilation[1] == 1 and row < self.kernel[1] * padded and not is_depthwise

    def tap_offset(self, row: Index, column: Index) -> Index:
        """Elements from a pixel under the kernel's first position to the one under another."""
        return (row * (self.dilation[0] * self.width) + column * self.dilation[1]) * self.pitch

    def rows_as_pixels(self) -> ConvShape:
        """The same convolution with each row of the kernel as one tap, whose channels are those of the pixels under it.

        With three channels padded to four, a quarter of the products would be with zeros; with padding at the end of
        the row alone, few are. There the kernel reads on into the next pixels, so the input needs one more row, with
        any content.
        """
        return replace(
            self,
            height=self.height + 1,
            channels=self.kernel[1] * self.channels,
            kernel=(self.kernel[0], 1),
            pixel=self.channels,
        )


@dataclass(frozen=True)
class Block:
    """Neighbouring output channels computed together: `vectors` registers wide, the last one perhaps not full."""

    start: int
    channels: int
    vectors: int
    group: int
    weight_offset: int


def blocks_of(shape: ConvShape, lanes: int, vectors: int) -> tuple[Block, ...]:
    """The output channels cut into register blocks, group by group."""
    per_group = shape.out_channels // shape.groups
    blocks, offset = [], 0
    for group in range(shape.groups):
        for start in range(0, per_group, lanes * vectors):
            channels = min(lanes * vectors, per_group - start)
            block = Block(group * per_group + start, channels, math.ceil(channels / lanes), group, offset)
            blocks.append(block)
            offset += block.vectors * lanes * shape.reduction
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


def runs_of(blocks: tuple[Block, ...]) -> list[slice]:
    """Neighbouring blocks of one width and even distance, so that a loop can count them."""
    runs: list[list[Block]] = []
    for block in blocks:
        run = runs[-1] if runs else None
        same = run is not None and run[0].channels == block.channels
        if same and run is not None and len(run) > 1:
            same = _distance(run[-1], block) == _distance(run[0], run[1])
        if same and run is not None:
            run.append(block)
        else:
            runs.append([block])
    ends = list(itertools.accumulate(len(run) for run in runs))
    return [slice(end - len(run), end) for run, end in zip(runs, ends, strict=True)]


def _distance(one: Block, other: Block) -> tuple[int, int, int]:
    return other.start - one.start, other.weight_offset - one.weight_offset, other.group - one.group
