"""Outputs that are positions of a largest (or smallest) score: which scores they were chosen from."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.core.moving import VIEWS


@dataclass(frozen=True)
class Choice:
    """ArgMax or ArgMin behind a network output.

    Attributes:
        scores: tensor that it chooses from.
        axis: along which.
        sign: 1 for the largest, -1 for the smallest.
    """

    scores: str
    axis: int
    sign: int

    def shortfall(self, scores: NDArray, chosen: NDArray) -> NDArray:
        """How much less each chosen score is than the best one, as a share of the range of all scores.

        Args:
            scores: exact values of the tensor `scores`.
            chosen: positions along `axis`, in any shape of the right number of elements.
        """
        along = np.moveaxis(self.sign * scores, self.axis, -1)
        best = along.max(axis=-1)
        at = np.asarray(chosen, np.int64).reshape(*best.shape, 1)
        inside = (at >= 0) & (at < along.shape[-1])
        taken = np.take_along_axis(along, np.where(inside, at, 0), -1)[..., 0]
        spread = float(np.ptp(scores)) or 1.0
        return np.where(inside[..., 0], (best - taken) / spread, np.inf)


def find_choices(model: onnx.ModelProto) -> dict[str, Choice]:
    """The choice behind each network output that is one, by output."""
    maker = {name: node for node in model.graph.node for name in node.output}
    found = {}
    for output in model.graph.output:
        node = maker.get(output.name)
        # Between ArgMax and the output may stand what keeps the elements in their order.
        while node is not None and node.op_type in (*VIEWS, "Cast"):
            node = maker.get(node.input[0])
        if node is not None and node.op_type in ("ArgMax", "ArgMin"):
            axis = next((one.i for one in node.attribute if one.name == "axis"), 0)
            found[output.name] = Choice(node.input[0], axis, 1 if node.op_type == "ArgMax" else -1)
    return found
