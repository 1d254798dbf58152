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


@pytest.mark.parametrize(
    ("count", "wanted"), [(0, []), (80, range(80)), (81, range(0, 81, 2)), (999, range(0, 999, 16))]
)  # fmt: skip
def test_equally_far_apart_however_many_come(count, wanted):
    assert numbers(keep(iter(numbered(count)), residual())) == list(wanted)


def test_fewer_of_large_frames():
    assert len(keep(iter(numbered(1000)), LARGE)) == 16


def test_parts_of_what_is_kept():
    assert numbers(few_of(numbered(10), 4)) == [0, 2, 5, 7]
    assert numbers(few_of(numbered(3), 4)) == [0, 1, 2]
    assert few_of([], 4) == []
    made_of, aside = parted(numbered(9))
    assert (numbers(made_of), numbers(aside)) == ([0, 1, 2, 4, 5, 6, 8], [3, 7])
