"""The comparison of two networks: parameters, layers, outputs, and a verdict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.helper
from numpy.typing import NDArray

from drpai_qat.check.figures import OutputFigures, compare_output
from drpai_qat.compare.arrangement import arranged
from drpai_qat.compare.causes import find_cause
from drpai_qat.compare.compare_options import CompareOptions
from drpai_qat.compare.layers import LayerComparison, LayerFigures, first_divergence
from drpai_qat.compare.matching import Matching, match
from drpai_qat.compare.onnx_side import OnnxSide
from drpai_qat.compare.opening import open_both
from drpai_qat.compare.parameters import Parameters, compare_parameters
from drpai_qat.compare.structure import Feeds, Side
from drpai_qat.compare.suspect import Cause
from drpai_qat.core.progress import Stages
from drpai_qat.core.text import listed, one_line
from drpai_qat.data.given_samples import read_samples
from drpai_qat.data.samples import choose_samples

SCHEMA_VERSION = 1


@dataclass(frozen=True)
class Comparison:
    """What was found.

    Attributes:
        sides: name and kind of A and B.
        samples: number of inputs; random: they were made up.
        matching: which tensors are the same.
        layers: matched tensors in A's order; to the first that diverges with --fail-fast.
        notes: what could not be compared, in words.
        outputs: B against A; empty if a layer failed fast.
        cause: of the first divergence; None if there is none.
        beyond: limits on the outputs that are not met, in words.
        limited: limits were given: they alone decide.
    """

    sides: tuple[tuple[str, str], tuple[str, str]]
    samples: int
    random: bool
    matching: Matching
    parameters: Parameters
    layers: tuple[LayerFigures, ...]
    notes: tuple[str, ...]
    outputs: tuple[OutputFigures, ...]
    cause: Cause | None
    beyond: tuple[str, ...]
    limited: bool

    @property
    def passed(self) -> bool:
        """Within the limits that were given; without any, no layer diverges."""
        return not self.beyond if self.limited else first_divergence(self.layers) is None and not self.beyond

    @property
    def verdict(self) -> str:
        """One line."""
        first = first_divergence(self.layers)
        if first is not None:
            where = f"{one_line(first.op or 'input')} {one_line(first.pair.ours)}"
            return f"diverges first at {where}: {self.cause}"
        worst = max((one.single.max_lsb for one in self.layers), default=0.0)
        if not self.layers:
            return "; ".join(self.beyond) or "no layer could be compared; the outputs agree"
        equal = sum(one.single.equal for one in self.layers) / max(sum(one.single.count for one in self.layers), 1)
        text = f"no layer diverges: {100 * equal:.2f}% of the integers equal, the others at most {worst:.3g} LSB apart"
        if worst == 0:
            text = "no layer diverges: all integers equal"
        return f"{text}; {'; '.join(self.beyond)}" if self.beyond else text

    def to_json(self) -> dict[str, Any]:
        """The JSON form."""
        first = first_divergence(self.layers)
        return {
            "schema_version": SCHEMA_VERSION,
            "verdict": self.verdict,
            "passed": self.passed,
            "a": {"name": self.sides[0][0], "kind": self.sides[0][1]},
            "b": {"name": self.sides[1][0], "kind": self.sides[1][1]},
            "samples": {"count": self.samples, "random": self.random},
            "first_divergence": None
            if first is None or self.cause is None
            else {"tensor": first.pair.ours, "cause": self.cause.name, "evidence": self.cause.evidence},
            "beyond": list(self.beyond),
            "notes": list(self.notes),
            "parameters": self.parameters.to_json(),
            "layers": [one.to_json() for one in self.layers],
            "unmatched": list(self.matching.unmatched),
            "outputs": [one.to_json() for one in self.outputs],
        }


def compare(options: CompareOptions, progress: Stages) -> Comparison:
    """Compare two networks.

    Raises: DrpaiQatError: one can't be read or run, or they have nothing in common.
    """
    with progress.stage("opening both"):
        a, b = open_both(Path(options.a), Path(options.b), options.input_shapes)
        given = None if options.given is None else read_samples(options.given)
        samples = choose_samples(_sampled(a, b), given, options)
    with progress.stage("matching tensors"):
        matching = match(a, b, samples[0])
        parameters = compare_parameters(a, b, matching)
    with progress.stage("comparing layers"):
        layers, cause = _layers(a, b, matching, parameters, samples, options.fail_fast)
    outputs: tuple[OutputFigures, ...] = ()
    beyond: tuple[str, ...] = ()
    if not (options.fail_fast and first_divergence(layers) is not None):
        with progress.stage("comparing outputs"):
            outputs, beyond = _outputs(a, b, matching, samples, options)
    if options.extract is not None:
        from drpai_qat.compare.extract import extract

        extract(a, b, matching, samples[0], options.extract, options.extract_folder)
    return Comparison(
        ((a.name, a.kind), (b.name, b.kind)), len(samples), options.given is None, matching, parameters,
        tuple(layers), _notes(a, b, matching), outputs, cause, beyond, options.limited,
    )  # fmt: skip


def _layers(
    a: Side, b: Side, matching: Matching, parameters: Parameters, samples: Sequence[Feeds], fail_fast: bool
) -> tuple[list[LayerFigures], Cause | None]:
    comparison = LayerComparison(a, b, matching)
    worst: dict[str, Feeds] = {}
    for sample in samples:
        before = {one.pair.ours: one.wrong or 0 for one in comparison.figures}
        comparison.add(sample)
        for one in comparison.figures:
            if (one.wrong or 0) > before[one.pair.ours]:
                worst.setdefault(one.pair.ours, sample)
        if fail_fast and first_divergence(comparison.figures) is not None:
            break
    layers = comparison.finish()
    first = first_divergence(layers)
    if first is None:
        return layers, None
    cause = find_cause(a, b, matching, parameters, comparison, worst.get(first.pair.ours, samples[0]), first)
    if fail_fast:
        layers = layers[: layers.index(first) + 1]
    return layers, cause


def _outputs(
    a: Side, b: Side, matching: Matching, samples: Sequence[Feeds], options: CompareOptions
) -> tuple[tuple[OutputFigures, ...], tuple[str, ...]]:
    ours = [a.run(sample) for sample in samples]
    theirs = [b.run(matching.feeds(sample, b.inputs)) for sample in samples]
    grids = {info.name: info.quantization for info in a.outputs}
    figures, beyond = [], []
    for pair in matching.outputs:
        wanted = [run[pair.ours] for run in ours]
        found = [arranged(run[pair.theirs], pair.order, wanted[0].shape) for run in theirs]
        one = compare_output(pair.ours, found, wanted, grids.get(pair.ours) or _behind(a, pair.ours))
        figures.append(one)
        beyond += _beyond(one, found, wanted, options)
    return tuple(figures), tuple(beyond)


def _behind(a: Side, name: str) -> Any:
    """The grid of a network output that is a quantized tensor in another shape."""
    tensor = a.structure.tensors.get(name)
    while tensor is not None and tensor.grid is None and len(tensor.parents) == 1:
        if tensor.op not in ("Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Identity", "DEQUANTIZE"):
            return None
        tensor = a.structure.tensors[tensor.parents[0]]
    return None if tensor is None or (tensor.grid is not None and tensor.grid.per_channel) else tensor.grid


def _beyond(
    one: OutputFigures, found: Sequence[NDArray[Any]], wanted: Sequence[NDArray[Any]], options: CompareOptions
) -> list[str]:
    told = []
    if options.max_lsb is not None and one.max_error_lsb > options.max_lsb:
        told.append(f"{one.name}: error of {one.max_error_lsb:.3g} LSB is above {options.max_lsb:g}")
    if options.atol is not None or options.rtol is not None:
        atol, rtol = options.atol or 0.0, options.rtol or 0.0
        far = sum(
            int((np.abs(x.astype(np.float64) - y) > atol + rtol * np.abs(y.astype(np.float64))).sum())
            for x, y in zip(found, wanted, strict=True)
        )
        if far:
            told.append(f"{one.name}: {far} values are beyond atol {atol:g} and rtol {rtol:g}")
    return told


def _sampled(a: Side, b: Side) -> onnx.ModelProto:
    """A model with A's inputs, from which samples are chosen; their ranges are B's where A has none."""
    grids = [_first_grid(a, index) or _first_grid(b, index) for index in range(len(a.inputs))]
    if isinstance(a, OnnxSide) and (_first_grid(a, 0) is not None or None in grids):
        return a.model
    graph = onnx.GraphProto(name="inputs")
    for index, info in enumerate(a.inputs):
        kind = onnx.helper.np_dtype_to_tensor_dtype(np.dtype("float32" if info.quantization else info.dtype))
        graph.input.append(onnx.helper.make_tensor_value_info(info.name, kind, info.shape))
        grid = info.quantization or grids[index]
        if grid is not None:
            names = [f"{info.name}:{part}" for part in ("scale", "zero_point", "integers")]
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(grid.scale), names[0]))
            graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(grid.zero_point, grid.dtype), names[1]))
            graph.node.append(onnx.helper.make_node("QuantizeLinear", [info.name, *names[:2]], [names[2]]))
    return onnx.helper.make_model(graph)


def _first_grid(side: Side, index: int) -> Any:
    """The grid of an input, or the one that a float input is rounded to."""
    inputs = [one for one, tensor in side.structure.tensors.items() if not tensor.op]
    if index >= len(inputs):
        return None
    own = side.structure.tensors[inputs[index]].grid
    readers = [one.grid for one in side.structure.tensors.values() if one.parents == (inputs[index],)]
    return own or next((grid for grid in readers if grid is not None), None)


def _notes(a: Side, b: Side, matching: Matching) -> tuple[str, ...]:
    told = [f"{side.name}: {side.uncut}" for side in (a, b) if side.uncut]
    if matching.unmatched:
        told.append(
            f"{len(matching.unmatched)} of {len(matching.unmatched) + len(matching.points)} tensors of A have no twin "
            f"in B, and are compared as part of the next one: {one_line(listed(list(matching.unmatched), 3))}"
        )
    return tuple(told)
