"""The check: the deployed network against the source file, and the folded model between them.

    source in onnxruntime  --fold error-->  model_int8.onnx in onnxruntime  --lowering error-->  deployed network

Thresholds are held against the whole way; the two halves say where to look.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import onnx
from numpy.typing import NDArray

from drpai_qat.check.figures import OutputFigures, compare_output, sqnr_db
from drpai_qat.check.layers import Cut, LayerFigures, compare_layers, cut_at_quantizers, reference_integers
from drpai_qat.check.own_noise import MARGIN_DB, attainable, nudged, own_noise
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.quantization import QuantParams
from drpai_qat.runtimes.onnxruntime import Reference

RunOnce = Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]]
Feeds = Mapping[str, NDArray]

MIN_FOLD_SQNR_DB = 40.0
"""Folding changes float rounding only. A tensor below this, the first in order, is where the fold went wrong."""


@dataclass(frozen=True)
class CheckResult:
    """What the check found.

    Attributes:
        samples: number of sample inputs.
        outputs: deployed network against the source file.
        fold: model_int8.onnx in onnxruntime against the source file.
        layers: per quantized tensor, None if not asked for and not needed.
        shortfalls: thresholds missed, in words; empty: passed.
        divergence: the first place that differs, in words; "" if nothing does.
        excused: thresholds missed although every layer agrees, because the source misses them against itself
            (`own_noise.py`), in words.
    """

    samples: int
    outputs: tuple[OutputFigures, ...]
    fold: tuple[OutputFigures, ...]
    layers: tuple[LayerFigures, ...] | None = None
    shortfalls: tuple[str, ...] = ()
    divergence: str = ""
    excused: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """True if every threshold is met."""
        return not self.shortfalls

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return {
            "passed": self.passed,
            "samples": self.samples,
            "outputs": [one.to_json() for one in self.outputs],
            "fold": [one.to_json() for one in self.fold],
            "layers": None if self.layers is None else [one.to_json() for one in self.layers],
            "shortfalls": list(self.shortfalls),
            "divergence": self.divergence,
            "excused": list(self.excused),
        }


def check_outputs(
    source: Reference,
    folded: Reference,
    deployed: RunOnce,
    grids: Mapping[str, QuantParams | None],
    samples: Sequence[Feeds],
    thresholds: Thresholds,
) -> CheckResult:
    """Run all three on the samples and compare outputs.

    Args:
        source, folded: the source file and model_int8.onnx in onnxruntime.
        deployed: the compiled network.
        grids: trained grid of each output, by name.
        samples: network inputs.
        thresholds: what the outputs must reach.
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
    shortfalls = tuple(text for figures in outputs for text in figures.shortfalls(thresholds))
    return CheckResult(len(samples), outputs, fold, shortfalls=shortfalls)


def excuse(
    result: CheckResult,
    source: Reference,
    grids: Mapping[str, QuantParams | None],
    samples: Sequence[Feeds],
    thresholds: Thresholds,
) -> CheckResult:
    """Hold outputs that fall short to what the source file reaches against itself.

    Args:
        result: with its layers compared, and no divergence among them or in the fold; else it is returned unchanged.
    """
    if result.passed or result.divergence or not result.layers:
        return result
    noise = own_noise(source, samples, grids)
    missed, excused = [], []
    for figures in result.outputs:
        still = figures.shortfalls(attainable(thresholds, noise[figures.name]))
        if still:
            missed += figures.shortfalls(thresholds)
        else:
            own = min(one.sqnr_db for one in noise[figures.name])
            why = f"but every layer agrees, and the source itself is at {own:.1f} dB when its inputs move by 2^-20"
            excused += [f"{text}, {why}" for text in figures.shortfalls(thresholds)]
    return replace(result, shortfalls=tuple(missed), excused=tuple(excused))


def check_layers(
    model: onnx.ModelProto, compile_cut: Callable[[Cut], RunOnce], samples: Sequence[Feeds]
) -> tuple[LayerFigures, ...]:
    """Compare every quantized tensor of the canonical model.

    Args:
        model: canonical QDQ model.
        compile_cut: lowers and builds the cut model, returns what runs it.
        samples: network inputs.
    """
    cut = cut_at_quantizers(model)
    if not cut.tensors:
        return ()
    integers = reference_integers(model, cut, samples, "model_int8.onnx")
    return compare_layers(cut, samples, integers, compile_cut(cut))


def first_divergence(layers: Sequence[LayerFigures]) -> str:
    """Name the first layer that diverges although it was fed the reference's integers; "" if none does."""
    for layer in layers:
        if layer.diverges:
            return (
                f"diverges first at {layer.tensor} ({layer.node}): {layer.equal:.1%} of its integers are equal, "
                f"largest difference {layer.max_lsb} LSB"
            )
    return ""


def fold_divergence(source: onnx.ModelProto, folded: onnx.ModelProto, sample: Feeds) -> str:
    """Name the first quantized activation, among those that both models have by name, that folding changed.

    Other tensors may change their meaning under their name: a convolution takes in the scale of its batch norm. What
    moves as far when the source's inputs are nudged (`own_noise.py`) was not changed by folding.

    Args:
        source, folded: with static inputs.
        sample: one set of network inputs.
    Returns: words, or "" if all of them agree.
    """
    made = {name for node in source.graph.node for name in node.output if name}
    quantized = {node.output[0] for node in folded.graph.node if node.op_type == "QuantizeLinear"}
    restored = [
        node.output[0]
        for node in folded.graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized
    ]
    shared = [name for name in restored if name in made]
    before, after = (_all_values(model, shared, sample, name) for model, name in ((source, "source"), (folded, "fold")))
    moved: list[dict[str, NDArray]] = []
    for name in shared:
        theirs, ours = before.get(name), after.get(name)
        if theirs is None or ours is None or theirs.dtype.kind != "f" or theirs.shape != ours.shape:
            continue
        ratio = sqnr_db(ours, theirs)
        if ratio >= MIN_FOLD_SQNR_DB:
            continue
        moved = moved or [_all_values(source, shared, one, "source") for one in nudged(sample)]
        if ratio < min(sqnr_db(values[name], theirs) for values in moved) - MARGIN_DB:
            return f"the fold diverges first at {name}: {ratio:.1f} dB against the source file"
    return ""


def _all_values(model: onnx.ModelProto, names: Sequence[str], sample: Feeds, label: str) -> dict[str, NDArray]:
    """Values of inner tensors; onnxruntime infers the type of an output that states none."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in exposed.graph.output}
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in present)
    return Reference(exposed, label).run(sample, names)
