"""The invariants of the canonical QDQ graph, as lowering relies on them.

1. The weights of a quantized layer are int8 behind one DequantizeLinear with three constant inputs.
2. A quantized bias is int32 with scale s_x * s_w and zero point 0; any other is a float32 initializer.
3. A quantized activation is QuantizeLinear -> DequantizeLinear of the same scalar parameters, without arithmetic on
   the integers between them.
4. No Identity, Constant, Dropout or training form; pads are numbers; each QuantizeLinear and DequantizeLinear has a
   constant scale and a constant zero point of one shape.
5. Static shapes and known types, standard domain, opset 13 or later, float32.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from drpai_qat.core.moving import MOVING
from preprocess.biases import accumulator_scale
from preprocess.dialects import STANDARD
from preprocess.opening import MIN_OPSET, opset_of
from preprocess.precision import is_other_float
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.sizes import is_static
from preprocess.surgery import LAYERS, is_graph_output, optional_input, params_of, producer, readers

INVARIANTS = range(1, 6)
_NEVER = ("Constant", "Dropout")
_BIAS_SCALE_TOLERANCE = 1e-5


@dataclass(frozen=True)
class Violation:
    """One broken invariant: its number in this module's list, the node or tensor, the defect."""

    invariant: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}, {self.where}: {self.what}"


def validate(model: onnx.ModelProto) -> None:
    """Check that `model` is canonical.

    Raises: ModelError: an invariant is broken; names up to three places.
    """
    violations = list(find_violations(model))
    if violations:
        shown = "; ".join(str(one) for one in violations[:3])
        more = f" (and {len(violations) - 3} more)" if len(violations) > 3 else ""
        raise ModelError(f"not a canonical QDQ graph: {shown}{more}")


def find_violations(model: onnx.ModelProto) -> Iterator[Violation]:
    """Every broken invariant of `model`."""
    if opset_of(model) < MIN_OPSET:
        yield Violation(5, "model", f"opset {opset_of(model)} is older than {MIN_OPSET}")
    if model.functions:
        yield Violation(5, "model", "has local functions")
    yield from broken_invariants(gs.import_onnx(model))


def broken_invariants(graph: gs.Graph, invariants: Collection[int] = INVARIANTS) -> Iterator[Violation]:
    """Where `graph`, which can be on its way through the passes, breaks one of `invariants`."""
    if 5 in invariants:
        yield from _tensor_violations(graph)
    for node in graph.nodes:
        for check, number in _CHECKS.items():
            if number in invariants:
                for text in check(graph, node):
                    yield Violation(number, node.name, text)


def _tensor_violations(graph: gs.Graph) -> Iterator[Violation]:
    for tensor in graph.tensors().values():
        if isinstance(tensor, gs.Constant) or tensor.is_empty():
            continue
        if tensor.dtype is None:
            yield Violation(5, tensor.name, "unknown type")
        elif is_other_float(tensor.dtype):
            yield Violation(5, tensor.name, f"type {tensor.dtype}")
        if not is_static(tensor.shape):
            yield Violation(5, tensor.name, f"shape {tensor.shape} isn't static")


def _check_weights(graph: gs.Graph, node: gs.Node) -> Iterator[str]:
    if node.op not in LAYERS:
        return
    maker = producer(node.inputs[1])
    if maker is None or maker.op != DEQUANTIZE or not isinstance(maker.inputs[0], gs.Constant):
        return
    dtype = maker.inputs[0].dtype
    if dtype not in (np.int8, np.int16):
        yield f"weights {maker.inputs[0].name} are {np.dtype(dtype).name}"


def _check_bias(graph: gs.Graph, node: gs.Node) -> Iterator[str]:
    bias = optional_input(node, 2) if node.op in LAYERS else None
    maker = producer(bias) if bias is not None else None
    if maker is None or maker.op != DEQUANTIZE or not isinstance(maker.inputs[0], gs.Constant):
        return
    params, expected = params_of(maker), accumulator_scale(node)
    if params.dtype != np.int32 or not params.symmetric:
        yield f"bias is {params.dtype.name} with zero point {params.zero_point.tolist()}"
    if expected is None or not np.allclose(params.scale, expected, rtol=_BIAS_SCALE_TOLERANCE, atol=0):
        yield "scale of the bias isn't s_x * s_w"


def _check_parameters(graph: gs.Graph, node: gs.Node) -> Iterator[str]:
    if node.op not in (QUANTIZE, DEQUANTIZE):
        return
    if not _is_complete(node):
        yield f"{node.op} needs a constant scale and zero point"
    elif tuple(node.inputs[1].shape) != tuple(node.inputs[2].shape):
        yield f"scale {list(node.inputs[1].shape)} and zero point {list(node.inputs[2].shape)} differ in shape"


def _is_complete(node: gs.Node) -> bool:
    """True if `params_of` can read `node`."""
    return len(node.inputs) == 3 and all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:])


def _check_pairs(graph: gs.Graph, node: gs.Node) -> Iterator[str]:
    if node.op not in (QUANTIZE, DEQUANTIZE) or not _is_complete(node):
        return
    if isinstance(node.inputs[0], gs.Constant):
        if node.op == QUANTIZE:
            yield "quantizes a constant"
        return
    params = params_of(node)
    if params.axis is not None:
        yield "activation with a scale per channel"
    if node.op == DEQUANTIZE:
        return
    for reader in readers(node.outputs[0]):
        if reader.op == DEQUANTIZE:
            if _is_complete(reader) and params_of(reader) != params:
                yield f"read by {reader.name} with other parameters"
        elif reader.op not in MOVING:  # moved integers can be an output of the network
            yield f"read by {reader.op} {reader.name}, not by DequantizeLinear"


def _check_inference_form(graph: gs.Graph, node: gs.Node) -> Iterator[str]:
    if node.op in _NEVER or (node.op == "Identity" and not is_graph_output(graph, node.outputs[0])):
        yield f"{node.op} node"
    if "auto_pad" in node.attrs:
        yield f"auto_pad {node.attrs['auto_pad']}"
    if node.op == "BatchNormalization":
        if node.attrs.get("training_mode", 0) or len(node.outputs) != 1:
            yield "BatchNormalization in training form"
        if not all(isinstance(tensor, gs.Constant) for tensor in node.inputs[1:]):
            yield "BatchNormalization with computed parameters"


def _check_domain(graph: gs.Graph, node: gs.Node) -> Iterator[str]:
    if node.domain not in (None, *STANDARD):
        yield f"domain {node.domain}"


_CHECKS: dict[Callable[[gs.Graph, gs.Node], Iterator[str]], int] = {
    _check_weights: 1,
    _check_bias: 2,
    _check_pairs: 3,
    _check_inference_form: 4,
    _check_parameters: 4,
    _check_domain: 5,
}
