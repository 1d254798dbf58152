import json
import math

import numpy as np
import pytest

from drpai_qat.check.figures import compare_output, cosine
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.sqnr import sqnr_db


def compare(found, reference, grid=None):
    return compare_output("y", [np.array(found, np.float32)], [np.array(reference, np.float32)], grid)


def test_equal():
    figures = compare([[1, 2, 3]], [[1, 2, 3]])
    assert figures.max_error == 0
    assert figures.sqnr_db == math.inf
    assert figures.cosine == pytest.approx(1)
    assert figures.shortfalls(Thresholds(max_lsb=0, min_cosine=0.999)) == []
    text = json.dumps(figures.to_json(), allow_nan=False)
    assert json.loads(text)["exact"] is True


def test_errors_count_in_steps_of_the_trained_grid():
    figures = compare([[1.0, 2.5, 3.0]], [[1.0, 2.0, 3.0]], QuantParams.of(0.25))
    assert figures.lsb_trained
    assert figures.max_error_lsb == pytest.approx(2)


def test_without_a_grid_the_step_is_that_of_a_symmetric_8_bit_one():
    figures = compare([[1.0, 2.0, 127.0 - 3.0]], [[1.0, 2.0, 127.0]])
    assert not figures.lsb_trained
    assert figures.lsb == pytest.approx(1)
    assert figures.max_error_lsb == pytest.approx(3)


def test_sqnr_is_ten_log_of_the_ratio_of_powers():
    reference = np.array([3.0, 4.0])
    assert sqnr_db(reference + np.array([0.3, 0.4]), reference) == pytest.approx(20)
    assert sqnr_db(np.ones(2), np.zeros(2)) == -math.inf
    assert sqnr_db(np.zeros(2), np.zeros(2)) == math.inf


def test_cosine():
    assert cosine(np.array([1.0, 0.0]), np.array([0.0, 2.0])) == 0
    assert cosine(np.array([1.0, 1.0]), np.array([1.0, 0.0])) == pytest.approx(math.sqrt(0.5))
    assert cosine(np.zeros(2), np.zeros(2)) == 1
    assert cosine(np.ones(2), np.zeros(2)) == 0


def test_top1_counts_ties_within_a_step_apart():
    grid = QuantParams.of(1.0)
    reference = [
        np.array([[5, 4, 0]], np.float32),
        np.array([[5, 1, 0]], np.float32),
        np.array([[5, 1, 0]], np.float32),
    ]
    found = [np.array([[4, 5, 0]], np.float32), np.array([[1, 5, 0]], np.float32), np.array([[5, 1, 0]], np.float32)]
    figures = compare_output("y", found, reference, grid)
    assert figures.top1 is not None
    assert (figures.top1.equal, figures.top1.ties, figures.top1.total) == (1, 1, 3)
    assert any("top-1" in text for text in figures.shortfalls(Thresholds(min_sqnr_db=-100)))
    assert figures.shortfalls(Thresholds(min_sqnr_db=-100, min_top1=0.6)) == []


@pytest.mark.parametrize(
    ("shape", "has"), [((1, 10), True), ((2, 10, 1, 1), True), ((1, 1), False), ((1, 3, 4, 4), False)]
)
def test_top1_is_for_classes_only(shape, has):
    values = np.random.default_rng(0).normal(size=shape)
    assert (compare(values, values).top1 is not None) is has


@pytest.mark.parametrize(
    ("thresholds", "says"),
    [
        (Thresholds(min_sqnr_db=60), "SQNR"),
        (Thresholds(max_lsb=0.001), "LSB"),
        (Thresholds(min_cosine=1.0), "cosine"),
    ],
)
def test_each_threshold_is_held(thresholds, says):
    figures = compare([[1.0, 2.0, 3.1]], [[1.0, 2.0, 3.0]])
    assert [says in text for text in figures.shortfalls(thresholds)] == [True]


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_values_that_are_not_numbers_fail(broken):
    figures = compare([[1.0, broken]], [[1.0, 2.0]])
    assert figures.shortfalls(Thresholds())
    json.dumps(figures.to_json(), allow_nan=False)


def test_what_is_finite_in_neither_still_fails():
    figures = compare([[1.0, np.inf, 3.0]], [[1.0, np.inf, 2.0]])
    (said,) = figures.shortfalls(Thresholds())
    assert said.startswith("y: 1 of 3 values are infinite or NaN, as many in onnxruntime")
    assert (figures.max_error, figures.not_finite) == (1.0, (1, 1))
    assert not json.loads(json.dumps(figures.to_json(), allow_nan=False))["exact"]
