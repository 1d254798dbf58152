"""Float operators that onnxruntime's optimizer fused (extended level), as the standard ones they stand for.

    FusedConv(x, w, b, z; activation)  =>  Conv(x, w, b) -> [Add z] -> activation
    FusedGemm(a, b, c; activation)     =>  Gemm -> activation
    FusedMatMul(a, b; transA, alpha)   =>  Einsum, which shapes will tell to be a MatMul -> [Mul alpha]
    Gelu, BiasGelu, FastGelu, QuickGelu, SkipLayerNormalization                      likewise

Source: onnxruntime's ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from preprocess.layer_norm import raise_opset
from preprocess.passlog import PassLog
from preprocess.surgery import is_graph_output
from preprocess.writing import Writer, taken_apart

DOMAIN = "com.microsoft"
_Translation: TypeAlias = Callable[[gs.Node, Writer], None]

_ACTIVATIONS: dict[str, tuple[str, ...]] = {
    "Relu": (), "Tanh": (), "Sigmoid": (), "LeakyRelu": ("alpha",), "HardSigmoid": ("alpha", "beta"),
}  # fmt: skip


def translate_fused_operators(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every fused operator.

    Raises: ModelError: an activation that is not known, or outputs that only training reads.
    """
    writer, count = Writer(graph), 0
    for node in list(graph.nodes):
        translation = FUSED.get(node.op) if node.domain == DOMAIN else None
        if translation is None:
            continue
        if any(one.outputs or is_graph_output(graph, one) for one in node.outputs[1:]):
            raise ModelError(
                f"node {node.name} ({node.op}): its further outputs are used; "
                "compile the file as it was before onnxruntime optimized it"
            )
        if node.op == "SkipLayerNormalization":
            raise_opset(graph)
        writer.base = node.name
        translation(node, writer)
        count += 1
    if count:
        log.note("model", f"{count} operators that onnxruntime's optimizer fused are standard ones again")
    return writer.finish()


def _conv(node: gs.Node, writer: Writer) -> None:
    attrs, activation = dict(node.attrs), _activation(node, node.attrs.get("activation_params", []))
    for name in ("activation", "activation_params"):
        attrs.pop(name, None)
    inputs, output = taken_apart(node)
    summand = inputs.pop(3) if len(inputs) > 3 else gs.Variable.empty()
    steps = [*([] if summand.is_empty() else [("Add", [summand], {})]), *activation]
    _chain(writer, ("Conv", inputs, attrs), steps, output)


def _gemm(node: gs.Node, writer: Writer) -> None:
    parameters = [node.attrs[name] for name in ("activation_alpha", "activation_beta") if name in node.attrs]
    activation = _activation(node, parameters)
    attrs = {name: value for name, value in node.attrs.items() if not name.startswith("activation")}
    inputs, output = taken_apart(node)
    _chain(writer, ("Gemm", inputs, attrs), activation, output)


def _chain(
    writer: Writer,
    first: tuple[str, list[gs.Tensor], dict[str, object]],
    steps: list[tuple[str, list[gs.Tensor], dict[str, object]]],
    output: gs.Tensor,
) -> None:
    """The first node, and one-input steps behind it; the last writes `output`."""
    op, inputs, attrs = first
    for index, (next_op, others, next_attrs) in enumerate([*steps, ("", [], {})]):
        result = writer.emit(op, inputs, output if index == len(steps) else None, **attrs)
        op, inputs, attrs = next_op, [result, *others], next_attrs


def _activation(node: gs.Node, parameters: list[float]) -> list[tuple[str, list[gs.Tensor], dict[str, object]]]:
    """Steps of the fused activation: none or one."""
    op = node.attrs.get("activation", "")
    if not op:
        return []
    if op == "Clip":
        bounds = [
            gs.Constant(f"{node.name}_bound_{at}", np.array(one, np.float32)) for at, one in enumerate(parameters)
        ]
        return [("Clip", list(bounds), {})]
    if op not in _ACTIVATIONS:
        raise ModelError(
            f"node {node.name} ({node.op}): fused with {op}, which is not known here; "
            "compile the file as it was before onnxruntime optimized it"
        )
    return [(op, [], dict(zip(_ACTIVATIONS[op], map(float, parameters), strict=False)))]


def _matmul(node: gs.Node, writer: Writer) -> None:
    attrs = node.attrs
    if attrs.get("transBatchA", 0) or attrs.get("transBatchB", 0):
        raise ModelError(
            f"node {node.name} (FusedMatMul): batches are transposed; compile the file before optimization"
        )
    a, b = "ji" if attrs.get("transA", 0) else "ij", "kj" if attrs.get("transB", 0) else "jk"
    alpha = float(attrs.get("alpha", 1.0))
    (left, right), output = taken_apart(node)
    product = writer.emit("Einsum", [left, right], output if alpha == 1 else None, equation=f"...{a},...{b}->...ik")
    if alpha != 1:
        writer.emit("Mul", [product, writer.constant(alpha)], output)


def _gelu(node: gs.Node, writer: Writer) -> None:
    """0.5 x (1 + erf(x / sqrt 2)); BiasGelu adds the bias first."""
    (x, *bias), output = taken_apart(node)
    if bias:
        x = writer.emit("Add", [x, bias[0]])
    error = writer.emit("Erf", [writer.emit("Div", [x, writer.constant(np.sqrt(2))])])
    _half_of_one_more(x, error, writer, output)


def _fast_gelu(node: gs.Node, writer: Writer) -> None:
    """0.5 x (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3)))."""
    (x, *bias), output = taken_apart(node)
    if bias and not bias[0].is_empty():
        x = writer.emit("Add", [x, bias[0]])
    cube = writer.emit("Mul", [writer.emit("Mul", [x, x]), x])
    inner = writer.emit("Add", [x, writer.emit("Mul", [cube, writer.constant(0.044715)])])
    tanh = writer.emit("Tanh", [writer.emit("Mul", [inner, writer.constant(np.sqrt(2 / np.pi))])])
    _half_of_one_more(x, tanh, writer, output)


def _half_of_one_more(x: gs.Tensor, curve: gs.Tensor, writer: Writer, output: gs.Tensor) -> None:
    product = writer.emit("Mul", [x, writer.emit("Add", [curve, writer.constant(1)])])
    writer.emit("Mul", [product, writer.constant(0.5)], output)


def _quick_gelu(node: gs.Node, writer: Writer) -> None:
    """x sigmoid(alpha x)."""
    alpha = float(node.attrs.get("alpha", 1.702))
    (x,), output = taken_apart(node)
    scaled = x if alpha == 1 else writer.emit("Mul", [x, writer.constant(alpha)])
    writer.emit("Mul", [x, writer.emit("Sigmoid", [scaled])], output)


def _skip_layer_norm(node: gs.Node, writer: Writer) -> None:
    """LayerNormalization(x + skip [+ bias])."""
    epsilon = float(node.attrs.get("epsilon", 1e-12))
    (x, skip, gamma, *rest), output = taken_apart(node)
    beta, bias = [*rest, *[gs.Variable.empty()] * (2 - len(rest))]
    total = writer.emit("Add", [x, skip])
    if not bias.is_empty():
        total = writer.emit("Add", [total, bias])
    inputs = [total, gamma] if beta.is_empty() else [total, gamma, beta]
    writer.emit("LayerNormalization", inputs, output, axis=-1, epsilon=epsilon)


FUSED: dict[str, _Translation] = {
    "FusedConv": _conv,
    "FusedGemm": _gemm,
    "FusedMatMul": _matmul,
    "Gelu": _gelu,
    "BiasGelu": _gelu,
    "FastGelu": _fast_gelu,
    "QuickGelu": _quick_gelu,
    "SkipLayerNormalization": _skip_layer_norm,
}
