"""Whether folding changed anything: the source against the canonical graph, both in exact arithmetic.

Folding keeps the names of the quantized activations. Both graphs are evaluated with the same integers fed in at each of
them, so that every piece between two of them is compared by itself: what the source's own operators (fake-quants,
batch norms, divisions) make of the integers must round as what the canonical graph makes of them. Where a name is
gone, the piece is larger; in the end the outputs are compared. So the certificate doesn't depend on which names match.

What is trained is the integers: roundings of constants (fake-quantized weights) are taken from onnxruntime, which does
them in the types of the file. Everything else, constants included, is exact.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.check.certificate import Certificate, ChoiceTally, GridTally, RealTally
from drpai_qat.check.choices import find_choices
from drpai_qat.check.layers import made_by
from drpai_qat.runtimes.exact import FLOAT_TYPES, ExactNetwork, Missing, Quantized, Value
from drpai_qat.runtimes.onnxruntime import Reference

_ROUNDING = ("QuantizeLinear", "Round", "Floor", "Ceil")
"""Operators that make integers of reals; a Cast to an integer type does as well."""

Feeds = Mapping[str, NDArray]
Pairs = Iterator[tuple[str, Value | Quantized]]


@dataclass(frozen=True)
class Twin:
    """A quantized activation that both graphs have.

    Attributes:
        integers: in the canonical graph.
        reals: behind its DequantizeLinear, in both graphs.
        scale, zero_point: of its grid, scalars.
    """

    integers: str
    reals: str
    scale: float
    zero_point: int

    def dequantized(self, q: NDArray) -> NDArray[np.float64]:
        """Reals of integers."""
        return (q.astype(np.float64) - self.zero_point) * self.scale


def find_twins(source: onnx.ModelProto, canonical: onnx.ModelProto) -> list[Twin]:
    """The quantized activations that both graphs have by name."""
    made = {name for node in source.graph.node for name in node.output if name}
    constants = {tensor.name: tensor for tensor in canonical.graph.initializer}
    quantized = {node.output[0] for node in canonical.graph.node if node.op_type == "QuantizeLinear"}
    found: dict[str, Twin] = {}
    for node in canonical.graph.node:
        if node.op_type != "DequantizeLinear" or node.input[0] not in quantized or node.output[0] not in made:
            continue
        scale, zero_point = (onnx.numpy_helper.to_array(constants[name]) for name in node.input[1:3])
        if scale.size == 1:
            twin = Twin(node.input[0], node.output[0], float(scale.item()), int(zero_point.item()))
            found.setdefault(node.input[0], twin)
    return list(found.values())


class FoldCheck:
    """Certificates of the fold, over any number of samples."""

    def __init__(self, source: onnx.ModelProto, canonical: onnx.ModelProto) -> None:
        """Prepare both graphs.

        Args:
            source: the trained graph as it is meant to run, with static float32 inputs.
            canonical: what preprocess made of it.
        """
        self._twins = {twin.integers: twin for twin in find_twins(source, canonical)}
        self._source = ExactNetwork(with_constants_rounded(source))
        quantized = [node.output[0] for node in canonical.graph.node if node.op_type == "QuantizeLinear"]
        self.shares_layers = set(quantized) == set(self._twins)
        self._canonical = None if self.shares_layers else ExactNetwork(canonical)
        maker = {name: node for node in canonical.graph.node for name in node.output}
        inputs = {node.output[0]: node.input[0] for node in canonical.graph.node if node.op_type == "QuantizeLinear"}
        self._ends = set(self._source.outputs).difference(twin.reals for twin in self._twins.values())
        self._choices = find_choices(canonical)
        self._makers = {name: made_by(inputs.get(name, name), maker) for name in (*quantized, *self._source.outputs)}
        self._tallies: dict[str, GridTally | RealTally | ChoiceTally] = {}

    def add(self, sample: Feeds, integers: Feeds, layers: Pairs) -> None:
        """Compare one sample's tensors.

        Args:
            sample: network inputs.
            integers: the reference's integers of every quantized tensor of the canonical graph.
            layers: exact values of the canonical graph's quantized tensors and outputs, fed with `integers`; used if
                the source has all of the quantized tensors (`shares_layers`).
        """
        given = {twin.reals: twin.dequantized(integers[twin.integers]) for twin in self._twins.values()}
        theirs = self._source.walk(sample, given, given)
        chosen_from = {choice.scores for choice in self._choices.values()}
        scores = {name: np.asarray(value, np.float64) for name, value in sample.items() if name in chosen_from}
        if self._canonical is not None:
            _exhaust(layers)
            fed = {name: integers[name] for name in self._twins}
            layers = self._canonical.walk(sample, fed, {*self._twins, *chosen_from})
        seen: dict[str, Value | Quantized] = {}
        for name, ours in layers:
            if name in chosen_from and isinstance(ours, np.ndarray):
                scores[name] = ours
            twin = self._twins.get(name)
            wanted = twin.reals if twin is not None else name
            if twin is None and wanted not in self._ends:
                continue
            while wanted not in seen:
                other, value = next(theirs, (wanted, Missing("it is not computed")))
                seen[other] = value
            self._compare(name, twin, seen[wanted], ours, scores)
            del seen[wanted]

    def _compare(
        self,
        name: str,
        twin: Twin | None,
        theirs: Value | Quantized,
        ours: Value | Quantized,
        scores: dict[str, NDArray],
    ) -> None:
        tally = self._tallies.get(name) or self._new_tally(name, twin)
        self._tallies[name] = tally
        if isinstance(theirs, Quantized):
            theirs = theirs.integers
        if isinstance(ours, Quantized) and twin is None:
            ours = ours.integers
        if isinstance(theirs, Missing):
            tally.missing = f"in the source, {theirs.reason}"
        elif isinstance(tally, GridTally):
            tally.add(ours, theirs)
        elif isinstance(ours, np.ndarray) and ours.dtype.kind != theirs.dtype.kind:
            tally.missing = f"it is {theirs.dtype} in the source and {ours.dtype} in the fold"
        else:  # exact on both sides: there is no noise to allow for
            tally.add(ours, theirs, ours if isinstance(ours, np.ndarray) else theirs, scores)

    def _new_tally(self, name: str, twin: Twin | None) -> GridTally | RealTally | ChoiceTally:
        node = self._makers[name]
        if twin is not None:
            return GridTally(name, node, scale=twin.scale, zero_point=twin.zero_point)
        if name in self._choices:
            return ChoiceTally(name, node, choice=self._choices[name])
        return RealTally(name, node)

    def certificates(self) -> tuple[Certificate, ...]:
        """What was found, in order of computation."""
        return tuple(tally.certificate() for tally in self._tallies.values())


def with_constants_rounded(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every rounding of a constant done by onnxruntime, and without what nothing reads any more."""
    known = {tensor.name for tensor in model.graph.initializer}
    constant: list[onnx.NodeProto] = []
    rounded: list[str] = []
    for node in model.graph.node:
        if all(not name or name in known for name in node.input) and not _has_graphs(node):
            constant.append(node)
            known.update(node.output)
            if node.op_type in _ROUNDING or _casts_to_integer(node):
                rounded.append(node.output[0])
    if not rounded:
        return model
    result = onnx.ModelProto()
    result.CopyFrom(model)
    done = set(rounded)
    needed = {value.name for value in model.graph.output}
    kept: list[onnx.NodeProto] = []
    for node in reversed(model.graph.node):
        if not done.issuperset(node.output) and needed.intersection(node.output):
            kept.append(node)
            needed.update(node.input)
    del result.graph.node[:]
    result.graph.node.extend(reversed(kept))
    values = _evaluated(model, constant, [name for name in rounded if name in needed])
    result.graph.initializer.extend(onnx.numpy_helper.from_array(value, name) for name, value in values.items())
    return result


def _evaluated(model: onnx.ModelProto, nodes: Sequence[onnx.NodeProto], names: Sequence[str]) -> dict[str, NDArray]:
    constants = onnx.ModelProto()
    constants.CopyFrom(model)
    del constants.graph.node[:], constants.graph.input[:], constants.graph.output[:], constants.graph.value_info[:]
    constants.graph.node.extend(nodes)
    constants.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    return Reference(constants, "constants of the source").run({}, names)


def _exhaust(values: Iterator[object]) -> None:
    for _ in values:
        pass


def _casts_to_integer(node: onnx.NodeProto) -> bool:
    to = next((one.i for one in node.attribute if one.name == "to"), 0)
    return node.op_type == "Cast" and to not in FLOAT_TYPES


def _has_graphs(node: onnx.NodeProto) -> bool:
    return any(one.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for one in node.attribute)
