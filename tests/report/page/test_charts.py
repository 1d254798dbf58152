import math

import pytest

from drpai_qat.report.page import charts


@pytest.mark.parametrize(("most", "ticks"), [(0, [0]), (4, [0, 1, 2, 3, 4]), (118e6, [0, 50e6, 100e6, 150e6])])
def test_ticks_are_round_and_reach_the_largest(most, ticks):
    assert charts.nice(most) == pytest.approx(ticks)


def test_bars_are_as_high_as_their_values():
    plot = charts.bars("k", "Work", "MAC", [4, 0, 2], ["int8", "view", "float32"], str)
    assert [(bar.layer, bar.kind) for bar in plot.bars] == [(0, "int8"), (2, "float32")]
    assert plot.bars[0].height == pytest.approx(2 * plot.bars[1].height)
    assert all(bar.y + bar.height == charts.HEIGHT - charts.BOTTOM for bar in plot.bars)
    assert len(plot.values) == 3


def test_exact_layers_lie_above_all_others():
    plot = charts.dots("k", "SQNR", "dB", [math.inf, None, 40.0, -math.inf], lambda v: f"{v:.0f}")
    exact, value, none = plot.dots
    assert exact[2] == charts.TOP < value[2] < none[2]
    assert exact[3] == "exact"
    assert plot.up[-1] == (charts.TOP, "exact")
    assert plot.values == ("exact", "", "40", "-inf")


def test_shares_end_at_all():
    plot = charts.dots("k", "Equal", "share", [1.0, 0.97], lambda v: f"{v:.0%}", full=1.0)
    assert plot.up[-1] == (charts.TOP, "100%")
    assert [dot[3] for dot in plot.dots] == ["exact", "value"]


def test_histogram():
    assert charts.histogram([0, 0], 10) == ""
    assert charts.histogram([0, 5, 10], 30, 20) == "M0 20V20h10V10h10V0h10V20z"
