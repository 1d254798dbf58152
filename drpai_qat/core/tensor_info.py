"""What a network's input or output is: name, shape, type, and the grid that training gave it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.quantization import QuantParams

_INDEX_BYTES = 4
"""Indices take as much; smaller integers lie on a grid, and mean nothing on another."""


@dataclass(frozen=True)
class TensorInfo:
    """A network input or output.

    Attributes:
        name: as in the source file.
        shape: static, batch first.
        dtype: numpy name ("float32").
        quantization: grid its values lie on, or None where training left it without one.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str
    quantization: QuantParams | None = None

    def to_json(self) -> dict[str, Any]:
        """As it stands in deploy.json."""
        return {
            "name": self.name,
            "shape": list(self.shape),
            "dtype": self.dtype,
            "quantization": None if self.quantization is None else _grid_to_json(self.quantization),
        }


def takes(array: NDArray, wanted: np.dtype) -> bool:
    """True if an input of type `wanted` can be fed with `array`: the same numbers, in another width or as floats.

    Sample files hold float32 throughout, so that indices come as whole floats as well.
    """
    if array.dtype == wanted or (array.dtype.kind == "f" and wanted.kind == "f"):
        return True
    if array.dtype.kind not in "iuf" or wanted.kind not in "iu" or wanted.itemsize < _INDEX_BYTES:
        return False
    limits = np.iinfo(wanted)
    whole = array.dtype.kind != "f" or bool((array == np.floor(array)).all())
    return not array.size or (whole and bool(limits.min <= array.min() and array.max() <= limits.max))


def as_given(info: TensorInfo) -> TensorInfo:
    """The tensor as people feed and read it: reals, where its integers lie on a grid."""
    return replace(info, dtype="float32") if _holds_a_grid(info) else info


def as_fed(array: NDArray, info: TensorInfo) -> NDArray:
    """What people feed, as the network takes it: reals are rounded to the grid where it holds integers."""
    if info.quantization is None or not _holds_a_grid(info) or array.dtype.kind != "f":
        return array
    return info.quantization.quantize(array)


def as_reals(array: NDArray, info: TensorInfo) -> NDArray:
    """What the network gives, as people read it."""
    if info.quantization is None or not _holds_a_grid(info):
        return array
    return info.quantization.dequantize(array)


def _holds_a_grid(info: TensorInfo) -> bool:
    return info.quantization is not None and np.dtype(info.dtype).kind != "f"


def _grid_to_json(params: QuantParams) -> dict[str, Any]:
    return {
        "scale": params.scale.tolist(),
        "zero_point": params.zero_point.tolist(),
        "dtype": params.dtype.name,
        "qmin": params.qmin,
        "qmax": params.qmax,
        "axis": params.axis,
    }
