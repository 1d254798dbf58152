"""The grids that data gives tensors: from frames over what they show to ranges, which may be recorded ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import onnx

from drpai_qat.calibration import layer_error, ranges
from drpai_qat.calibration.collection import Frame, Observed
from drpai_qat.calibration.observers import Ends, Histogram
from drpai_qat.calibration.passes import OtherFramesError, Passes, expected, mark_of
from drpai_qat.calibration.placement import Site
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.record import Record
from drpai_qat.calibration.seen import Mark, Seen
from drpai_qat.calibration.unfinished import Unfinished
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Stages
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.workers import Sharing


def find_grids(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    frames: Iterable[Frame],
    few: Sequence[Frame],
    recipe: Recipe,
    progress: Stages,
    record: Record | None,
    sharing: Sharing,
) -> tuple[dict[str, QuantParams], int, bool]:
    """The grid of each site that data has shown, how many frames there were, and whether ranges are recorded ones.

    `few`: some of the frames, in memory, for methods that need them again.
    """
    names = [site.name for site in sites]
    known, key, unfinished = None, None, None
    if record is not None:
        key = record.key(model, expected(frames), recipe)
        known, unfinished = record.read(key, names), record.unfinished(key)
    if known is not None:
        with progress.stage("comparing the frames with those of the recorded ranges"):
            if mark_of(frames, known[1].frames, progress) != known[1]:
                known = None
    found, mark = known or _find_ranges(model, sites, frames, few, recipe, progress, sharing, unfinished)
    if record is not None and key is not None and known is None:
        record.write(key, names, found, mark)
    grids = {name: ranges.grid_of_range(*found[name], symmetric=recipe.symmetric) for name in names if name in found}
    return grids, mark.frames, known is not None


def _find_ranges(
    model: onnx.ModelProto,
    sites: Sequence[Site],
    frames: Iterable[Frame],
    few: Sequence[Frame],
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
        try:
            where = "" if before is None else f", from frame {before.mark.frames + 1} on"
            whole, ends, histograms = _look(
                passes, before or Seen.nothing(observed.names), shared, recipe, progress, where
            )
        except OtherFramesError:
            why = ", anew: the frames are others than before"
            whole, ends, histograms = _look(passes, Seen.nothing(observed.names), shared, recipe, progress, why)
    if recipe.method in ranges.BY_ENDS:
        return {name: ranges.BY_ENDS[recipe.method](one) for name, one in ends.items()}, whole
    if recipe.method == "layer":
        with progress.stage("trying ranges on the layers that read them"):
            known = [site for site in sites if site.name in ends]
            found = layer_error.choose(
                model, known, histograms, few, whole.frames, progress, symmetric=recipe.symmetric
            )  # fmt: skip
        return found, whole
    by_share = {name: ranges.of_histogram(one, recipe.method, recipe.share) for name, one in histograms.items()}
    return {name: by_share[shared[name]] for name in ends}, whole


def _look(
    passes: Passes, seen: Seen, shared: Mapping[str, str], recipe: Recipe, progress: Stages, where: str
) -> tuple[Mark, dict[str, Ends], dict[str, Histogram]]:
    """The passes that `seen` does not hold yet; `where`: for the name of the first one.

    Returns: all frames; the ends of each tensor, those of a shared grid together; the histogram of each grid.
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
        return whole, ends, {}
    with progress.stage(f"choosing ranges by {recipe.method}{where}"):
        passes.run(seen, progress, ends)
    histograms: dict[str, Histogram] = {}
    for name, one in seen.histograms(ends).items():
        first = histograms.setdefault(shared[name], one)
        if first is not one:
            first.counts += one.counts
            first.zeros += one.zeros
    return whole, ends, histograms


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
