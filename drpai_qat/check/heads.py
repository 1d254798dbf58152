"""Several heads in one output: boxes of hundreds beside scores below one are looked at apart.

One figure over all of them tells of the largest alone: with every score at zero, boxes still make 40 dB. What belongs
together is told by the Concat at the output, and by the channels' sizes: where one, ordered by size, is many times the
one before, a head ends.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.check.figures import finite
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.sqnr import sqnr_db

SMALL = 8.0
"""How many times smaller than the whole output a head is that the whole says nothing of."""

_GAP = 16.0  # from one channel to the next larger one, where a head ends
_FEWEST = 4  # places with a value of each channel, so that its size means something
_SAME_SHAPE = frozenset(
    ("Identity", "Cast", "QuantizeLinear", "DequantizeLinear", "Sigmoid", "Relu", "Clip", "HardSigmoid", "Exp")
)


@dataclass(frozen=True)
class Joint:
    """A Concat that makes an output.

    Attributes:
        axis: of the output, along which it joins.
        sizes: of what it joins.
    """

    axis: int
    sizes: tuple[int, ...]


@dataclass(frozen=True)
class Head:
    """A part of an output that is much smaller than the whole.

    Attributes:
        output, axis, first, last: its channels lie in first..last along that axis.
        times: how many times smaller than the whole output it is (root mean square).
        sqnr_db: of itself alone.
    """

    output: str
    axis: int
    first: int
    last: int
    times: float
    sqnr_db: float

    def shortfall(self, thresholds: Thresholds) -> str:
        """That it misses the threshold, in words; "" if it does not."""
        if self.sqnr_db >= thresholds.min_sqnr_db:
            return ""
        where = f"{self.output}, channels {self.first} to {self.last} of axis {self.axis}"
        size = f"{self.times:.3g} times smaller than the whole"
        return f"{where} ({size}): SQNR {self.sqnr_db:.1f} dB is below {thresholds.min_sqnr_db:g} dB"

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return vars(self) | {"times": finite(self.times), "sqnr_db": finite(self.sqnr_db)}


def find_joints(model: onnx.ModelProto) -> dict[str, Joint]:
    """The Concat behind each output that has one, by output; `model` knows the shapes of its tensors."""
    graph = model.graph
    maker = {name: node for node in graph.node for name in node.output}
    shapes = {
        one.name: [dim.dim_value for dim in one.type.tensor_type.shape.dim]
        for one in (*graph.input, *graph.value_info, *graph.output)
    }
    found = {}
    for output in graph.output:
        axes = list(range(len(shapes[output.name])))  # of the output, where those of the tensor at hand are
        node = maker.get(output.name)
        while node is not None and node.op_type in (*_SAME_SHAPE, "Transpose"):
            if node.op_type == "Transpose":
                perm = next((list(one.ints) for one in node.attribute if one.name == "perm"), axes[::-1])
                axes = [axes[perm.index(at)] for at in range(len(perm))]
            node = maker.get(node.input[0])
        if node is None or node.op_type != "Concat" or any(name not in shapes for name in node.input):
            continue
        axis = next(one.i for one in node.attribute if one.name == "axis") % len(axes)
        found[output.name] = Joint(axes[axis], tuple(shapes[name][axis] for name in node.input))
    return found


def small_heads(
    name: str, found: Sequence[NDArray], reference: Sequence[NDArray], joint: Joint | None
) -> tuple[Head, ...]:
    """The heads of an output that are much smaller than the whole.

    Args:
        name: of the output.
        found, reference: one array per sample, of equal shapes.
        joint: the Concat that makes it, if one does.
    """
    ours, theirs = (np.stack([np.asarray(one, np.float64) for one in arrays]) for arrays in (found, reference))
    whole = float(np.sqrt((theirs**2).mean())) if theirs.size and np.isfinite(theirs).all() else 0.0
    if not whole or reference[0].dtype.kind != "f" or not np.isfinite(ours).all():
        return ()
    parts = [] if joint is None else [(joint.axis, part) for part in _joined(joint)]
    parts += _by_size(theirs)
    heads: dict[tuple[int, ...], Head] = {}
    for axis, channels in parts:
        a, b = (np.take(one, channels, axis + 1) for one in (ours, theirs))
        size = float(np.sqrt((b**2).mean()))
        if 0 < size * SMALL < whole:
            first, last = int(channels.min()), int(channels.max())
            heads[axis, *map(int, channels)] = Head(name, axis, first, last, whole / size, sqnr_db(a, b))
    return tuple(heads.values())


def _joined(joint: Joint) -> list[NDArray[np.int64]]:
    ends = np.cumsum(joint.sizes)
    return [np.arange(end - size, end) for end, size in zip(ends, joint.sizes, strict=True)]


def _by_size(reference: NDArray) -> list[tuple[int, NDArray[np.int64]]]:
    """Channels between gaps of size, along the axis whose gap is the largest; arrays of shape (samples, ...)."""
    best, gap = [], _GAP
    for axis in range(1, reference.ndim - 1):  # behind the batch; classes have one value each
        places = math.prod(reference.shape[2:]) // reference.shape[axis + 1]
        if places < _FEWEST:
            continue
        others = tuple(at for at in range(reference.ndim) if at != axis + 1)
        sizes = np.sqrt((reference**2).mean(others))
        order = np.argsort(sizes, kind="stable")
        order = order[sizes[order] > 0]
        ratios = sizes[order][1:] / sizes[order][:-1]
        if ratios.size and ratios.max() >= gap:
            gap = float(ratios.max())
            pieces = np.split(order, np.flatnonzero(ratios >= _GAP) + 1)
            best = [(axis, np.sort(piece)) for piece in pieces]
    return best


def all_small_heads(
    outputs: Sequence[str], found: Sequence[Mapping[str, NDArray]], wanted: Sequence[Mapping[str, NDArray]],
    joints: Mapping[str, Joint],
) -> tuple[Head, ...]:  # fmt: skip
    """Those of every output."""
    return tuple(
        head
        for name in outputs
        for head in small_heads(name, [run[name] for run in found], [run[name] for run in wanted], joints.get(name))
    )
