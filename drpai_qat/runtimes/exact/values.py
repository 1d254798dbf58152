"""What the evaluator passes between operators."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import onnx
from numpy.typing import NDArray

Array: TypeAlias = NDArray[Any]


@dataclass(frozen=True)
class Missing:
    """Stands for a value that can't be computed exactly.

    Attributes:
        reason: which operator is not evaluated, and where; every value computed from this one keeps it.
    """

    reason: str


Value: TypeAlias = Array | Missing
"""float64 for every floating-point type of the file, integers and booleans as they are."""


@dataclass(frozen=True)
class Quantized:
    """One quantized tensor before and after its rounding.

    Attributes:
        steps: real / scale + zero point, float64: the exact value in steps of the grid (LSB).
        integers: `steps` rounded half to even and clamped; dtype of the grid.
    """

    steps: Array
    integers: Array


FLOAT_TYPES = (
    onnx.TensorProto.FLOAT, onnx.TensorProto.DOUBLE, onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16,
)  # fmt: skip
"""ONNX types that are all float64 here."""

Attributes: TypeAlias = Mapping[str, Any]

Operator: TypeAlias = Callable[[Sequence[Any], Attributes], Sequence[Any]]
"""Takes a node's input arrays (None where one is left out) and attributes; returns its outputs."""


class NotEvaluatedError(Exception):
    """An operator, or a form of it, that the evaluator doesn't compute; the message names it."""


def attributes_of(node: onnx.NodeProto) -> dict[str, Any]:
    """Attributes by name: numbers, strings, lists of them, arrays."""
    found: dict[str, Any] = {}
    for attribute in node.attribute:
        value = onnx.helper.get_attribute_value(attribute)
        if isinstance(value, bytes):
            value = value.decode()
        elif isinstance(value, onnx.TensorProto):
            value = exact_array(onnx.numpy_helper.to_array(value))
        found[attribute.name] = value
    return found


def exact_array(values: Array) -> Array:
    """float64 for floats of any width, int8 or uint8 for the 4-bit types, anything else as it is."""
    name = values.dtype.name
    if name in ("int4", "int2"):
        return values.astype(np.int8)
    if name in ("uint4", "uint2"):
        return values.astype(np.uint8)
    if values.dtype.kind == "f" or name == "bfloat16":
        return values.astype(np.float64)
    return values
