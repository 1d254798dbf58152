"""The order of steps from a model and data to the canonical QDQ graph."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import onnx
import onnx_graphsurgeon as gs

from drpai_qat.calibration import equalization, layer_error, placement
from drpai_qat.calibration.alternatives import Comparison, Tried
from drpai_qat.calibration.bias_correction import correct_bias
from drpai_qat.calibration.collection import Frame
from drpai_qat.calibration.fitting import Fitted
from drpai_qat.calibration.grids import find_grids
from drpai_qat.calibration.insertion import insert_grids
from drpai_qat.calibration.kept import few_of, keep, parted
from drpai_qat.calibration.max_drop import Kept, keep_within
from drpai_qat.calibration.ranged import FindSites, Ranged
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.reconstruction import reconstruct
from drpai_qat.calibration.record import Record
from drpai_qat.calibration.walk import Visit, frames_in_memory
from drpai_qat.core.progress import Silent, Stages
from drpai_qat.core.workers import ALONE, Sharing
from drpai_qat.graph.scaled_channels import ScaledChannels

_LEAST_TO_COMPARE, _LEAST_TO_FIT = 16, 8
"""Frames from which on some are left aside."""


@dataclass(frozen=True)
class Calibrated:
    """A model with the grids that data gave it.

    Attributes:
        model: canonical QDQ.
        tensors: names of the tensors that were given a grid.
        frames: how many were looked at.
        unseen: tensors that should have one, but held no finite value.
        kept: which layers --max-drop gave 16 bits or left in float; None: it was not asked for.
        reused: the ranges are recorded ones, and the data was not looked at for them.
        equalized: names of tensors that hold the source's with their channels scaled.
        fitted: what `--ptq best` came to; None: it was not asked for.
        compared: networks quantized in several ways, as report.json tells of them; None: too few frames for that.
    """

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    frames: int = 0
    unseen: tuple[str, ...] = ()
    kept: Kept | None = None
    reused: bool = False
    equalized: tuple[str, ...] = ()
    fitted: Fitted | None = None
    compared: Mapping[str, Any] | None = None


def quantize_float(
    model: onnx.ModelProto,
    frames: Iterable[Frame],
    recipe: Recipe,
    progress: Stages,
    *,
    everywhere: bool = False,
    record: Record | None = None,
    sharing: Sharing = ALONE,
) -> Calibrated:
    """Quantize a folded float model after training.

    Args:
        model: as preprocess leaves a float model; not changed.
        frames: calibration data; iterated more than once.
        everywhere: give each result a grid, as TFLite's operators need it.
        record: where ranges are kept, and taken from if it holds those of this model and data.
        sharing: who runs the frames.
    Raises: OptionError: there are no frames, or --max-drop can't be met. WorkerError: see `sharing`.
    """
    find_sites = placement.sites_everywhere if everywhere else placement.sites_between_kernels
    looks = recipe.equalizes or recipe.corrects or recipe.max_drop is not None or recipe.method == "layer"
    kept_frames = keep(frames, model) if looks else []
    made_of, aside = _parted(kept_frames, recipe)
    compared = Comparison(model, few_of(aside, frames_in_memory(model)))
    way, plain, scaled = replace(recipe, fits=False, equalizes=False), model, ScaledChannels()
    if recipe.equalizes:
        with progress.stage("bringing channels to like ranges"):
            few = few_of(made_of, equalization.FRAMES)
            model, scaled = equalization.equalize(model, few, recipe, progress, multiplies=not everywhere)
    if scaled.factors:
        way = replace(way, equalizes=True)
        if recipe.fits and compared.decides:
            with progress.stage("comparing networks with and without scaled channels"):
                way = _nearer_without_scale(compared, way, model, plain, find_sites, made_of)
            if not way.equalizes:
                model, scaled = plain, ScaledChannels()
    graph = gs.import_onnx(model)
    sites = find_sites(graph)
    grids, count, reused = find_grids(model, sites, frames, made_of, recipe, progress, record, sharing)
    unseen = tuple(site.name for site in sites if site.name not in grids)
    few = few_of(kept_frames, frames_in_memory(model))
    ranged = Ranged(model, grids, find_sites, few)
    visit: Visit | None = correct_bias if recipe.corrects else None
    with progress.stage("correcting biases, layer by layer" if recipe.corrects else "quantizing weights"):
        made = ranged.quantized(visit, (), (), (), made_of, progress)
    if visit is not None and compared.decides:
        with progress.stage("comparing networks with and without corrected biases"):
            without = ranged.quantized(None, (), (), (), (), Silent())
            one, other = compared.add(way, made), compared.add(replace(way, corrects=False), without)
            if other.is_nearer(one):
                way, made, visit = other.way, without, None
    fitted = Fitted(len(kept_frames)) if recipe.fits else None
    if recipe.fits and aside:
        with progress.stage("fitting weights, layer by layer"):
            best = compared.add(replace(way, fits=True), ranged.quantized(reconstruct, (), (), (), made_of, progress))
            fitted = Fitted(len(compared.frames), compared.of(made) or compared.add(way, made), best)
        if fitted.is_kept:
            made, visit = best.model, reconstruct
    told = compared.to_json(made) if compared.tried else None
    kept = None
    if recipe.max_drop is not None:
        made, kept = keep_within(recipe.max_drop, model, made, partial(ranged.quantized, visit), few, progress)
    left = placement.nodes_in_float(graph, {layer.name for layer in kept.floating} if kept is not None else ())
    scaled.write(made)
    rounded = (site.name for site in ranged.sites(graph, left))
    return Calibrated(
        made, tuple(name for name in rounded if name in grids), count, unseen, kept, reused, tuple(scaled.factors),
        fitted, told,
    )  # fmt: skip


def _parted(frames: Sequence[Frame], recipe: Recipe) -> tuple[Sequence[Frame], Sequence[Frame]]:
    """Frames that the network is made of, and those that compare ways to make it; where they are few there are none."""
    least = _LEAST_TO_FIT if recipe.fits else _LEAST_TO_COMPARE
    return parted(frames) if recipe.compares and len(frames) >= least else (frames, ())


def _nearer_without_scale(
    compared: Comparison,
    way: Recipe,
    scaled: onnx.ModelProto,
    plain: onnx.ModelProto,
    find_sites: FindSites,
    frames: Sequence[Frame],
) -> Recipe:
    """The way with the nearer network: with scaled channels, or without; of these frames alone."""

    def tried(model: onnx.ModelProto, way: Recipe) -> Tried:
        grids, _, _ = find_grids(model, find_sites(gs.import_onnx(model)), frames, frames, way, Silent(), None, ALONE)
        visit = correct_bias if way.corrects else None
        return compared.add(way, Ranged(model, grids, find_sites).quantized(visit, (), (), (), frames, Silent()))

    one, other = tried(scaled, way), tried(plain, replace(way, equalizes=False))
    return other.way if other.is_nearer(one) else way


def fill_gaps(
    model: onnx.ModelProto,
    frames: Iterable[Frame],
    recipe: Recipe,
    progress: Stages,
    *,
    dynamic: bool = False,
    record: Record | None = None,
    sharing: Sharing = ALONE,
) -> Calibrated:
    """Give a grid to what the layers of a trained model multiply and training left without one.

    Trained grids stay as they are, and so do tensors that have a bound: their integers are exact.
    `dynamic`: the source was quantized dynamically, so that they are rounded there too, and get a grid here.
    """
    graph = gs.import_onnx(model)
    sites = placement.gaps(graph, model, dynamic=dynamic)
    if not sites:
        return Calibrated(model, ())
    few = few_of(keep(frames, model), layer_error.MOST_FRAMES) if recipe.method == "layer" else []
    grids, count, reused = find_grids(model, sites, frames, few, recipe, progress, record, sharing)
    insert_grids(graph, sites, grids)
    unseen = tuple(site.name for site in sites if site.name not in grids)
    return Calibrated(gs.export_onnx(graph, do_type_check=False), tuple(grids), count, unseen, reused=reused)
