"""A source that is far from itself excuses a deployed network that is no farther; nothing else is excused."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from drpai_qat.check.fidelity import check_outputs, excuse, fold_divergence
from drpai_qat.check.layers import LayerFigures
from drpai_qat.check.own_noise import MARGIN_DB, NUDGES, attainable, own_noise
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.runtimes.onnxruntime import Reference
from tests.lowering.running import grid, model, qdq

AGREES = (LayerFigures("q", "Mul m", 1.0, 0, 8),)
TYPICAL = np.array([[1.2, 2.3, 3.4, 4.1, 5.3, 6.7, 7.8, 8.9]], np.float32)
ON_BOUNDARIES = TYPICAL.round() + np.float32(0.5)
WHOLE = TYPICAL.round()


@pytest.fixture(scope="module")
def source() -> Reference:
    """Rounds to whole numbers: at a boundary the least nudge is a whole step."""
    rounding = model("(float[1,8] x) => (float[1,8] y)", qdq("x", "y"), **grid("y", 1.0, 0))
    return Reference(rounding, "source")


def checked(source: Reference, x: np.ndarray, found: np.ndarray, thresholds: Thresholds | None = None):
    thresholds = thresholds or Thresholds()
    result = check_outputs(source, source, lambda _: {"y": found}, {}, [{"x": x}], thresholds)
    return excuse(replace(result, layers=AGREES), source, {}, [{"x": x}], thresholds)


def test_every_sample_is_nudged_some_times(source):
    noise = own_noise(source, [{"x": TYPICAL}, {"x": ON_BOUNDARIES}], {})["y"]
    assert len(noise) == 2 * NUDGES
    assert all(one.sqnr_db == math.inf for one in noise[:NUDGES])
    assert all(one.sqnr_db < 25 for one in noise[NUDGES:])


def test_what_the_source_itself_misses_is_excused(source):
    found = source.run({"x": ON_BOUNDARIES})["y"] + np.array([[1, 0, 0, -1, 0, 1, 0, 0]], np.float32)
    result = checked(source, ON_BOUNDARIES, found)
    assert result.passed
    assert "every layer agrees" in result.excused[0]
    assert result.to_json()["excused"] == list(result.excused)


def test_a_wrong_network_is_not_excused_by_a_noisy_source(source):
    result = checked(source, ON_BOUNDARIES, source.run({"x": ON_BOUNDARIES})["y"] * 3)
    assert not result.passed
    assert result.excused == ()


def test_a_steady_source_excuses_nothing(source):
    result = checked(source, TYPICAL, WHOLE + np.array([[1, 0, 0, -1, 0, 1, 0, 0]], np.float32))
    assert not result.passed


def test_a_divergent_layer_is_never_excused(source):
    found = source.run({"x": ON_BOUNDARIES})["y"] + np.array([[1, 0, 0, -1, 0, 1, 0, 0]], np.float32)
    samples = [{"x": ON_BOUNDARIES}]
    result = check_outputs(source, source, lambda _: {"y": found}, {}, samples, Thresholds())
    for unclear in (replace(result, layers=AGREES, divergence="diverges first at q"), replace(result, layers=())):
        assert excuse(unclear, source, {}, samples, Thresholds()) is unclear


def test_a_fold_is_not_blamed_for_the_sources_own_noise():
    """The same network, its inputs a float32 rounding smaller: at boundaries that is a whole step."""
    source = model("(float[1,8] x) => (float[1,8] y)", qdq("x", "y"), **grid("y", 1.0, 0))
    body = "k = Mul(x, g)\n" + qdq("k", "y")
    folded = model("(float[1,8] x) => (float[1,8] y)", body, g=1 - 2.0**-21, **grid("y", 1.0, 0))
    assert fold_divergence(source, folded, {"x": ON_BOUNDARIES}) == ""
    wrong = model("(float[1,8] x) => (float[1,8] y)", body, g=1.5, **grid("y", 1.0, 0))
    assert "first at y" in fold_divergence(source, wrong, {"x": ON_BOUNDARIES})
    assert "first at y" in fold_divergence(source, wrong, {"x": TYPICAL})


def test_thresholds_relax_to_the_source_and_no_further(source):
    strict = Thresholds(min_sqnr_db=40, max_lsb=0.5, min_cosine=0.9999, min_top1=1.0)
    noise = own_noise(source, [{"x": ON_BOUNDARIES}], {})["y"]
    relaxed = attainable(strict, noise)
    assert relaxed.min_sqnr_db == min(one.sqnr_db for one in noise) - MARGIN_DB
    assert relaxed.max_lsb == 2 * max(one.max_error_lsb for one in noise)
    assert relaxed.min_cosine == min(one.cosine for one in noise)
    assert attainable(strict, own_noise(source, [{"x": TYPICAL}], {})["y"]) == strict
