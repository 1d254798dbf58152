"""Layer by layer: the network is cut at every activation's QuantizeLinear, each piece is fed the reference's integers,
and its integers are compared with the reference's. An error can't hide behind the ones before it.

         Q ---> DQ                     Q ---> output
    x -> | int8 |  -> next layer  =>   input ---> DQ -> next layer
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from drpai_qat.runtimes.onnxruntime import Reference

FED_SUFFIX = "/fed"
"""A cut tensor's name on its reading side."""

TOLERATED_LSB = 1
"""Float32 sums in another order move a value across a rounding boundary: one step, seldom."""

TOLERATED_SHARE = 0.02
"""Share of values that may be off by that step before a layer counts as divergent ..."""

TOLERATED_COUNT = 2
"""... and that many in any case: a classifier has ten values."""


@dataclass(frozen=True)
class LayerFigures:
    """One quantized tensor.

    Attributes:
        tensor: name in the canonical model.
        node: what computes the value that is quantized there, as "op name".
        equal: share of integers equal to the reference's, 0..1.
        max_lsb: largest difference of integers.
        count: number of values compared.
    """

    tensor: str
    node: str
    equal: float
    max_lsb: int
    count: int

    @property
    def diverges(self) -> bool:
        """True if this is more than a rounding boundary crossed here and there."""
        unequal = round((1 - self.equal) * self.count)
        return self.max_lsb > TOLERATED_LSB or unequal > TOLERATED_SHARE * self.count + TOLERATED_COUNT

    def to_json(self) -> dict[str, Any]:
        """As it stands in report.json."""
        return vars(self).copy()


@dataclass(frozen=True)
class Cut:
    """A canonical model cut at its quantized activations.

    Attributes:
        model: inputs are the source's and each cut tensor's reading side; outputs the cut tensors and the source's.
        tensors: the cut tensors, in order of computation.
        makers: for each, "op name" of the node before its QuantizeLinear.
    """

    model: onnx.ModelProto
    tensors: tuple[str, ...]
    makers: tuple[str, ...]


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
    types = {tensor.name: tensor.data_type for tensor in graph.initializer}
    outputs = {value.name for value in graph.output}
    quantized = [node for node in graph.node if node.op_type == "QuantizeLinear"]
    fed = set()
    for node in quantized:
        name = node.output[0]
        shape = shapes.get(name) or shapes[node.input[0]]
        value = onnx.helper.make_tensor_value_info(name, types[node.input[2]], [dim.dim_value for dim in shape.dim])
        if name not in outputs:
            graph.output.append(value)
        value.name = name + FED_SUFFIX
        graph.input.append(value)
        fed.add(name)
    for node in graph.node:
        for index, name in enumerate(node.input):
            if name in fed:
                node.input[index] = name + FED_SUFFIX
    return Cut(
        cut,
        tuple(node.output[0] for node in quantized),
        tuple(_made_by(node, maker) for node in quantized),
    )


def reference_integers(
    model: onnx.ModelProto, cut: Cut, samples: Sequence[Mapping[str, NDArray]], name: str
) -> list[dict[str, NDArray]]:
    """Integers of every cut tensor in a full run of the canonical model, by sample."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    present = {value.name for value in exposed.graph.output}
    by_name = {value.name: value for value in cut.model.graph.output}
    exposed.graph.output.extend(by_name[tensor] for tensor in cut.tensors if tensor not in present)
    reference = Reference(exposed, name)
    return [reference.run(sample, cut.tensors) for sample in samples]


def compare_layers(
    cut: Cut,
    samples: Sequence[Mapping[str, NDArray]],
    integers: Sequence[Mapping[str, NDArray]],
    run: Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]],
) -> tuple[LayerFigures, ...]:
    """Run the cut network on the reference's integers and compare each tensor.

    Args:
        cut: the cut model.
        samples: network inputs, by sample.
        integers: the reference's integers of every cut tensor, by sample.
        run: the compiled cut model.
    Returns: figures in order of computation.
    """
    count = len(cut.tensors)
    equal, total, worst = np.zeros(count, np.int64), np.zeros(count, np.int64), np.zeros(count, np.int64)
    for sample, wanted in zip(samples, integers, strict=True):
        found = run({**sample, **{name + FED_SUFFIX: wanted[name] for name in cut.tensors}})
        for index, name in enumerate(cut.tensors):
            difference = np.abs(found[name].astype(np.int64) - wanted[name].astype(np.int64))
            equal[index] += int((difference == 0).sum())
            total[index] += difference.size
            worst[index] = max(worst[index], int(difference.max(initial=0)))
    figures = []
    for index, (tensor, node) in enumerate(zip(cut.tensors, cut.makers, strict=True)):
        size = int(total[index])
        share = float(equal[index]) / size if size else 1.0
        figures.append(LayerFigures(tensor, node, share, int(worst[index]), size))
    return tuple(figures)


def _made_by(quantize: onnx.NodeProto, maker: Mapping[str, onnx.NodeProto]) -> str:
    node = maker.get(quantize.input[0])
    if node is not None and node.op_type == "Clip":  # the trained range's own Clip: what it clips says more
        node = maker.get(node.input[0], node)
    return f"{node.op_type} {node.name or node.output[0]}" if node is not None else f"input {quantize.input[0]}"
