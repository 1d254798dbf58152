"""Why a layer diverges: each cause of the documented list has an experiment, and is named only if that confirms it.

The experiments repeat the first layer that diverges under one changed assumption: other roundings, other limits, B's
grids, B's bias, other axes, other inputs. An assumption under which B's values are right, or all but a few, is the
cause; the evidence is said with it.
"""

from __future__ import annotations

from drpai_qat.compare.input_experiments import layout, preprocessing
from drpai_qat.compare.layers import LayerComparison, LayerFigures
from drpai_qat.compare.matching import Matching
from drpai_qat.compare.parameter_experiments import (
    bias_rounding,
    folded_batch_norm,
    other_weights,
    quantized_weights,
    recalibrated,
)
from drpai_qat.compare.parameters import Parameters
from drpai_qat.compare.structure import Feeds, Side, frontier, region
from drpai_qat.compare.suspect import Cause, Suspect
from drpai_qat.compare.value_experiments import fused_activation, rounding, rounding_twice, saturation

UNKNOWN = "unknown"

EXPERIMENTS = (
    preprocessing,  # before the grids: an input in other units has another grid
    layout,  # before the weights, which lie in another order then
    folded_batch_norm,  # before the grids of the weights, which follow from its factors
    fused_activation,  # before saturation: an activation's limit is one, too
    recalibrated,  # before saturation: another range ends elsewhere
    saturation,
    rounding,  # before the bias: half a step on all of them is the same
    bias_rounding,
    quantized_weights,
    other_weights,  # after all that a change of weights may be part of
    rounding_twice,
)
"""In this order: the later ones also fit some of what the earlier ones name."""


def find_cause(
    a: Side, b: Side, matching: Matching, parameters: Parameters, comparison: LayerComparison, sample: Feeds,
    figures: LayerFigures,
) -> Cause:  # fmt: skip
    """The cause of a layer's divergence; UNKNOWN, with a hint, if no experiment confirms one."""
    index = [one.pair for one in comparison.figures].index(figures.pair)
    seen = list(comparison.seen(sample))[index]
    ends = {pair.ours: pair for pair in matching.points}
    inside = set(region(a.structure, figures.pair.ours, ends))
    layers = next((pair for pair in matching.layers if pair[0].output in inside), None)
    names = {name for name, one in a.structure.tensors.items() if not one.op}
    upstream = frontier(a.structure, figures.pair.ours, {**ends, **dict.fromkeys(names)})
    suspect = Suspect(a, b, matching, parameters, comparison, sample, figures, seen, layers, bool(upstream & names))
    for experiment in EXPERIMENTS:
        found = experiment(suspect)
        if found is not None:
            return found
    own = _grids_inside(suspect)
    hint = f"; B has grids of its own inside, first {own[0]}" if own else ""
    return Cause(UNKNOWN, f"none of the known causes explains it{hint}")


def _grids_inside(suspect: Suspect) -> list[str]:
    """Grids that B has between the tensors that are compared, in words."""
    taken = {pair.theirs: pair for pair in suspect.matching.points}
    structure = suspect.b.structure
    return [
        f"{name} ({grid.dtype}, scale {float(grid.scale):.3g})"
        for name in region(structure, suspect.figures.pair.theirs, taken)
        if name not in taken
        and structure.tensors[name].op
        and (grid := structure.tensors[name].grid) is not None
        and not grid.per_channel
    ]
