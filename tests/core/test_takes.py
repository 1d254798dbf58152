"""What an input takes: the same numbers, in another width or as floats."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from drpai_qat.core.tensor_info import takes


@pytest.mark.parametrize(
    ("array", "wanted", "taken"),
    [
        (np.zeros(3, np.float64), "float32", True),
        (np.array([5, 2**31 - 1]), "int32", True),
        (np.array([2**31]), "int32", False),
        (np.array([3.0, 7.0], np.float32), "int32", True),
        (np.array([3.5], np.float32), "int32", False),
        (np.array([np.nan], np.float32), "int32", False),
        (np.zeros(3, np.uint8), "float32", False),
        (np.zeros(3, np.int64), "uint8", False),
        (np.zeros(3, bool), "int32", False),
        (np.zeros(0, np.int64), "int32", True),
    ],
)
def test_takes(array: NDArray, wanted: str, taken: bool) -> None:
    assert takes(array, np.dtype(wanted)) == taken
