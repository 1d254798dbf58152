"""Experiments on a layer's numbers: grids, weights, biases."""

from __future__ import annotations

import numpy as np

from drpai_qat.compare.matching import likeness
from drpai_qat.compare.parameters import accumulator_step, moved, told
from drpai_qat.compare.structure import Structure, frontier
from drpai_qat.compare.suspect import Cause, Suspect

_NEAR = 4
"""Operators between a convolution and its batch norm: quantizer, ReLU."""

_LEAST_STEP, _HALF_STEP = 1e-3, 0.501
"""Of weights that lie on the grid but for float32, and of those that were rounded to it."""

_LEAST_FACTOR = 0.02
"""Relative; weights per channel that differ by less are roundings."""


def folded_batch_norm(suspect: Suspect) -> Cause | None:
    """One side multiplied each channel's weights with a factor that the other applies behind."""
    if suspect.layers is None or suspect.layers[0].weights.shape != suspect.layers[1].weights.shape:
        return None
    mine, yours = (layer.real for layer in suspect.layers)
    if likeness(*suspect.layers) < 0.99:
        return None
    factors = np.linalg.norm(yours, axis=1) / np.maximum(np.linalg.norm(mine, axis=1), 1e-30)
    if np.abs(factors - 1).max(initial=0) < _LEAST_FACTOR:
        return None
    where = _where_affine(suspect)
    if not where:
        return None
    return Cause(
        "folded batch norm",
        f"B's weights are A's times {factors.min():.3g} to {factors.max():.3g} per channel, and {where}: a rounding "
        "that was trained between layer and batch norm is gone, or a new one is there",
    )


def _where_affine(suspect: Suspect) -> str:
    """Which side has factors per channel of its own next to the layer."""
    pair = suspect.figures.pair
    for label, side, name in (("A", suspect.a, pair.ours), ("B", suspect.b, pair.theirs)):
        if _near(side.structure, name) & side.structure.affine:
            return f"{label} has the factors as an operator of their own"
    return ""


def _near(structure: Structure, name: str) -> set[str]:
    """Tensors a few operators up or down from one."""
    found = {name}
    for _ in range(_NEAR):
        up = {parent for one in found for parent in structure.tensors[one].parents}
        down = {one for one, tensor in structure.tensors.items() if found.intersection(tensor.parents)}
        found |= up | down
    return found


def recalibrated(suspect: Suspect) -> Cause | None:
    """A grid is not the trained one: the tensor's own, one that it is computed from, or that of its weights."""
    pair = suspect.figures.pair
    ends = {one.ours: one for one in suspect.matching.points}
    for name in (pair.ours, *frontier(suspect.a.structure, pair.ours, ends)):
        if name not in ends:
            continue
        ours = suspect.a.structure.tensors[name].grid
        theirs = suspect.b.structure.tensors[ends[name].theirs].grid
        if moved(ours, theirs):
            which = name if name == pair.ours else f"{name}, which it reads"
            return Cause("re-calibrated range", f"{which}: A {told(ours)}, B {told(theirs)}")
    if suspect.layers is None or likeness(*suspect.layers) < 0.99:
        return None
    grids = suspect.parameters.grids
    output = suspect.layers[0].output
    weights = next((one for one in grids if one.kind == "weights" and one.tensor == output), None)
    if weights is None or weights.percent is None or weights.same:
        return None
    return Cause("re-calibrated range", f"weights of {suspect.layers[0].node}: A {weights.ours}, B {weights.theirs}")


def quantized_weights(suspect: Suspect) -> Cause | None:
    """A's weights are reals, and B's are those, rounded to a grid: what B lost is not a fault of its deployment."""
    if suspect.layers is None or suspect.layers[0].weights.shape != suspect.layers[1].weights.shape:
        return None
    mine, yours = suspect.layers
    if mine.scale is not None or yours.scale is None:
        return None
    steps = np.abs(mine.real - yours.real) / yours.steps
    if not _LEAST_STEP < steps.max(initial=0) <= _HALF_STEP:
        return None
    told = f"A is a float network; the weights of {yours.node} are its own, rounded to B's grid"
    return Cause("quantized weights", f"{told} (up to {steps.max():.2f} steps)")


def other_weights(suspect: Suspect) -> Cause | None:
    """The layers' numbers are not those of one training."""
    if suspect.layers is None or suspect.layers[0].weights.shape != suspect.layers[1].weights.shape:
        return None
    mine, yours = (layer.real for layer in suspect.layers)
    largest = float(np.abs(mine).max(initial=0)) or 1.0
    apart = np.abs(mine - yours) > 1e-3 * largest
    if not apart.any():
        return None
    return Cause("other weights", f"{int(apart.sum())} of {apart.size} weights of {suspect.layers[0].node} differ")


def bias_rounding(suspect: Suspect) -> Cause | None:
    """The biases differ, and what that moves is what is wrong."""
    if suspect.layers is None:
        return None
    mine, yours = suspect.layers
    rows = len(mine.weights)
    ours, theirs = (np.zeros(rows) if one.bias is None else one.bias for one in (mine, yours))
    grid = suspect.grid
    if ours.shape != theirs.shape or not np.any(ours != theirs) or grid is None:
        return None
    steps = suspect.seen.steps
    axis = 1 if steps.ndim > 2 and steps.shape[1] == rows else steps.ndim - 1
    if steps.shape[axis] != rows:
        return None
    shape = [1] * steps.ndim
    shape[axis] = rows
    moved = steps + ((theirs - ours) / float(grid.scale)).reshape(shape)
    if not suspect.explained(suspect.rounded(moved)):
        return None
    step = accumulator_step(mine)
    step = accumulator_step(yours) if step is None else step
    most = "" if step is None else f", up to {float((np.abs(theirs - ours) / step).max()):.3g} accumulator steps"
    most += f", {float(np.abs(theirs - ours).max()) / float(grid.scale):.3g} steps of the result"
    return Cause("bias rounding", f"the biases of {mine.node} differ{most}; with B's bias, A has B's integers")
