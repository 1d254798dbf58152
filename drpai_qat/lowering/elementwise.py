"""Elementwise ONNX operators as expressions: what an epilogue or a pointwise kernel can absorb."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from drpai_qat.graph.canonical import FAKE_QUANT, Graph, Node
from drpai_qat.graph.grid import Grid
from drpai_qat.graph.parts import Planes
from drpai_qat.graph.ranges import clip_limits, data_input
from drpai_qat.kernels import expr as E

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Value:
    """A value under construction: a constant, or an expression of the real value.

    Attributes:
        expr: real value; None for a constant.
        ints: zero-point-free integer of the value, where it lies on `grid`: real = grid.scale * ints.
        constant: float64, dims in the output's memory order (or size 1).
    """

    expr: E.Expr | None = None
    ints: E.Expr | None = None
    grid: Grid | None = None
    constant: Array | None = None

    @property
    def real(self) -> E.Expr:
        """The expression of a value that is not a constant."""
        assert self.expr is not None
        return self.expr


def on_grid(ints: E.Expr, grid: Grid) -> Value:
    """The value of integers on a grid (zero point taken off)."""
    return Value(E.affine(ints, grid.scale), ints, grid)


def snap(value: Value, grid: Grid, answers: Answers | None = None) -> Value:
    """Round a value onto a grid, clamped to the grid's range.

    Args:
        answers: of the reference, where the value is a function of one 8-bit value (per channel).
    """
    low, high = float(grid.qmin - grid.zero_point), float(grid.qmax - grid.zero_point)
    x = E.affine(value.real, 1.0 / grid.scale)
    while isinstance(x, E.Affine) and isinstance(x.x, E.Clamp) and _is_increasing(x):
        # Rounding is monotonic, so a clamp just before it can be done on the integers.
        ends = [float(np.rint(b * x.mul.item() + x.add.item())) for b in (x.x.lo, x.x.hi)]
        x, low, high = E.affine(x.x.x, x.mul, x.add), max(low, min(ends[0], high)), min(high, max(ends[1], low))
    return on_grid(E.Snap(_without_limits(_fitted(x, low, high, answers), low, high), low, high), grid)


Answers = Callable[[npt.NDArray[np.float64]], npt.NDArray[np.float64]]
"""Of an affine step between two roundings: integers of the first, shape (n,), to those of the second, (n, channels)."""

_MOST_STEPS = 512  # integers that are tried one by one


def _fitted(x: E.Expr, low: float, high: float, answers: Answers | None) -> E.Expr:
    """An operand of a rounding; of an affine step of few integers, with float32 constants that give the right answers.

    A factor and a summand rounded to float32 may take an integer across a boundary, in every pixel that holds it. So
    the neighbours of the constants are tried until all integers come out right.

    Args:
        answers: the reference's; None where the exact values rounded are right.
    """
    if not isinstance(x, E.Affine):
        return x
    first, last = _integer_range(x.x)
    if not last - first < _MOST_STEPS:
        return x
    mul, add = np.broadcast_arrays(x.mul, x.add)
    shape, mul, add = mul.shape, mul.reshape(-1), add.reshape(-1)
    steps = np.arange(first, last + 1)[:, None]

    def rounded(values: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
        return np.clip(np.rint(values), low, high)

    right = rounded(steps * mul + add)
    if answers is not None:
        found = answers(steps[:, 0])
        same = found.shape[1] == len(mul)
        right = rounded(found if same else found[:, :1]) if same or len(mul) == 1 else right
    narrow = mul.astype(np.float32), add.astype(np.float32)
    best = [one.copy() for one in narrow]
    wrong = np.full(len(mul), steps.size)
    for ulps in sorted(itertools.product(range(-2, 3), range(-2, 3)), key=lambda pair: sum(map(abs, pair))):
        tried = [one + n * np.spacing(one) for one, n in zip(narrow, ulps, strict=True)]
        found = (rounded(steps.astype(np.float32) * tried[0] + tried[1]) != right).sum(0)
        for kept, one in zip(best, tried, strict=True):
            kept[found < wrong] = one[found < wrong]
        wrong = np.minimum(wrong, found)
        if not wrong.any():
            break
    mul, add = (one.astype(np.float64).reshape(shape) for one in best)
    return E.Affine(x.x, mul, add)


def _integer_range(x: E.Expr) -> tuple[float, float]:
    """Smallest and largest value of an expression that holds integers; infinite where it may hold others."""
    match x:
        case E.Snap(lo=lo, hi=hi) | E.Load(lo=lo, hi=hi):
            return lo, hi
        case E.Affine(x=E.Load(lo=lo, hi=hi), mul=mul, add=add) if mul.size == add.size == 1 and mul.item() == 1.0:
            return lo + add.item(), hi + add.item()
    return -math.inf, math.inf


def split_bytes(value: Value, planes: Planes, grids: Sequence[Grid]) -> tuple[Value, ...]:
    """The bytes of a real value's integer, the highest first, each on its grid."""
    low, high = float(-planes.zero_point), float(planes.largest - planes.zero_point)
    rest = E.affine(E.Snap(E.affine(value.real, 1.0 / planes.scale), low, high), 1.0, planes.zero_point)
    found = []
    for byte, grid in zip(reversed(range(len(grids))), grids, strict=True):
        integer = E.Unary("floor", E.affine(rest, 256.0**-byte)) if byte else rest
        if byte:
            rest = E.Binary("sub", rest, E.affine(integer, 256.0**byte))
        zero_point = planes.zero_point >> 8 * byte & 255
        found.append(on_grid(E.affine(integer, 1.0, -zero_point), grid))
    return tuple(found)


def _is_increasing(x: E.Affine) -> bool:
    """One positive factor and one summand for all channels."""
    return x.mul.size == x.add.size == 1 and x.mul.item() > 0


def _without_limits(x: E.Expr, low: float, high: float) -> E.Expr:
    """An operand of a rounding to low..high, less the limits of an earlier rounding in it that cannot be told then."""
    step, earlier = (x, x.x) if isinstance(x, E.Affine) and _is_increasing(x) else (None, x)
    if not isinstance(earlier, E.Snap):
        return x

    def later(end: float) -> np.float32:
        value = np.float32(end)
        if step is not None:
            value = value * np.float32(step.mul.item()) + np.float32(step.add.item())
        return np.rint(value)

    lo = -math.inf if later(earlier.lo) <= low else earlier.lo
    hi = math.inf if later(earlier.hi) >= high else earlier.hi
    if (lo, hi) == (earlier.lo, earlier.hi):
        return x
    if step is None and lo == -math.inf and hi == math.inf:
        return earlier.x  # on the same steps
    loose = replace(earlier, lo=lo, hi=hi)
    return loose if step is None else replace(step, x=loose)


def clamp(value: Value, low: float, high: float) -> Value:
    """Limit a value; it stays on its grid where the grid holds the limits."""
    grid = value.grid
    if grid is not None and value.ints is not None:
        inside = [not math.isfinite(b) or grid.holds(b) for b in (low, high)]
        if all(inside):
            ends = [b if not math.isfinite(b) else float(grid.steps(b)) - grid.zero_point for b in (low, high)]
            return on_grid(_clamped(value.ints, *ends), grid.narrowed(low, high))
    return Value(E.Clamp(value.real, low, high))


def _clamped(ints: E.Expr, low: float, high: float) -> E.Expr:
    if isinstance(ints, E.Snap) and low <= ints.hi and high >= ints.lo:
        return replace(ints, lo=max(ints.lo, low), hi=min(ints.hi, high))
    return E.Clamp(ints, low, high)


Rule = Callable[[Graph, Node, list[Value]], Value]
RULES: dict[str, Rule] = {}


def elementwise(*ops: str) -> Callable[[Rule], Rule]:
    """Register the expression of operators; a second registration of one is an error."""

    def register(rule: Rule) -> Rule:
        for op in ops:
            if op in RULES:
                raise ValueError(f"{op} has an expression already")
            RULES[op] = rule
        return rule

    return register


LINEAR = frozenset(("Relu", "Clip", "Add", "Sub", "Mul", "Div", "BatchNormalization", "Identity", "Neg"))
CHEAP = frozenset((FAKE_QUANT, "Relu", "Clip", "Add", "Sub", "BatchNormalization", "Identity", "Neg", "Min", "Max"))


@elementwise(FAKE_QUANT)
def _fake_quant(graph: Graph, node: Node, args: list[Value]) -> Value:
    raise NotImplementedError("the caller knows the grid")  # `fusion._Builder.add`


@elementwise("Identity", "Cast", "Dropout")
def _identity(graph: Graph, node: Node, args: list[Value]) -> Value:
    return args[0]


@elementwise("Relu", "Clip")
def _clip(graph: Graph, node: Node, args: list[Value]) -> Value:
    limits = clip_limits(graph, node)
    assert limits is not None
    return clamp(args[0], *limits)


@elementwise("Add", "Sub", "Mul", "Div", "Min", "Max", "Sum")
def _arithmetic(graph: Graph, node: Node, args: list[Value]) -> Value:
    if len(args) == 1:
        return args[0]
    op = {"Sum": "add"}.get(node.op, node.op.lower())
    result = args[0]
    for other in args[1:]:
        result = _two(op, result, other)
    return result


def _two(op: str, x: Value, y: Value) -> Value:
    if x.constant is not None and y.constant is not None:
        return Value(constant=np.asarray(E.BINARY[op](x.constant, y.constant), np.float64))
    if y.constant is not None:
        c = y.constant
        if op in ("min", "max") and c.size == 1:
            bound = float(c.item())
            return clamp(x, -math.inf, bound) if op == "min" else clamp(x, bound, math.inf)
        match op:
            case "add":
                return Value(E.affine(x.real, 1.0, c))
            case "sub":
                return Value(E.affine(x.real, 1.0, -c))
            case "mul":
                return Value(E.affine(x.real, c))
            case "div":
                return Value(E.affine(x.real, 1.0 / c))
        return Value(E.Binary(op, x.real, E.affine(x.real, 0.0, c)))
    if x.constant is not None:
        c = x.constant
        match op:
            case "sub":
                return Value(E.affine(y.real, -1.0, c))
            case "div":
                return Value(E.affine(E.Unary("reciprocal", y.real), c))
        return _two(op, y, x)
    return Value(E.Binary(op, x.real, y.real))


@elementwise("BatchNormalization")
def _batch_norm(graph: Graph, node: Node, args: list[Value]) -> Value:
    mul, add = args[1].constant, args[2].constant  # fusion adds them
    assert mul is not None
    assert add is not None
    return Value(E.affine(args[0].real, mul, add))


def _relu_parts(x: E.Expr) -> tuple[E.Expr, E.Expr]:
    return E.Clamp(x, 0.0, math.inf), E.Clamp(x, -math.inf, 0.0)


@elementwise("LeakyRelu")
def _leaky_relu(graph: Graph, node: Node, args: list[Value]) -> Value:
    positive, negative = _relu_parts(args[0].real)
    return Value(E.Binary("add", positive, E.affine(negative, float(node.attributes.get("alpha", 0.01)))))


@elementwise("PRelu")
def _prelu(graph: Graph, node: Node, args: list[Value]) -> Value:
    positive, negative = _relu_parts(args[0].real)
    assert args[1].constant is not None
    return Value(E.Binary("add", positive, E.affine(negative, args[1].constant)))


def _hard_sigmoid(x: E.Expr, alpha: float, beta: float) -> E.Expr:
    return E.Clamp(E.affine(x, alpha, beta), 0.0, 1.0)


@elementwise("HardSigmoid")
def _hard_sigmoid_rule(graph: Graph, node: Node, args: list[Value]) -> Value:
    alpha, beta = float(node.attributes.get("alpha", 0.2)), float(node.attributes.get("beta", 0.5))
    return Value(_hard_sigmoid(args[0].real, alpha, beta))


@elementwise("HardSwish")
def _hard_swish(graph: Graph, node: Node, args: list[Value]) -> Value:
    x = args[0].real
    return Value(E.Binary("mul", x, _hard_sigmoid(x, 1.0 / 6.0, 0.5)))


@elementwise("Swish")
def _swish(graph: Graph, node: Node, args: list[Value]) -> Value:
    x = args[0].real
    return Value(E.Binary("mul", x, E.Unary("sigmoid", E.affine(x, float(node.attributes.get("alpha", 1.0))))))


@elementwise("Gelu")
def _gelu(graph: Graph, node: Node, args: list[Value]) -> Value:
    x = args[0].real
    if node.attributes.get("approximate", "none") == "tanh":
        cube = E.Binary("mul", x, E.Binary("mul", x, x))
        inner = E.affine(E.Binary("add", x, E.affine(cube, 0.044715)), math.sqrt(2.0 / math.pi))
        gate = E.Unary("tanh", inner)
    else:
        gate = E.Unary("erf", E.affine(x, math.sqrt(0.5)))
    return Value(E.Binary("mul", x, E.affine(gate, 0.5, 0.5)))


@elementwise("Elu", "Celu", "Selu")
def _elu(graph: Graph, node: Node, args: list[Value]) -> Value:
    positive, negative = _relu_parts(args[0].real)
    alpha = float(node.attributes.get("alpha", 1.67326319217681884765625 if node.op == "Selu" else 1.0))
    inside = E.affine(negative, 1.0 / alpha) if node.op == "Celu" else negative
    curve = E.affine(E.Unary("exp", inside), alpha, -alpha)
    result = E.Binary("add", positive, curve)
    gamma = float(node.attributes.get("gamma", 1.05070102214813232421875)) if node.op == "Selu" else 1.0
    return Value(E.affine(result, gamma))


def _softplus(x: E.Expr) -> E.Expr:
    """log(1 + exp(x)) = max(x, 0) + log(1 + exp(-|x|)), which does not overflow."""
    small = E.affine(E.Unary("exp", E.affine(E.Unary("abs", x), -1.0)), 1.0, 1.0)
    return E.Binary("add", E.Clamp(x, 0.0, math.inf), E.Unary("log", small))


@elementwise("Softplus")
def _softplus_rule(graph: Graph, node: Node, args: list[Value]) -> Value:
    return Value(_softplus(args[0].real))


@elementwise("Mish")
def _mish(graph: Graph, node: Node, args: list[Value]) -> Value:
    x = args[0].real
    return Value(E.Binary("mul", x, E.Unary("tanh", _softplus(x))))


@elementwise("Softsign")
def _softsign(graph: Graph, node: Node, args: list[Value]) -> Value:
    x = args[0].real
    return Value(E.Binary("div", x, E.affine(E.Unary("abs", x), 1.0, 1.0)))


_UNARY_OPS = {
    "Sigmoid": "sigmoid", "Tanh": "tanh", "Erf": "erf", "Exp": "exp", "Log": "log", "Sqrt": "sqrt", "Abs": "abs",
    "Neg": "neg", "Reciprocal": "reciprocal", "Round": "round", "Floor": "floor", "Ceil": "ceil",
}  # fmt: skip


@elementwise(*_UNARY_OPS)
def _unary(graph: Graph, node: Node, args: list[Value]) -> Value:
    if node.op == "Neg":
        return Value(E.affine(args[0].real, -1.0))
    return Value(E.Unary(_UNARY_OPS[node.op], args[0].real))


_POWERS: dict[float, Callable[[E.Expr], E.Expr]] = {
    1.0: lambda x: x,
    2.0: lambda x: E.Binary("mul", x, x),
    3.0: lambda x: E.Binary("mul", x, E.Binary("mul", x, x)),
    0.5: lambda x: E.Unary("sqrt", x),
    -0.5: lambda x: E.Unary("reciprocal", E.Unary("sqrt", x)),
    -1.0: lambda x: E.Unary("reciprocal", x),
}


@elementwise("Pow")
def _pow(graph: Graph, node: Node, args: list[Value]) -> Value:
    assert args[1].constant is not None
    return Value(_POWERS[float(args[1].constant.item())](args[0].real))


def data_operands(graph: Graph, node: Node) -> list[str]:
    """Inputs that an expression of this node reads, constants included, in the order of its rule's arguments."""
    if node.op == "BatchNormalization" or node.op in ("Clip", FAKE_QUANT, "Dropout"):
        return [node.inputs[0]]
    return [name for name in node.inputs if name]


__all__ = ["CHEAP", "RULES", "Value", "clamp", "data_input", "data_operands", "on_grid", "snap"]
