"""Functions of one tensor: sigmoids, GELU and their like."""

from __future__ import annotations

import numpy as np

from drpai_qat.backends.tflite.context import Context, RefusedError
from drpai_qat.backends.tflite.grids import LiteGrid
from drpai_qat.backends.tflite.ops.affine import Affine, write_affine
from drpai_qat.backends.tflite.registry import writes
from drpai_qat.backends.tflite.stored import Stored, placed
from drpai_qat.backends.tflite.unary import find_function, write_float_gelu, write_function
from drpai_qat.graph.canonical import Node

FUNCTIONS = (
    "LeakyRelu", "HardSigmoid", "HardSwish", "Swish", "Gelu", "Elu", "Celu", "Selu", "Softplus", "Mish", "Softsign",
    "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt", "Abs", "Neg", "Reciprocal", "Round", "Floor", "Ceil", "Pow",
)  # fmt: skip

# Float operators for those that an island may hold.
_FLOAT = {
    "Sigmoid": "LOGISTIC", "Tanh": "TANH", "Exp": "EXP", "Log": "LOG", "Sqrt": "SQRT", "Abs": "ABS", "Neg": "NEG",
    "Floor": "FLOOR", "Ceil": "CEIL", "Round": "ROUND", "HardSwish": "HARD_SWISH",
}  # fmt: skip


@writes(*FUNCTIONS)
def write_unary(context: Context, node: Node, real: bool) -> None:
    if not real:
        if context.operand(node.inputs[0], False).grid.dtype == "int16":  # type: ignore[union-attr]
            _sixteen_bits(context, node)
            return
        function = find_function(context, node)
        if function is None:
            raise RefusedError("it reads more than one tensor")
        write_function(context, function, node)
        return
    if node.op == "Erf" and write_float_gelu(context, node):
        return
    data = context.operand(node.inputs[0], True)

    def step(kind: str, operands: list[int], table: str = "", **options: object) -> int:
        made = context.new(f"{node.output}:{kind.lower()}", data.shape, data.order, None)
        context.emit(kind, operands, [made.tensor], table, **options)
        return made.tensor

    def number(value: float) -> int:
        return context.file.constant(f"const/{value:g}", np.asarray([value], np.float32))

    x = data.tensor
    if node.op in _FLOAT:
        result = step(_FLOAT[node.op], [x])
    elif node.op == "LeakyRelu":
        result = step("LEAKY_RELU", [x], "LeakyReluOptions", alpha=float(node.attributes.get("alpha", 0.01)))
    elif node.op == "Gelu":
        approximate = node.attributes.get("approximate", "none") == "tanh"
        result = step("GELU", [x], "GeluOptions", approximate=approximate)
    elif node.op == "HardSigmoid":
        scaled = step("MUL", [x, number(float(node.attributes.get("alpha", 0.2)))], "MulOptions")
        moved = step("ADD", [scaled, number(float(node.attributes.get("beta", 0.5)))], "AddOptions")
        least = step("MAXIMUM", [moved, number(0.0)], "MaximumMinimumOptions")
        result = step("MINIMUM", [least, number(1.0)], "MaximumMinimumOptions")
    elif node.op == "Swish":
        scaled = step("MUL", [x, number(float(node.attributes.get("alpha", 1.0)))], "MulOptions")
        result = step("MUL", [x, step("LOGISTIC", [scaled])], "MulOptions")
    elif node.op in ("Elu", "Celu", "Selu"):
        # max(x, 0) + alpha * elu(min(x, 0)), where Celu divides by alpha first, and Selu multiplies the sum
        alpha = float(node.attributes.get("alpha", 1.67326319217681884765625 if node.op == "Selu" else 1.0))
        gamma = float(node.attributes.get("gamma", 1.05070102214813232421875)) if node.op == "Selu" else 1.0
        below = step("MINIMUM", [x, number(0.0)], "MaximumMinimumOptions")
        inner = step("MUL", [below, number(1.0 / alpha)], "MulOptions") if node.op == "Celu" else below
        curve = step("MUL", [step("ELU", [inner]), number(alpha * gamma)], "MulOptions")
        above = step("MUL", [step("RELU", [x]), number(gamma)], "MulOptions")
        result = step("ADD", [above, curve], "AddOptions")
    elif node.op == "Softsign":
        size = step("ADD", [step("ABS", [x]), number(1.0)], "AddOptions")
        result = step("DIV", [x, size], "DivOptions")
    elif node.op == "Reciprocal":
        result = step("DIV", [number(1.0), x], "DivOptions")
    elif node.op == "Pow":
        exponent = context.graph.constant(node.inputs[1])
        if exponent is None or exponent.size != 1:
            raise RefusedError("its exponent is computed")
        result = step("POW", [x, number(float(exponent.item()))], "PowOptions")
    elif node.op in ("Softplus", "Mish"):
        grown = step("ADD", [step("EXP", [x]), number(1.0)], "AddOptions")
        result = step("LOG", [grown])
        if node.op == "Mish":
            result = step("MUL", [x, step("TANH", [result])], "MulOptions")
    else:
        raise RefusedError(f"TFLite has no {node.op}")
    context.keep(node.output, Stored(result, data.shape, data.order))
    context.record(node, "float32")


def _sixteen_bits(context: Context, node: Node) -> None:
    """A function of an int16 tensor, of those that TFLite has."""
    data = context.operand(node.inputs[0], False)
    assert data.grid is not None
    channels = data.shape[data.order[-1]] if data.shape else 1
    if node.op in ("Sigmoid", "Tanh"):
        made = context.new(f"{node.output}:int16", data.shape, data.order, LiteGrid.of(1 / 32768, 0, "int16"))
        context.emit("LOGISTIC" if node.op == "Sigmoid" else "TANH", [data.tensor], [made.tensor])
        tail = context.tail(node, False)
        if tail.params is None:
            context.keep(node.output, made)
            context.record(node, "int16")
            return
        target = context.target(tail)
        made = context.limited_steps(context.on_grid(made, target.grid), target, tail.output)
        context.keep(tail.output, made)
        context.done.update(one.output for one in tail.nodes)
        context.record(node, "int16")
        return
    if node.op == "HardSigmoid":
        alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
        affine = Affine(data.order[-1], np.full(channels, alpha), np.full(channels, beta))
        write_affine(context, node, False, node.inputs[0], affine, limits=(0.0, 1.0))
        return
    if node.op == "Neg":
        write_affine(
            context, node, False, node.inputs[0], Affine(data.order[-1], np.full(channels, -1.0), np.zeros(channels))
        )
        return
    raise RefusedError(f"its input {node.inputs[0]!r} is int16, and TFLite has no {node.op} of that")


@writes("PRelu")
def write_prelu(context: Context, node: Node, real: bool) -> None:
    slope = context.graph.constant(node.inputs[1])
    if slope is None:
        raise RefusedError("its slope is computed")
    if not real:
        if slope.size == 1:
            write_unary(context, node, real)
            return
        raise RefusedError("its slopes per channel have no trained grid")
    data = context.operand(node.inputs[0], True)
    made = context.new(node.output, data.shape, data.order, None)
    arranged = placed(
        np.asarray(slope, np.float32).reshape((1,) * (len(data.shape) - slope.ndim) + slope.shape), data.order
    )
    values = context.file.constant(node.inputs[1], arranged[0])
    context.emit("PRELU", [data.tensor, values], [made.tensor])
    context.keep(node.output, made)
    context.record(node, "float32")
