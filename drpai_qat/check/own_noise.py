"""How far the source file is from itself: what one rounding of its inputs does to its outputs.

A fake-quant turns a difference of one float32 rounding into a whole step wherever a value lies at a boundary. Some
networks, untrained or barely trained ones above all, amplify such a step from layer to layer: the source then differs
from itself, computed in another order, by more than any threshold allows. No deployed network can be held closer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from drpai_qat.check.figures import OutputFigures, compare_output
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.quantization import QuantParams
from drpai_qat.runtimes.onnxruntime import Reference

NUDGE = 2.0**-20
"""Relative size: some eight float32 roundings, what summing a layer in another order amounts to."""

NUDGES = 4

MARGIN_DB = 6.0
"""A deployed network rounds differently in every layer, the nudged source in its first."""


def own_noise(
    source: Reference, samples: Sequence[Mapping[str, NDArray]], grids: Mapping[str, QuantParams | None]
) -> dict[str, list[OutputFigures]]:
    """Figures of the source with nudged inputs against itself, by output: one entry a sample and nudge.

    Args:
        samples: network inputs; floats are nudged, other types are left alone.
        grids: trained grid of each output, by name.
    """
    found: dict[str, list[OutputFigures]] = {name: [] for name in source.outputs}
    for sample in samples:
        steady = source.run(sample)
        for moved_sample in nudged(sample):
            moved = source.run(moved_sample)
            for name, figures in found.items():
                figures.append(compare_output(name, [moved[name]], [steady[name]], grids.get(name)))
    return found


def nudged(sample: Mapping[str, NDArray]) -> list[dict[str, NDArray]]:
    """The same inputs, each float moved up or down by a nudge; several times, the same ones in every run."""
    random = np.random.default_rng(0)
    return [{name: _moved(value, random) for name, value in sample.items()} for _ in range(NUDGES)]


def _moved(value: NDArray, random: np.random.Generator) -> NDArray:
    if value.dtype.kind != "f":
        return value
    return (value * (1.0 + NUDGE * random.choice([-1.0, 1.0], value.shape))).astype(value.dtype)


def attainable(thresholds: Thresholds, noise: Sequence[OutputFigures]) -> Thresholds:
    """Thresholds for an output, relaxed to what the source reaches against itself."""
    agreeing = [one.top1.equal + one.top1.ties for one in noise if one.top1 is not None]
    totals = [one.top1.total for one in noise if one.top1 is not None]
    error = max(one.max_error_lsb for one in noise)
    return replace(
        thresholds,
        min_sqnr_db=min(thresholds.min_sqnr_db, min(one.sqnr_db for one in noise) - MARGIN_DB),
        max_lsb=None if thresholds.max_lsb is None else max(thresholds.max_lsb, 2 * error),
        min_cosine=None if thresholds.min_cosine is None else min(thresholds.min_cosine, *(o.cosine for o in noise)),
        min_top1=min(thresholds.min_top1, sum(agreeing) / sum(totals)) if totals else thresholds.min_top1,
    )
