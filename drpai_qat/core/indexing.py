"""Operators that read or write where their data says: which input holds the indices, and how far they may reach.

ONNX leaves an index outside of its tensor undefined, and code without checks would touch foreign memory there. So
constant indices are checked when a model is compiled, and computed ones are clamped while it runs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Indices:
    """The indices of a node.

    Attributes:
        at: which input they are.
        extents: sizes that they count in: one, or one for each entry along their last axis.
        from_end: negative ones count from the end.
    """

    at: int
    extents: tuple[int, ...]
    from_end: bool = True

    def outside(self, values: NDArray[Any]) -> int | None:
        """The first index that lies outside, if there is one."""
        extents = np.asarray(self.extents)
        wrong = (values >= extents) | (values < (-extents if self.from_end else 0))
        return int(values[wrong][0]) if wrong.any() else None


def indices_of(
    op: str, attributes: Mapping[str, Any], shapes: Sequence[Sequence[int]], out_shape: Sequence[int]
) -> Indices | None:
    """The indices of an ONNX node; None for operators without any.

    Args:
        shapes: of its inputs.
        out_shape: of its first output.
    """
    data = tuple(shapes[0]) if shapes else ()
    match op:
        case "Gather" | "GatherElements" | "Scatter" | "ScatterElements":
            axis = int(attributes.get("axis", 0))
            return Indices(1, (data[axis],)) if -len(data) <= axis < len(data) else None
        case "GatherND" | "ScatterND":
            first = int(attributes.get("batch_dims", 0)) if op == "GatherND" else 0
            return Indices(1, data[first : first + shapes[1][-1]])
        case "RoiAlign":
            return Indices(2, data[:1], from_end=False)
        case "MaxUnpool":
            return Indices(1, (math.prod(out_shape),), from_end=False)
    return None


def misfit(op: str, attributes: Mapping[str, Any], shapes: Sequence[Sequence[int]]) -> str:
    """Why the shapes of a node's data, indices and updates don't belong together; "" where they do.

    ONNX's shape inference does not look at them, and code that follows them would leave its tensors.
    """
    if len(shapes) < 2:
        return ""
    data, indices = tuple(shapes[0]), tuple(shapes[1])
    updates = tuple(shapes[2]) if len(shapes) > 2 else None
    match op:
        case "GatherElements" | "Scatter" | "ScatterElements":
            axis = int(attributes.get("axis", 0))
            fits = len(data) == len(indices) and -len(data) <= axis < len(data)
            others = [one for one in range(len(data)) if fits and one != axis % len(data)]
            fits = fits and all(indices[one] <= data[one] for one in others)
            fits = fits and (updates is None or updates == indices)
        case "GatherND":
            batch = int(attributes.get("batch_dims", 0))
            fits = bool(indices) and 0 <= batch < min(len(data), len(indices)) and data[:batch] == indices[:batch]
            fits = fits and 1 <= indices[-1] <= len(data) - batch
        case "ScatterND":
            fits = bool(indices) and 1 <= indices[-1] <= len(data)
            fits = fits and updates == (*indices[:-1], *data[indices[-1] :])
        case "RoiAlign":
            fits = len(data) == 4 and indices[1:] == (4,) and updates == indices[:1]
        case "MaxUnpool":
            fits = data == indices
        case _:
            return ""
    told = " and ".join(str(list(shape)) for shape in shapes[:3])
    return "" if fits else f"its data and indices have shapes {told}, which don't belong together"
