from __future__ import annotations

import pytest

from drpai_qat.data.preprocessing import PRESETS
from drpai_qat.data.value_ranges import doubt


@pytest.mark.parametrize(
    ("name", "trained", "fits"),
    [
        ("imagenet", (-2.1, 2.6), True),
        ("imagenet", (-1.9, 2.2), True),  # observers that leave out what is rare
        ("imagenet", (-2.64, 2.64), True),  # symmetric
        ("imagenet", (0.0, 1.0), False),
        ("yolo", (0.0, 1.0), True),
        ("yolo", (-1.0, 1.0), True),  # symmetric: its negative half was never used
        ("none", (0.0, 1.0), False),
        ("tf", (0.0, 255.0), False),
        ("caffe", (-123.7, 151.1), True),
    ],
)
def test_whether_values_are_those_of_training(name, trained, fits):
    assert bool(doubt(PRESETS[name], trained)) is not fits
    assert doubt(PRESETS[name], None) == ""


def test_both_ranges_are_named():
    assert "gives -2.118 to 2.64, and the network's input has a range of 0 to 1" in doubt(PRESETS["imagenet"], (0, 1))
