"""Splitting off what weights hold beyond int16 sums keeps every product exact."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from drpai_qat.kernels import excess
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape, blocks_of
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, SSE42, Isa
from drpai_qat.kernels.products import DOT2, dot4, dot4_steps, product8
from tests.kernels.running import run
from tests.kernels.test_conv import raw

SHAPE = ConvShape(1, 6, 7, 16, 4, 5, 40, (3, 3))
CASES = [(255, 1), (127, 2), (127, 4), (63, 4)]


def weights(seed: int, channels: int = 40, spread: float = 60.0) -> np.ndarray:
    values = np.random.default_rng(seed).normal(0, spread, (channels, 3, 3, 16))
    return np.clip(np.rint(values), -128, 127).astype(np.int8)


@pytest.mark.parametrize(("qmax", "steps"), CASES)
def test_split_keeps_the_weights_and_bounds_every_sum(qmax: int, steps: int) -> None:
    w = weights(0)
    blocks = blocks_of(SHAPE, 8, 2)
    found = excess.split(w, qmax, steps, SHAPE, blocks, 8)
    assert dot4_steps(found.kept, qmax) >= steps
    assert dot4_steps(found.moved.reshape(1, 1, -1, 4).transpose(2, 0, 1, 3), qmax) >= 1
    # The last sizes are rounded up with products that belong to no block.
    assert found.first[0] == 0
    assert found.first[-1] <= len(found.offsets) == len(found.moved)
    total = found.kept.astype(int).reshape(40, -1)
    for block, start, stop in zip(blocks, found.first, found.first[1:], strict=False):
        for product in range(start, stop):
            row, rest = divmod(int(found.offsets[product]), 7 * 16)  # input rows hold 7 pixels of 16 channels
            at = row * 3 * 16 + rest
            moved = found.moved[product, : block.channels].astype(int)
            total[block.start : block.start + block.channels, at : at + 4] += moved
    assert np.array_equal(total, w.reshape(40, -1))


@pytest.mark.parametrize("isa", [AVX2, SSE42], ids=lambda isa: isa.name)
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize(("qmax", "steps"), CASES)
def test_convolution_with_the_largest_activations(isa: Isa, groups: int, qmax: int, steps: int) -> None:
    shape = replace(SHAPE, groups=groups)
    w = weights(1)
    data = np.random.default_rng(2).choice([0, qmax // 2, qmax], size=(1, 6, 7, 16 * groups)).astype(np.uint8)
    got = run(conv(shape, replace(dot4(steps), repair=qmax), isa, raw(), w), isa, data)
    x, grouped = data.astype(int).reshape(6, 7, groups, 16), w.astype(int).reshape(groups, -1, 3, 3, 16)
    wanted = sum(
        np.einsum("yxgc,gkc->yxgk", x[r : r + 4, s : s + 5], grouped[:, :, r, s]) for r in range(3) for s in range(3)
    )
    assert np.array_equal(got.reshape(-1), wanted.reshape(-1))


def test_without_the_split_the_same_layer_saturates() -> None:
    data = np.full((1, 6, 7, 16), 255, np.uint8)
    w = np.full((40, 3, 3, 16), 127, np.int8)
    plain, repaired = (run(conv(SHAPE, p, AVX2, raw(), w), AVX2, data) for p in (dot4(1), replace(dot4(1), repair=255)))
    assert (repaired == 255 * 127 * 9 * 16).all()
    assert (plain < repaired).all()


def test_share_counts_the_groups_that_need_an_extra_product() -> None:
    w = np.zeros((16, 1, 1, 64), np.int8)
    assert excess.share(w, 127, 2, 16) == 0.0
    w[3, 0, 0, :8] = 100  # one group of two products over 258
    assert excess.share(w, 127, 2, 16) == pytest.approx(1 / 16)
    assert excess.share(w, 127, 1, 16) == 0.0


def test_layers_choose_the_split_where_it_is_rare() -> None:
    rare, common = weights(3, spread=40.0), weights(3, spread=100.0)
    rare[0, 0, 0, :8] = 127
    chosen, _ = product8(AVX2, rare, 0, 127)
    assert chosen.repair == 127
    assert chosen.steps > dot4_steps(rare, 127)
    assert product8(AVX2, common, 0, 127)[0] == dot4(1)
    assert product8(AVX2, common, 0, 255)[0] == DOT2
    assert product8(AVX512_VNNI, common, 0, 255)[0] == dot4(1)


def test_large_activations_refuse_several_steps() -> None:
    with pytest.raises(ValueError, match="leaves int16"):
        excess.split(np.full((8, 3, 3, 16), 127, np.int8), 255, 2, SHAPE, blocks_of(SHAPE, 8, 1)[:1], 8)
