"""Layer by layer: the network is cut at every activation's QuantizeLinear, each piece is fed the reference's integers,
and its integers are held against exact arithmetic on the same integers. An error can't hide behind the ones before it.

         Q ---> DQ                     Q ---> output
    x -> | int8 |  -> next layer  =>   input ---> DQ -> next layer

An integer is right if it is the one that the exact value rounds to, and a tie if the exact value lies so near the
boundary in between that float32, in which the network was trained, can't tell the two apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.check.certificate import (
    AS_FLOAT32,
    Certificate,
    ChoiceTally,
    Fineness,
    RealTally,
    StepTally,
    Tally,
)
from drpai_qat.check.choices import Choice, find_choices
from drpai_qat.graph.canonical import state_range
from drpai_qat.runtimes.exact import ExactNetwork, Quantized, Value
from drpai_qat.runtimes.onnxruntime import Reference

FED_SUFFIX = "/fed"
"""A cut tensor's name on its reading side."""

Feeds = Mapping[str, NDArray]
RunOnce = Callable[[Feeds], Mapping[str, NDArray]]


@dataclass(frozen=True)
class Cut:
    """A canonical model cut at its quantized activations.

    Attributes:
        model: inputs are the source's and each cut tensor's reading side; outputs the cut tensors and the source's.
        tensors: the cut tensors, in order of computation.
        makers: for each of them, and each output, "op name" of the node that computes it.
    """

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    makers: Mapping[str, str]


def cut_at_quantizers(model: onnx.ModelProto) -> Cut:
    """Cut every QuantizeLinear -> DequantizeLinear of activations.

    Args:
        model: canonical QDQ model; not changed.
    """
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    graph = cut.graph
    maker = {name: node for node in graph.node for name in node.output}
    shapes = {value.name: value.type.tensor_type.shape for value in (*graph.value_info, *graph.output, *graph.input)}
    constants = {tensor.name: tensor for tensor in graph.initializer}
    outputs = [value.name for value in graph.output]
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    makers = {node.output[0]: made_by(node.input[0], maker) for node in quantized}
    makers.update((name, made_by(name, maker)) for name in outputs if name not in makers)
    cut_off = set()
    for node in quantized:
        name = node.output[0]
        shape = shapes.get(name) or shapes[node.input[0]]
        value = onnx.helper.make_tensor_value_info(
            name, constants[node.input[2]].data_type, [dim.dim_value for dim in shape.dim]
        )
        if name not in outputs:
            graph.output.append(value)
        value.name = name + FED_SUFFIX
        graph.input.append(value)
        cut_off.add(name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in cut_off:
                node.input[index] = name + FED_SUFFIX
    trained = {node.output[0] + FED_SUFFIX: integer_limits(node, maker, constants) for node in quantized}
    for node in graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in trained:
            state_range(node, *trained[node.input[0]])
    return Cut(cut, tuple(node.output[0] for node in quantized), makers)


def integer_limits(
    quantize: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto], constants: Mapping[str, onnx.TensorProto]
) -> tuple[int, int]:
    """Smallest and largest integer of a cut tensor: those of its type, or what Clip, Max and Min in front leave.

    The reading side must know: grids that follow from ranges are then those of the network in one piece.

    Args:
        maker: node behind each tensor.
    """
    scale, zero_point = (onnx.numpy_helper.to_array(constants[name]) for name in quantize.input[1:3])
    limits = np.iinfo(zero_point.dtype)
    whole = int(limits.min), int(limits.max)
    if scale.size != 1:
        return whole
    chain: list[onnx.NodeProto] = []
    node = maker.get(quantize.input[0])
    while node is not None and _limits(node, constants):
        chain.append(node)
        node = next((maker[name] for name in node.input if name in maker), None)
    low, high = -np.inf, np.inf
    for node in reversed(chain):
        low, high = _bounded(low, high, node, constants)
    steps = np.clip(np.rint(np.array([low, high]) / float(scale.item())) + int(zero_point.item()), *whole)
    least, greatest = int(steps[0]), int(steps[1])
    return (least, greatest) if least < greatest else whole


def _limits(node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]) -> bool:
    """A Clip, Max or Min of one tensor with constants."""
    if node.op_type not in ("Clip", "Max", "Min"):
        return False
    return sum(bool(name) and name not in constants for name in node.input) == 1


def _bounded(
    low: float, high: float, node: onnx.NodeProto, constants: Mapping[str, onnx.TensorProto]
) -> tuple[float, float]:
    """The range behind a node of a tensor within low..high; bounds of channels count as the widest of them."""
    arrays = [onnx.numpy_helper.to_array(constants[name]) if name in constants else None for name in node.input]
    if node.op_type == "Clip":
        lower, upper = (*arrays[1:3], None, None)[:2]
        rules = [("Max", lower), ("Min", upper)]
    else:
        rules = [(node.op_type, one) for one in arrays]
    for op, bound in rules:
        if bound is not None:
            pick = max if op == "Max" else min
            low, high = pick(low, float(bound.min())), pick(high, float(bound.max()))
    return low, high


def fed(cut: Cut, sample: Feeds, integers: Feeds) -> dict[str, NDArray]:
    """Inputs of the cut model: those of the network, and integers for every cut tensor."""
    return {**sample, **{name + FED_SUFFIX: integers[name] for name in cut.tensors}}


def assembled(run: RunOnce, cut: Cut, sample: Feeds, integers: Feeds) -> Mapping[str, NDArray]:
    """Outputs of the pieces put together: each fed with the integers of those before it.

    Every run settles the tensors that depend on settled ones alone, until nothing changes.

    Args:
        run: the compiled cut model.
        integers: where to begin; the nearer to the result, the sooner.
    """
    for _ in range(len(cut.tensors)):
        found = run(fed(cut, sample, integers))
        if all(np.array_equal(found[name], integers[name]) for name in cut.tensors):
            break
        integers = found
    return run(fed(cut, sample, integers))


def reference_run(model: onnx.ModelProto, cut: Cut, name: str) -> RunOnce:
    """What runs the canonical model in onnxruntime and returns its outputs and the integers of every cut tensor."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in exposed.graph.output}
    by_name = {value.name: value for value in cut.model.graph.output}
    exposed.graph.output.extend(by_name[tensor] for tensor in cut.tensors if tensor not in present)
    return Reference(exposed, name).run


class LayerCheck:
    """Certificates of the deployed network's layers, over any number of samples."""

    def __init__(self, model: onnx.ModelProto, cut: Cut, fineness: Fineness = AS_FLOAT32) -> None:
        """Prepare the tallies.

        Args:
            model: canonical QDQ model.
            cut: of `model`.
            fineness: of the deployed network's arithmetic.
        """
        self._cut, self._fineness = cut, fineness
        self._network = ExactNetwork(model)
        self._choices = find_choices(model)
        self._tallies: dict[str, Tally] = {}

    def add(self, sample: Feeds, wanted: Feeds, found: Feeds) -> Iterator[tuple[str, Value | Quantized]]:
        """Compare one sample's tensors with exact arithmetic, one after the other.

        Args:
            sample: network inputs.
            wanted: the reference's integers of every cut tensor, and its outputs.
            found: the same of the deployed network, fed with the reference's integers.
        Returns: the exact values of cut tensors, outputs and scores of choices, as they are compared: go through all.
        """
        given = {name: wanted[name] for name in self._cut.tensors}
        chosen_from = {choice.scores for choice in self._choices.values()}
        scores = {name: np.asarray(value, np.float64) for name, value in sample.items() if name in chosen_from}
        for name, value in self._network.walk(sample, given, {*self._cut.tensors, *chosen_from}):
            if name in chosen_from and isinstance(value, np.ndarray):
                scores[name] = value
            if name in found:
                self._tally(name, value).add(value, found[name], wanted[name], scores)
            yield name, value

    def certificates(self) -> tuple[Certificate, ...]:
        """What was found, in order of computation."""
        return tuple(tally.certificate() for tally in self._tallies.values())

    def _tally(self, name: str, value: object) -> Tally:
        if name not in self._tallies:
            choice = self._choices.get(name)
            self._tallies[name] = _new_tally(name, self._cut.makers[name], value, choice, self._fineness)
        return self._tallies[name]


def _new_tally(name: str, node: str, value: object, choice: Choice | None, fineness: Fineness) -> Tally:
    if isinstance(value, Quantized):
        return StepTally(name, node, fineness=fineness)
    if choice is not None:
        return ChoiceTally(name, node, choice=choice)
    return RealTally(name, node, fineness=fineness)


def made_by(name: str, maker: Mapping[str, onnx.NodeProto]) -> str:
    """Name the node behind a tensor, as "op name"."""
    node = maker.get(name)
    if node is not None and node.op_type == "Clip":  # the trained range's own Clip: what it clips says more
        node = maker.get(node.input[0], node)
    return f"{node.op_type} {node.name or node.output[0]}" if node is not None else f"input {name}"
