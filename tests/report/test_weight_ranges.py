import numpy as np

from drpai_qat.core.quantization import QuantParams
from drpai_qat.graph.canonical import Weight
from drpai_qat.report.weight_ranges import weight_ranges


def test_dead_channels_outliers_and_narrow_ones():
    integers = np.zeros((6, 3, 1, 1), np.int8)
    integers[:, 0, 0, 0] = [0, 4, -5, 100, 6, 3]
    found = weight_ranges(Weight(integers, QuantParams.of(0.5)), 0)
    assert (found.channels, found.dead, found.outliers, found.coarse) == (6, 1, (3,), 4)
    assert (found.least, found.median, found.largest) == (1.5, 2.5, 50.0)
    assert sum(found.histogram) == 5
    assert found.histogram[-1] == 1
    assert not found.per_channel


def test_a_scale_for_each_channel_and_a_zero_point():
    integers = np.array([[10, 20], [130, 120]], np.uint8)
    params = QuantParams.of([1.0, 0.1], [10, 128], np.uint8, axis=0)
    found = weight_ranges(Weight(integers, params), 0)
    assert (found.largest, round(found.least, 6)) == (10.0, 0.8)
    assert found.coarse == 0
    assert found.per_channel


def test_infinite_weights_have_no_bin():
    found = weight_ranges(Weight(np.array([[np.inf, 1], [2, 3], [np.nan, 0]], np.float32)), 0)
    assert (found.largest, found.dead, sum(found.histogram)) == (3.0, 2, 1)


def test_float_weights_and_columns():
    found = weight_ranges(Weight(np.array([[1.0, -4.0], [2.0, 0.5]], np.float32)), -1)
    assert (found.dtype, found.least, found.largest) == ("float32", 2.0, 4.0)
    assert weight_ranges(Weight(np.zeros((2, 2), np.float32)), 0).dead == 2
