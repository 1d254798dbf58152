"""Proofs that vpmaddubsw does not saturate: at the bounds, and in hardware."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import numpy as np
import pytest

from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.product_choice import dot4_steps
from drpai_qat.kernels.products import DOT2, DOT2_WIDE, FMA, HALVES, PLANES, Dot4, Pairs, dot4
from tests.kernels.running import ISAS, raw, run


def test_products_are_values() -> None:
    """Layers are planned by comparing them and remembered by them."""
    assert Dot4(steps=2) == dot4(2) != dot4(1)
    assert (
        len({DOT2, DOT2_WIDE, FMA, HALVES, PLANES, Pairs(1), Pairs(2), dot4(1), dot4(2), Dot4("int8"), dot4(1)}) == 10
    )
    with pytest.raises(FrozenInstanceError):
        dot4(1).steps = 2


def weights(*values: int) -> np.ndarray:
    return np.asarray(values, np.int8).reshape(1, 1, 1, len(values))


@pytest.mark.parametrize(
    ("values", "qmax", "steps"),
    [
        ((64, 64, 0, 0), 255, 1),  # 2 * 64 * 255 = 32640 fits
        ((64, 65, 0, 0), 255, 0),  # 32895 does not
        ((64, 65, 0, 0), 254, 1),  # 32766 does
        ((-64, -64, 0, 0), 255, 1),
        ((-64, -65, 0, 0), 255, 0),  # -32895
        ((127, -128, 127, -128), 255, 1),  # signs cancel at most down to one product
        ((0, 127, 127, 0), 255, 1),  # neighbours that are not a pair
        ((127, 127, 127, 127), 127, 1),  # 7 bits: 32258
        ((127, 127, 0, 0, 0, 0, 0, 0), 127, 2),
        ((127, 127, 0, 0, 2, 2, 0, 0), 127, 2),  # 32258 + 508 = 32766
        ((127, 127, 0, 0, 3, 2, 0, 0), 127, 1),  # 32893: the sum of two steps does not fit
        ((32,) * 16, 255, 2),
        ((32,) * 12, 255, 1),  # three steps do not divide by two
        ((16,) * 16, 255, 4),
    ],
)
def test_dot4_steps_at_the_bounds(values: tuple[int, ...], qmax: int, steps: int) -> None:
    assert dot4_steps(weights(*values), qmax) == steps


def test_each_kernel_position_and_output_counts() -> None:
    mixed = np.zeros((3, 2, 2, 8), np.int8)
    assert dot4_steps(mixed, 255) == 2
    mixed[2, 1, 1, 4:6] = 127
    assert dot4_steps(mixed, 255) == 0


@pytest.mark.parametrize("isa", [isa for isa in ISAS if not isa.dot4_exact], ids=lambda isa: isa.name)
def test_saturation_happens_just_past_the_bound(isa: Isa) -> None:
    shape = ConvShape(1, 1, 1, 16, 1, 1, 1)
    data = np.full(16, 255, np.uint8)
    proven = np.zeros((1, 1, 1, 16), np.int8)
    proven[..., :2] = 64
    assert run(conv(shape, dot4(1), isa, raw(), proven), isa, data).item() == 2 * 64 * 255
    over = proven.copy()
    over[..., 0] = 65
    assert dot4_steps(over, 255) == 0
    assert run(conv(shape, dot4(1), isa, raw(), over), isa, data).item() == 32767


@pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
@pytest.mark.parametrize("qmax", [127, 255])
def test_random_weights_at_their_proven_steps_are_exact(isa: Isa, qmax: int) -> None:
    """The worst activation for each sign pattern is among the inputs, so a wrong proof saturates here."""
    rng = np.random.default_rng(qmax)
    for limit in (127, 63, 31, 15):
        w = rng.integers(-limit, limit + 1, (16, 1, 1, 32)).astype(np.int8)
        steps = dot4_steps(w, qmax)
        if not steps and not isa.dot4_exact:
            continue
        data = np.concatenate([np.where(w.reshape(16, 32) > 0, qmax, 0), np.where(w.reshape(16, 32) < 0, qmax, 0)])
        shape = ConvShape(1, 1, 32, 32, 1, 32, 16)
        got = run(conv(shape, dot4(max(1, steps)), isa, raw(), w), isa, data.astype(np.uint8))
        np.testing.assert_array_equal(got[0, 0], data @ w.reshape(16, 32).astype(np.int64).T)
