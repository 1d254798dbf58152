"""How errors add up along the network: each tensor of the deployed network in one piece, beside the reference's."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx.numpy_helper
from numpy.typing import NDArray

from drpai_qat.check.figures import finite
from drpai_qat.core.sqnr import sqnr_db


@dataclass(frozen=True)
class Accumulated:
    """One quantized tensor on one sample, with the errors of all layers before it.

    Attributes:
        tensor: the name of its integers.
        unequal, count: values that are not the reference's, and all.
        max_lsb: the largest difference, in steps.
        sqnr_db: of its reals; inf if all are equal.
    """

    tensor: str
    unequal: int
    count: int
    max_lsb: int
    sqnr_db: float

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json; an infinite SQNR is null."""
        return {**vars(self), "sqnr_db": finite(self.sqnr_db)}


def accumulated(
    model: onnx.ModelProto, found: Mapping[str, NDArray], wanted: Mapping[str, NDArray]
) -> tuple[Accumulated, ...]:
    """Compare all quantized activations of one run, in order of computation.

    Args:
        model: canonical QDQ model.
        found, wanted: integers of the deployed network and of the reference, by name.
    """
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    results = []
    for node in model.graph.node:
        name = node.output[0]
        if node.op_type != "QuantizeLinear" or name not in found:
            continue
        zero_point = onnx.numpy_helper.to_array(constants[node.input[2]]).astype(np.int64)
        if zero_point.size > 1:
            continue
        ours, theirs = (values[name].astype(np.int64) - zero_point.reshape(()) for values in (found, wanted))
        apart = np.abs(ours - theirs)
        results.append(
            Accumulated(name, int((apart > 0).sum()), apart.size, int(apart.max(initial=0)), sqnr_db(ours, theirs))
        )
    return tuple(results)
