"""The order of steps from a model and data to the canonical QDQ graph."""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from itertools import islice

import onnx
import onnx_graphsurgeon as gs

from drpai_qat.calibration import equalization, placement, ranges
from drpai_qat.calibration.bias_correction import correct_bias
from drpai_qat.calibration.collection import Frame, Observed
from drpai_qat.calibration.fitting import Fitted, fit
from drpai_qat.calibration.insertion import insert_grids, quantize_biases, quantize_weights
from drpai_qat.calibration.max_drop import Kept, keep_within
from drpai_qat.calibration.observers import Ends
from drpai_qat.calibration.passes import OtherFramesError, Passes, expected, mark_of
from drpai_qat.calibration.placement import Site
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.reconstruction import reconstruct
from drpai_qat.calibration.record import Record
from drpai_qat.calibration.seen import Mark, Seen
from drpai_qat.calibration.sixteen_bits import largest_values, wide_grids
from drpai_qat.calibration.unfinished import Unfinished
from drpai_qat.calibration.walk import Visit, frames_in_memory, spread, walk
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Stages
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.workers import ALONE, Sharing
from drpai_qat.graph.scaled_channels import ScaledChannels
from preprocess.opening import with_16_bit_opset
from preprocess.passlog import PassLog


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
    """

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    frames: int = 0
    unseen: tuple[str, ...] = ()
    kept: Kept | None = None
    reused: bool = False
    equalized: tuple[str, ...] = ()
    fitted: Fitted | None = None


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
    scaled = ScaledChannels()
    if recipe.equalizes:
        with progress.stage("bringing channels to like ranges"):
            count, most = expected(frames), equalization.FRAMES
            few = list(islice(frames, most)) if count is None else spread(frames, max(count, 1), most)
            model, scaled = equalization.equalize(model, few, recipe, progress, multiplies=not everywhere)
    graph = gs.import_onnx(model)
    sites = find_sites(graph)
    grids, count, reused = _find_grids(model, sites, frames, recipe, progress, record, sharing)
    unseen = tuple(site.name for site in sites if site.name not in grids)
    kept_frames: list[Frame] = []
    if recipe.corrects or recipe.max_drop is not None:
        kept_frames = spread(frames, count, frames_in_memory(model))

    @cache
    def for_16_bits() -> tuple[onnx.ModelProto, dict[str, float]]:
        raised = with_16_bit_opset(gs.import_onnx(model), PassLog())
        return gs.export_onnx(raised, do_type_check=False), largest_values(model, list(grids), kept_frames)

    def make(
        visit: Visit, floating: Container[str], wide: Container[str], shown: Sequence[Frame], told: Stages
    ) -> onnx.ModelProto:
        source, largest = for_16_bits() if wide else (model, {})
        graph = gs.import_onnx(source)
        reals = placement.nodes_in_float(graph, floating)
        found = _serving_others(find_sites(graph), reals)
        quantize_weights(graph, floating)
        insert_grids(graph, found, {**grids, **wide_grids(graph, found, grids, wide, largest)}, reals)
        if recipe.corrects:
            walk(gs.import_onnx(source), graph, shown, visit, told)
        quantize_biases(graph)
        return gs.export_onnx(graph, do_type_check=False)

    with progress.stage("correcting biases, layer by layer" if recipe.corrects else "quantizing weights"):
        made, kept, visit = make(correct_bias, (), (), kept_frames, progress), None, correct_bias
    fitted = None
    if recipe.fits:
        with progress.stage("fitting weights, layer by layer"):
            fitted = fit(
                model, partial(make, correct_bias, (), ()), partial(make, reconstruct, (), ()), kept_frames, progress
            )
        if fitted.model is not None:
            made, visit = fitted.model, reconstruct
    if recipe.max_drop is not None:
        made, kept = keep_within(recipe.max_drop, model, made, partial(make, visit), kept_frames, progress)
    left = placement.nodes_in_float(graph, {layer.name for layer in kept.floating} if kept is not None else ())
    scaled.write(made)
    rounded = (site.name for site in _serving_others(sites, left))
    return Calibrated(
        made, tuple(name for name in rounded if name in grids), count, unseen, kept, reused, tuple(scaled.factors),
        fitted,
    )  # fmt: skip


def _serving_others(sites: Sequence[Site], nodes: Container[str]) -> list[Site]:
    """Sites that more than these nodes read."""
    return [site for site in sites if not placement.serves_only(site.tensor, nodes)]


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
    grids, count, reused = _find_grids(model, sites, frames, recipe, progress, record, sharing)
    insert_grids(graph, sites, grids)
    unseen = tuple(site.name for site in sites if site.name not in grids)
    return Calibrated(gs.export_onnx(graph, do_type_check=False), tuple(grids), count, unseen, reused=reused)


def _find_grids(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    frames: Iterable[Frame],
    recipe: Recipe,
    progress: Stages,
    record: Record | None,
    sharing: Sharing,
) -> tuple[dict[str, QuantParams], int, bool]:
    """The grid of each site that data has shown, how many frames there were, and whether ranges are recorded ones."""
    names = [site.name for site in sites]
    known, key, unfinished = None, None, None
    if record is not None:
        key = record.key(model, expected(frames), recipe)
        known, unfinished = record.read(key, names), record.unfinished(key)
    if known is not None:
        with progress.stage("comparing the frames with those of the recorded ranges"):
            if mark_of(frames, known[1].frames, progress) != known[1]:
                known = None
    found, mark = known or _find_ranges(model, sites, frames, recipe, progress, sharing, unfinished)
    if record is not None and key is not None and known is None:
        record.write(key, names, found, mark)
    grids = {name: ranges.grid_of_range(*found[name], symmetric=recipe.symmetric) for name in names if name in found}
    return grids, mark.frames, known is not None


def _find_ranges(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    frames: Iterable[Frame],
    recipe: Recipe,
    progress: Stages,
    sharing: Sharing,
    unfinished: Unfinished | None,
) -> tuple[dict[str, ranges.Range], Mark]:
    """The range of each site that data has shown, and the frames that showed it."""
    observed = Observed(model, [site.name for site in sites])
    shared = {site.name: site.shares.name if site.shares is not None else site.name for site in sites}
    before = None if unfinished is None else unfinished.read(observed.names)
    passes = Passes.of(observed, frames, sharing, unfinished)
    with passes.workers:
        if before is not None:
            try:
                return _look(passes, before, shared, recipe, progress, f", from frame {before.mark.frames + 1} on")
            except OtherFramesError:
                pass
        why = "" if before is None else ", anew: the frames are others than before"
        return _look(passes, Seen.nothing(observed.names), shared, recipe, progress, why)


def _look(
    passes: Passes, seen: Seen, shared: Mapping[str, str], recipe: Recipe, progress: Stages, where: str
) -> tuple[dict[str, ranges.Range], Mark]:
    """The passes that `seen` does not hold yet, and ranges of what they show; `where`: for the name of the first one.

    Sites that share a grid get that of all their values together.
    """
    if seen.whole is None:
        with progress.stage(f"finding the ranges of activations{where}"):
            passes.run(seen, progress)
        where = ""
    whole = seen.end_first_pass()
    if not whole.frames:
        raise OptionError("there are no calibration frames: give at least one")
    ends = _joined(seen.ends_by_name(), shared)
    if recipe.method in ranges.BY_ENDS:
        return {name: ranges.BY_ENDS[recipe.method](one) for name, one in ends.items()}, whole
    with progress.stage(f"choosing ranges by {recipe.method}{where}"):
        passes.run(seen, progress, ends)
        histograms = seen.histograms(ends)
        for name, first in shared.items():
            if name != first and name in histograms and first in histograms:
                histograms[first].counts += histograms[name].counts
                histograms[first].zeros += histograms[name].zeros
        by_share = {
            name: ranges.of_histogram(histograms[name], recipe.method, recipe.share)
            for name in {shared[name] for name in histograms}
        }
    return {name: by_share[shared[name]] for name in histograms}, whole


def _joined(ends: dict[str, Ends], shared: Mapping[str, str]) -> dict[str, Ends]:
    """Ends of the tensors of each shared grid, put together."""
    groups: dict[str, list[str]] = {}
    for name in ends:
        groups.setdefault(shared[name], []).append(name)
    joined = {}
    for names in groups.values():
        parts = [ends[name] for name in names]
        whole = Ends(
            min(one.low for one in parts), max(one.high for one in parts),
            min(one.mean_low for one in parts), max(one.mean_high for one in parts),
            max(one.frames for one in parts),
        )  # fmt: skip
        joined.update(dict.fromkeys(names, whole))
    return joined
