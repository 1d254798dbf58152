"""Frames that are kept in memory."""

import numpy as np
import pytest

from drpai_qat.calibration.kept import few_of, keep, parted
from tests.calibration.float_models import make, residual


def numbered(count):
    return [{"x": np.array(at)} for at in range(count)]


def numbers(kept):
    return [int(one["x"]) for one in kept]


LARGE = make("""
<ir_version: 8, opset_import: ["" : 17]>
net (float[1,3,1080,1920] x) => (float[1,3,1080,1920] y) { y = Relu (x) }
""")


@pytest.mark.parametrize(("count", "wanted"), [(0, 0), (1, 1), (80, 80), (81, 80), (2000, 80)])
def test_as_many_as_there_are_up_to_80_the_same_ones_each_time(count, wanted):
    kept = numbers(keep(iter(numbered(count)), residual()))
    assert len(set(kept)) == len(kept) == wanted
    assert set(kept) <= set(range(count))
    assert kept == numbers(keep(numbered(count), residual()))


@pytest.mark.parametrize("count", [64, 100, 400])
@pytest.mark.parametrize("order", ["in turn", "sorted"])
def test_each_part_has_all_classes(count, order):
    kept = keep(numbered(count), residual())
    for part in (few_of(kept, 16), *parted(kept)):
        of_four = [one % 4 if order == "in turn" else one * 4 // count for one in numbers(part)]
        assert set(of_four) == {0, 1, 2, 3}


def test_fewer_of_large_frames():
    assert len(keep(iter(numbered(1000)), LARGE)) == 16


def test_parts_of_what_is_kept():
    assert numbers(few_of(numbered(10), 4)) == [0, 1, 2, 3]
    assert few_of([], 4) == []
    made_of, aside = parted(numbered(9))
    assert (numbers(made_of), numbers(aside)) == ([0, 1, 2, 4, 5, 6, 8], [3, 7])
