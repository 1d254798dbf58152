"""The check: the deployed network against the source file, and the folded model between them.

    source in onnxruntime  --fold error-->  model_int8.onnx in onnxruntime  --lowering error-->  deployed network

The outputs are held against thresholds. Where they fall short, or where it is asked for, every layer and every step of
the fold is held against exact arithmetic. A network whose layers are all right can still be far from the source at its
outputs: a fake-quant turns a difference of the last bit into a whole step where a value lies at a rounding boundary,
and a deep network can amplify one such step. That is a property of the trained network, no fault of the deployed one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.check.accumulated import Accumulated, accumulated
from drpai_qat.check.certificate import AS_FLOAT32, Certificate, Fineness
from drpai_qat.check.figures import OutputFigures, compare_output
from drpai_qat.check.fold import FoldCheck, Pairs
from drpai_qat.check.heads import Head, Joint, all_small_heads
from drpai_qat.check.layers import Cut, Feeds, LayerCheck, RunOnce, assembled, cut_at_quantizers, fed, reference_run
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.check.used_ranges import UsedRange, Watched
from drpai_qat.core.progress import Silent, Stages, step
from drpai_qat.core.quantization import QuantParams
from drpai_qat.core.sqnr import sqnr_db
from drpai_qat.runtimes.exact import ExactNetwork
from drpai_qat.runtimes.onnxruntime import Reference

CERTIFIED_SAMPLES = 8
"""Layers are compared on so many samples at most: each brings some millions of roundings."""


@dataclass(frozen=True)
class CheckResult:
    """What the check found.

    Attributes:
        samples: number of sample inputs.
        outputs: deployed network against the source file.
        fold: model_int8.onnx in onnxruntime against the source file.
        layers: deployed network against exact arithmetic, per quantized tensor and output; None if neither asked for
            nor needed.
        folding: model_int8.onnx against the source file, both in exact arithmetic, likewise.
        shortfalls: thresholds missed, in words; empty: none.
        uncertified: the first place that is not certified, in words; "" if everything is, or `layers` is None.
        amplified: why missed thresholds are no fault of the deployed network, in words; "" if they are, or none is.
        by_sample: as `outputs`, sample by sample.
        used: how much of each trained range the samples use; empty: not looked at.
        accumulated: tensors of the deployed network in one piece on the first sample, where layers were compared.
        heads: parts of outputs that are much smaller than the whole, apart.
    """

    samples: int
    outputs: tuple[OutputFigures, ...]
    fold: tuple[OutputFigures, ...]
    layers: tuple[Certificate, ...] | None = None
    folding: tuple[Certificate, ...] | None = None
    shortfalls: tuple[str, ...] = ()
    uncertified: str = ""
    amplified: str = ""
    by_sample: tuple[tuple[OutputFigures, ...], ...] = ()
    used: tuple[UsedRange, ...] = ()
    accumulated: tuple[Accumulated, ...] = ()
    heads: tuple[Head, ...] = ()

    @property
    def passed(self) -> bool:
        """True if every threshold is met, or everything is certified."""
        return not self.shortfalls or bool(self.amplified)

    @property
    def is_finite(self) -> bool:
        """False if an output is infinite or NaN somewhere; no certificate makes that right."""
        return not any(any(one.not_finite) for one in self.outputs)

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "passed": self.passed,
            "samples": self.samples,
            "outputs": [one.to_json() for one in self.outputs],
            "fold": [one.to_json() for one in self.fold],
            "layers": None if self.layers is None else [one.to_json() for one in self.layers],
            "folding": None if self.folding is None else [one.to_json() for one in self.folding],
            "shortfalls": list(self.shortfalls),
            "uncertified": self.uncertified,
            "amplified": self.amplified,
            "by_sample": [[_brief(one) for one in outputs] for outputs in self.by_sample],
            "used": [one.to_json() for one in self.used],
            "accumulated": [one.to_json() for one in self.accumulated],
            "heads": [one.to_json() for one in self.heads],
        }


def check_outputs(
    source: Reference,
    folded: Reference | Watched,
    deployed: RunOnce,
    grids: Mapping[str, QuantParams | None],
    samples: Sequence[Feeds],
    thresholds: Thresholds,
    joints: Mapping[str, Joint] = MappingProxyType({}),
) -> CheckResult:
    """Run all three on the samples and compare outputs.

    Args:
        source, folded: the source file and model_int8.onnx in onnxruntime.
        deployed: the compiled network.
        grids: trained grid of each output, by name.
        samples: network inputs.
        thresholds: what the outputs must reach.
        joints: the Concat behind each output that has one.
    """
    wanted = [source.run(sample) for sample in samples]
    middle = [folded.run(sample) for sample in samples]
    found = [deployed(sample) for sample in samples]
    outputs, fold = (
        tuple(
            compare_output(name, [run[name] for run in runs], [run[name] for run in wanted], grids.get(name))
            for name in source.outputs
        )
        for runs in (found, middle)
    )
    by_sample = tuple(
        tuple(compare_output(name, [ours[name]], [theirs[name]], grids.get(name)) for name in source.outputs)
        for ours, theirs in zip(found, wanted, strict=True)
    )
    heads = all_small_heads(source.outputs, found, wanted, joints)
    shortfalls = tuple(
        filter(None, (*(text for one in outputs for text in one.shortfalls(thresholds)),
                      *(head.shortfall(thresholds) for head in heads)))
    )  # fmt: skip
    used, undefined = (folded.used(), folded.undefined()) if isinstance(folded, Watched) else ((), ())
    shortfalls += undefined
    return CheckResult(len(samples), outputs, fold, shortfalls=shortfalls, by_sample=by_sample, used=used, heads=heads)


def certify(
    result: CheckResult,
    source: onnx.ModelProto,
    run_source: RunOnce,
    canonical: onnx.ModelProto,
    deployed: RunOnce,
    compile_here: Callable[[onnx.ModelProto], RunOnce],
    samples: Sequence[Feeds],
    fineness: Fineness = AS_FLOAT32,
    progress: Stages | None = None,
) -> CheckResult:
    """Hold every layer of the deployed network, and the fold, against exact arithmetic.

    Args:
        result: of `check_outputs` on the same samples.
        source: the source as it is meant to run, with static float32 inputs.
        run_source: the same in onnxruntime.
        canonical: what preprocess made of it.
        deployed: the compiled network.
        compile_here: compiles another model in the same way, returns what runs it.
        samples: network inputs; the first `CERTIFIED_SAMPLES` are used.
        fineness: of the deployed network's arithmetic.
        progress: told of both stages, and of each layer; default: silent.
    """
    progress = progress or Silent()
    samples = samples[:CERTIFIED_SAMPLES]
    with progress.stage("compiling the layers one by one"):
        cut = cut_at_quantizers(canonical)
        pieces = compile_here(cut.model)
    with progress.stage("checking layer by layer"):
        return _certified(result, source, run_source, canonical, deployed, cut, pieces, samples, fineness, progress)


def _certified(
    result: CheckResult,
    source: onnx.ModelProto,
    run_source: RunOnce,
    canonical: onnx.ModelProto,
    deployed: RunOnce,
    cut: Cut,
    pieces: RunOnce,
    samples: Sequence[Feeds],
    fineness: Fineness,
    progress: Stages,
) -> CheckResult:
    """The same, with what runs the layers: `pieces` of the canonical model `cut`."""
    reference = reference_run(canonical, cut, "model_int8.onnx")
    layers, folding = LayerCheck(canonical, cut, fineness), FoldCheck(source, canonical)
    errors: tuple[Accumulated, ...] = ()
    for number, sample in enumerate(samples):
        wanted = reference(sample)
        errors = errors or accumulated(canonical, assembled(pieces, cut, sample, wanted), wanted)
        exact = layers.add(sample, wanted, pieces(fed(cut, sample, wanted)))
        folding.add(sample, wanted, _told(exact, number, len(samples), len(cut.tensors), progress))
    result = replace(result, layers=layers.certificates(), folding=folding.certificates(), accumulated=errors)
    result = replace(result, uncertified=first_uncertified(result.layers or (), result.folding or ()))
    if not result.shortfalls or result.uncertified or not result.is_finite:
        return result
    worst = min(samples, key=lambda sample: _agreement(deployed(sample), run_source(sample)))
    wanted, found = reference(worst), deployed(worst)
    together = assembled(pieces, cut, worst, wanted)
    bounds = {one.tensor: one.bound for one in result.layers or ()}
    for name in found:
        if not _same(found[name], together[name], bounds.get(name, 0.0)):
            why = f"every layer is certified, but the network gives another {name} than its layers put together"
            return replace(result, uncertified=f"{why}: please report it")
    own = _agreement(_turned(canonical, cut, worst, wanted, pieces(fed(cut, worst, wanted))), run_source(worst))
    return replace(result, amplified=_explained(result.layers or (), own))


def _same(found: NDArray, together: NDArray, bound: float) -> bool:
    """The same integers, or floats that are certified alike: of a layer in float32, the order of sums may differ.

    Args:
        bound: distance of each from the exact value, in steps of an 8-bit grid over its range.
    """
    if np.array_equal(found, together, equal_nan=found.dtype.kind == "f"):
        return True
    if found.dtype.kind != "f" or not np.isfinite(found).all():
        return False
    return float(np.abs(found - together).max()) <= 2 * bound * float(np.ptp(found)) / 255


def _told(exact: Pairs, sample: int, samples: int, layers: int, progress: Stages) -> Pairs:
    """The exact values of one sample of several: a layer of a sample is a step."""
    for done, one in enumerate(exact, 1):
        yield one
        step(progress, sample * layers + min(done, layers), samples * layers)


def first_uncertified(layers: Sequence[Certificate], folding: Sequence[Certificate]) -> str:
    """Name the first step of the fold, or else the first layer, that is not certified; "" if all are."""
    for one in folding:
        if not one.certified:
            return f"the fold is not certified, first at {one}"
    for one in layers:
        if not one.certified:
            return f"not certified, first at {one}"
    return ""


def _brief(figures: OutputFigures) -> dict[str, Any]:
    """What report.json says of one output on one sample."""
    whole = figures.to_json()
    return {name: whole[name] for name in ("exact", "sqnr_db", "max_error_lsb", "unequal", "top1")}


def _explained(layers: Sequence[Certificate], own: float) -> str:
    """Why outputs fall short although everything is certified.

    Args:
        own: SQNR of the trained network in exact arithmetic, with ties taken the other way, against its own run.
    """
    ties, theirs = sum(one.unequal for one in layers), sum(one.reference_unequal for one in layers)
    counted = f"{ties} tie{'' if ties == 1 else 's'}; {theirs} in onnxruntime"
    text = f"every layer and the fold are certified ({counted}): the trained network itself amplifies single roundings"
    if not math.isfinite(own):
        return text
    text += f", and reaches {own:.1f} dB against itself in exact arithmetic"
    return f"{text} with the ties taken the other way" if ties else text


def _turned(canonical: onnx.ModelProto, cut: Cut, sample: Feeds, wanted: Feeds, found: Feeds) -> dict[str, NDArray]:
    """Float outputs of the trained network in exact arithmetic, the first layer's ties rounded as found."""
    turned = next((name for name in cut.tensors if not np.array_equal(found[name], wanted[name])), None)
    given = {} if turned is None else {turned: found[turned]}
    exact = ExactNetwork(canonical).walk(sample, given, ())
    return {name: one for name, one in exact if isinstance(one, np.ndarray) and one.dtype.kind == "f"}


def _agreement(found: Feeds, wanted: Feeds) -> float:
    """The least SQNR of the float outputs; of all if none is float."""
    floats = [name for name in found if found[name].dtype.kind == "f"]
    return min((sqnr_db(found[name], wanted[name]) for name in floats or found), default=math.inf)
