"""One tensor's verdict: equal, ties, wrong, not evaluated."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from drpai_qat.check.certificate import (
    NOISE_FACTOR,
    TIE_LSB,
    Certificate,
    ChoiceTally,
    Fineness,
    GridTally,
    RealTally,
    StepTally,
    tie_bound,
)
from drpai_qat.check.choices import Choice
from drpai_qat.runtimes.exact import Missing, Quantized


def quantized(*steps: float, dtype: str = "uint8") -> Quantized:
    values = np.array(steps)
    limits = np.iinfo(dtype)
    return Quantized(values, np.clip(np.rint(values), limits.min, limits.max).astype(dtype))


def steps_verdict(exact: Quantized, *found: int) -> Certificate:
    tally = StepTally("t", "Conv c")
    tally.add(exact, np.array(found, exact.integers.dtype), exact.integers, {})
    return tally.certificate()


def test_a_coarser_arithmetic_has_wider_ties():
    """Fixed-point kernels: a value so near the boundary may end on either side; a whole step off is wrong."""
    fineness = Fineness(0.05, 2.0, {"t": 0.1})
    tally = StepTally("t", "Conv c", fineness=fineness)
    exact = quantized(2.54, 7.0, 9.0)
    tally.add(exact, np.array([2, 7, 8], np.uint8), exact.integers, {})
    assert (tally.certificate().unequal, tally.certificate().wrong) == (2, 1)
    real = RealTally("t", "Gemm g", fineness=fineness)
    values = np.array([0.0, 25.5])
    real.add(values, values + 0.052, values, {})  # rounded to steps of 0.1
    assert real.certificate().certified
    real.add(values, values + 0.06, values, {})
    assert not real.certificate().certified


def test_equal_integers_are_certified():
    one = steps_verdict(quantized(1.2, 3.7, 300.0, -4.0), 1, 4, 255, 0)
    assert (one.verdict, one.certified, one.count, one.distance) == ("equal", True, 4, 0)


@pytest.mark.parametrize("off", [0.0, 0.5 * TIE_LSB, -0.5 * TIE_LSB])
def test_a_step_across_a_boundary_nearby_is_a_tie(off):
    one = steps_verdict(quantized(2.5 + off, 7.0), 3 if off <= 0 else 2, 7)
    assert (one.verdict, one.certified, one.max_lsb) == ("1 tie", True, 1)
    assert one.distance == pytest.approx(abs(off))


@pytest.mark.parametrize(
    ("value", "found", "distance"),
    [(2.5 + 2 * TIE_LSB, 2, 2 * TIE_LSB), (2.6, 2, 0.1), (2.5 - TIE_LSB / 2, 4, 1.0), (2.4999, 1, 1.0), (9.0, 12, 2.5)],
)
def test_what_float32_can_not_have_done_is_wrong(value, found, distance):
    """The boundary that counts is the one next to the integer found: not any boundary nearby."""
    one = steps_verdict(quantized(value), found)
    assert (one.verdict, one.certified) == ("1 wrong", False)
    assert one.distance == pytest.approx(distance, abs=2 * TIE_LSB)
    assert "Conv c" in str(one)


def test_beyond_its_range_a_value_counts_as_its_end():
    assert steps_verdict(quantized(999.0), 254).distance == pytest.approx(0.5)


def test_16_bits_have_finer_steps():
    assert tie_bound(np.dtype("int8")) == tie_bound(np.dtype("uint8")) == TIE_LSB
    assert tie_bound(np.dtype("uint16")) == 256 * TIE_LSB
    assert steps_verdict(quantized(2.51, dtype="int16"), 2).verdict == "1 tie"
    assert steps_verdict(quantized(2.53, dtype="int16"), 2).verdict == "1 wrong"


def test_missing_values_are_not_certified():
    tally = StepTally("t", "Foo f")
    tally.add(Missing("Foo is not evaluated"), np.zeros(3), np.zeros(3), {})
    one = tally.certificate()
    assert (one.verdict, one.certified) == ("not evaluated", False)
    assert "Foo is not evaluated" in str(one)


def test_what_is_not_a_number_is_not_certified():
    """0/0 in the middle: x86 and Arm make different integers of it, and neither is right."""
    exact = Quantized(np.array([1.0, np.nan, np.nan]), np.array([1, 0, 0], "uint8"))
    layer, fold = StepTally("t", "Div d"), GridTally("t", "Div d")
    layer.add(exact, np.array([1, 255, 0], "uint8"), exact.integers, {})
    fold.add(exact, np.array([1.0, 0.0, 0.0]))
    for tally in (layer, fold):
        assert not tally.certificate().certified
        assert "2 of 3 values are NaN" in str(tally.certificate())


def real_verdict(exact, found, reference) -> Certificate:
    tally = RealTally("y", "Gemm g")
    tally.add(np.array(exact, np.float64), np.array(found, np.float32), np.array(reference, np.float32), {})
    return tally.certificate()


def test_float_outputs_have_the_same_bound_over_their_range():
    step = 1.0 / 255
    assert real_verdict([0.0, 1.0], [0.0, 1.0], [0.0, 1.0]).verdict == "equal"
    assert real_verdict([0.0, 1.0], [0.5 * TIE_LSB * step, 1.0], [0.0, 1.0]).certified
    one = real_verdict([0.0, 1.0], [2 * TIE_LSB * step, 1.0], [0.0, 1.0])
    assert one.verdict == "1 wrong"
    assert one.distance == pytest.approx(2 * TIE_LSB)


def test_float32s_own_noise_widens_the_bound_of_a_float_output():
    noise = 10 * TIE_LSB / 255
    assert real_verdict([0.0, 1.0], [0.9 * NOISE_FACTOR * noise, 1.0], [noise, 1.0]).certified
    assert not real_verdict([0.0, 1.0], [1.1 * NOISE_FACTOR * noise, 1.0], [noise, 1.0]).certified


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_numbers_are_wrong_unless_exact_ones_are_too(broken):
    one = real_verdict([0.0, 1.0], [0.0, broken], [0.0, 1.0])
    assert one.verdict == "1 wrong"
    json.dumps(one.to_json(), allow_nan=False)
    assert real_verdict([0.0, broken], [0.0, broken], [0.0, broken]).certified


def test_integer_outputs_are_exact_or_wrong():
    tally = RealTally("y", "Cast c")
    tally.add(np.array([1, 2, 3]), np.array([1, 2, 4]), np.array([1, 2, 3]), {})
    assert tally.certificate().verdict == "1 wrong"


@pytest.mark.parametrize(("gap", "verdict"), [(1e-8, "1 tie"), (1e-4, "1 wrong")])
def test_a_class_is_a_tie_if_its_score_is_as_large(gap, verdict):
    scores = np.array([[0.0, 1.0, 1.0 - gap]])
    tally = ChoiceTally("y", "ArgMax a", choice=Choice("s", 1, 1))
    tally.add(np.array([1]), np.array([2]), np.array([1]), {"s": scores})
    assert tally.certificate().verdict == verdict


def test_a_class_that_does_not_exist_is_wrong():
    tally = ChoiceTally("y", "ArgMin a", choice=Choice("s", 1, -1))
    tally.add(np.array([0]), np.array([7]), np.array([0]), {"s": np.array([[0.0, 1.0]])})
    one = tally.certificate()
    assert one.verdict == "1 wrong"
    assert one.distance == math.inf


def grid_verdict(exact: Quantized, reals: list[float]) -> Certificate:
    tally = GridTally("t", "Conv c", scale=0.5, zero_point=10)
    tally.add(exact, np.array(reals))
    return tally.certificate()


def test_reals_of_the_same_grid():
    exact = quantized(12.0, 20.5 - TIE_LSB / 2)
    assert grid_verdict(exact, [1.0, 5.0]).verdict == "equal"
    assert grid_verdict(exact, [1.0, 5.5]).verdict == "1 tie"
    assert grid_verdict(exact, [1.5, 5.0]).verdict == "1 wrong"


def test_reals_off_the_grid_were_never_rounded():
    assert grid_verdict(quantized(12.3, 20.0), [1.15, 5.0]).verdict == "2 wrong"


def test_another_shape_is_not_compared():
    assert grid_verdict(quantized(12.0, 20.0), [1.0]).verdict == "not evaluated"
