"""A model, evaluated operator by operator in float64; see the package."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from drpai_qat.core.text import one_line
from drpai_qat.runtimes.exact.operators import operator_of
from drpai_qat.runtimes.exact.quantizers import quantize
from drpai_qat.runtimes.exact.values import (
    Array,
    Attributes,
    Missing,
    NotEvaluatedError,
    Operator,
    Quantized,
    Value,
    attributes_of,
    exact_array,
)

_KEEPING_TYPE = ("Expand", "Flatten", "Gather", "Identity", "Reshape", "Slice", "Squeeze", "Transpose", "Unsqueeze")
"""What may stand between a zero point and its constant."""


@dataclass(frozen=True)
class _Step:
    """One node, ready to be evaluated.

    Attributes:
        operator: what evaluates it; Missing if nothing does.
        elem_type: for QuantizeLinear, the type of its integers; else 0.
    """

    node: onnx.NodeProto
    attributes: Attributes
    operator: Operator | Missing
    elem_type: int = 0


class ExactNetwork:
    """A model in exact arithmetic.

    Any valid ONNX model: the canonical graph, and the source before it. Values that depend on an operator that is not
    evaluated are `Missing`, with the reason; nothing is guessed.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        """Prepare every node.

        Args:
            model: with static inputs; not changed.
        """
        opsets = {one.domain: one.version for one in model.opset_import}
        self._constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self.inputs = [value.name for value in model.graph.input if value.name not in self._constants]
        self.outputs = [value.name for value in model.graph.output]
        types = _constant_types(model)
        self._steps = [_step(node, opsets, types) for node in model.graph.node]
        self._readers = Counter(name for node in model.graph.node for name in node.input)

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Value]:
        """Outputs of a whole run, every rounding exact; by name."""
        values = self.walk(feeds, {}, ())
        return {name: one.integers if isinstance(one, Quantized) else one for name, one in values}

    def quantized(
        self, feeds: Mapping[str, Array], integers: Mapping[str, Array]
    ) -> Iterator[tuple[str, Quantized | Missing]]:
        """Exact values of the quantized tensors, each computed from the given integers of those before it.

        Args:
            feeds: network inputs.
            integers: of each quantized tensor by name, as another computation of the same graph found them.
        Returns: for each in order of computation, its value before and after rounding, or why it is missing.
        """
        for name, value in self.walk(feeds, integers, integers):
            if isinstance(value, Quantized | Missing):
                yield name, value

    def walk(
        self, feeds: Mapping[str, Array], given: Mapping[str, Array], wanted: Container[str]
    ) -> Iterator[tuple[str, Value | Quantized]]:
        """Evaluate in order, and hand out tensors as they are computed.

        Args:
            feeds: network inputs.
            given: tensors whose values are replaced, once computed, by these: what reads them reads these.
            wanted: names of the tensors to hand out, as computed; network outputs are handed out in any case.
        Returns: name and value; Quantized where a QuantizeLinear makes it.
        """
        values: dict[str, Value] = {name: exact_array(np.asarray(value)) for name, value in feeds.items()}
        left = Counter(self._readers)
        outputs = set(self.outputs)
        for name in self.outputs:
            if name in values:
                yield name, values[name]
        for step in self._steps:
            made = self._evaluate(step, values)
            for name in step.node.input:
                left[name] -= 1
                if not left[name]:
                    values.pop(name, None)
            for name, value in zip(step.node.output, made, strict=False):
                if not name:
                    continue
                if name in wanted or name in outputs:
                    yield name, value
                if left[name]:
                    if name in given:
                        values[name] = exact_array(given[name])
                    else:
                        values[name] = value.integers if isinstance(value, Quantized) else value

    def _evaluate(self, step: _Step, values: Mapping[str, Value]) -> Sequence[Value | Quantized]:
        operands: list[Array | None] = []
        count = len(step.node.output)
        for name in step.node.input:
            value = self._value(name, values) if name else None
            if isinstance(value, Missing):
                return [value] * count
            operands.append(value)
        if isinstance(step.operator, Missing):
            return [step.operator] * count
        try:
            with np.errstate(all="ignore"):  # infinities and NaN are values like any other
                if step.elem_type:
                    return [quantize(operands, step.attributes, step.elem_type)]
                made: list[Value | Quantized] = list(step.operator(operands, step.attributes))
        except Exception as error:  # operators of onnx.reference raise anything
            return [Missing(f"{step.node.op_type} {step.node.name} is not evaluated: {one_line(error)}")] * count
        rest = Missing(f"output {len(made)} of {step.node.op_type} {step.node.name} is not evaluated")
        return made + [rest] * (count - len(made))

    def _value(self, name: str, values: Mapping[str, Value]) -> Value:
        if name in values:
            return values[name]
        if name in self._constants:
            return exact_array(onnx.numpy_helper.to_array(self._constants[name]))
        return Missing(f"tensor {name} is not in the graph")


def _step(node: onnx.NodeProto, opsets: Mapping[str, int], types: Mapping[str, int]) -> _Step:
    attributes = attributes_of(node)
    try:
        if node.op_type == "QuantizeLinear":
            return _Step(node, attributes, _no_operator, _integer_type(node, attributes, types))
        return _Step(node, attributes, operator_of(node, opsets))
    except NotEvaluatedError as error:
        return _Step(node, attributes, Missing(f"{error} ({node.name or node.output[0]}) is not evaluated"))


def _integer_type(node: onnx.NodeProto, attributes: Attributes, types: Mapping[str, int]) -> int:
    """ONNX type of what a QuantizeLinear makes: that of its zero point."""
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in types:
            raise NotEvaluatedError("QuantizeLinear with a computed zero point")
        return types[node.input[2]]
    return attributes.get("output_dtype") or onnx.TensorProto.UINT8


def _constant_types(model: onnx.ModelProto) -> dict[str, int]:
    """ONNX types of initializers and of what Constant, Identity and Cast make of them."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        given = {one.name: one for one in node.attribute}
        if node.op_type == "Constant" and "value" in given:
            types[node.output[0]] = given["value"].t.data_type
        elif node.op_type == "Cast":
            types[node.output[0]] = given["to"].i
        elif node.op_type == "ConstantOfShape" and "value" in given:
            types[node.output[0]] = given["value"].t.data_type
        elif node.op_type in _KEEPING_TYPE and node.input[0] in types:
            types[node.output[0]] = types[node.input[0]]
    return types


def _no_operator(inputs: Sequence[Array | None], attributes: Attributes) -> Sequence[Array]:
    raise AssertionError("QuantizeLinear is evaluated apart: it has a value before and after its rounding")
