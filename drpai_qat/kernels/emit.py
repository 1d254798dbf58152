"""Vectorized TIR for `expr` trees: one call computes the value of `lanes` neighbouring channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.isa import Isa, Vector, at_least, at_most, held, round_to_int, splat, vector

# Cephes expf: 2^n * p(r), |r| <= ln2/2, error under 1 ulp.
_EXP = (1.9875691500e-4, 1.3981999507e-3, 8.3334519073e-3, 4.1665795894e-2, 1.6666665459e-1, 5.0000001201e-1)
# Rational approximation of erf on [-4, 4] (the one XLA and Eigen document); error under 4 ulp.
_ERF_P = (
    -2.72614225801306e-10, 2.77068142495902e-08, -2.10102402082508e-06, -5.69250639462346e-05,
    -7.34990630326855e-04, -2.95459980854025e-03, -1.60960333262415e-02,
)  # fmt: skip
_ERF_Q = (
    -1.45660718464996e-05, -2.13374055278905e-04, -1.68282697438203e-03, -7.37332916720468e-03,
    -1.42647390514189e-02,
)  # fmt: skip


# Cephes logf: z^3 * p(z) beside z - z^2 / 2, for z = mantissa - 1 in [sqrt(1/2) - 1, sqrt(2) - 1]; error under 1 ulp.
_LOG = (
    7.0376836292e-2, -1.1514610310e-1, 1.1676998740e-1, -1.2420140846e-1, 1.4249322787e-1, -1.6668057665e-1,
    2.0000714765e-1, -2.4999993993e-1, 3.3333331174e-1,
)  # fmt: skip
_SQRT_HALF = 0x3F3504F3  # bits of sqrt(1/2)
_SMALLEST = 1.17549435e-38  # below it, float32 numbers have fewer bits
_LN2 = (0.693359375, -2.12194440e-4)  # their sum is ln 2; the first times an exponent is exact


def _const(value: float, lanes: int) -> Vector:
    return splat(T.float32(value), lanes)


def _polynomial(x: Vector, coefficients: tuple[float, ...], lanes: int) -> Vector:
    result = _const(coefficients[0], lanes)
    for coefficient in coefficients[1:]:
        result = result * x + _const(coefficient, lanes)
    return result


def exp(isa: Isa, x: Vector, lanes: int) -> Vector:
    """float32 e^x, within 1 ulp; arguments beyond float32's range saturate."""
    x = held(T.max(T.min(x, _const(88.3762626647949, lanes)), _const(-87.3365478515625, lanes)), lanes)
    n = held(tirx.op.nearbyint(x * _const(1.44269504088896341, lanes)), lanes)
    r = held((x - n * _const(_LN2[0], lanes)) - n * _const(_LN2[1], lanes), lanes)
    p = _polynomial(r, _EXP, lanes) * (r * r) + r + _const(1.0, lanes)
    exponent = T.shift_left(T.Cast(vector("int32", lanes), n) + splat(T.int32(127), lanes), splat(T.int32(23), lanes))
    return held(p * T.reinterpret(exponent, dtype=vector("float32", lanes)), lanes)


def natural_log(x: Vector, lanes: int) -> Vector:
    """float32 natural logarithm, within 2 ulp; not the C library's, which differs from machine to machine."""
    ints, floats = vector("int32", lanes), vector("float32", lanes)
    x = held(x, lanes)
    tiny = x < _const(_SMALLEST, lanes)  # without a name: TVM cannot bind a vector of truth values
    bits = T.reinterpret(held(T.Select(tiny, x * _const(2.0**23, lanes), x), lanes), dtype=ints)
    exponent = T.shift_right(bits - splat(T.int32(_SQRT_HALF), lanes), splat(T.int32(23), lanes))
    mantissa = T.reinterpret(bits - T.shift_left(exponent, splat(T.int32(23), lanes)), dtype=floats)
    z = held(mantissa - _const(1.0, lanes), lanes)
    n = held(T.Cast(floats, exponent) - T.Select(tiny, _const(23.0, lanes), _const(0.0, lanes)), lanes)
    square = held(z * z, lanes)
    y = _polynomial(z, _LOG, lanes) * z * square + n * _const(_LN2[1], lanes) - square * _const(0.5, lanes)
    result = z + y + n * _const(_LN2[0], lanes)
    zero, infinity = _const(0.0, lanes), _const(math.inf, lanes)
    result = T.Select(x < infinity, result, x)  # infinity and not-a-number stay
    return held(T.Select(x <= zero, T.Select(x < zero, _const(math.nan, lanes), -infinity), result), lanes)


def _sigmoid(isa: Isa, x: Vector, lanes: int) -> Vector:
    one = _const(1.0, lanes)
    return one / (one + exp(isa, _const(0.0, lanes) - x, lanes))


def _tanh(isa: Isa, x: Vector, lanes: int) -> Vector:
    one, two = _const(1.0, lanes), _const(2.0, lanes)
    return one - two / (exp(isa, x * two, lanes) + one)


def _erf(isa: Isa, x: Vector, lanes: int) -> Vector:
    x = held(T.max(T.min(x, _const(4.0, lanes)), _const(-4.0, lanes)), lanes)
    x2 = held(x * x, lanes)
    return x * _polynomial(x2, _ERF_P, lanes) / _polynomial(x2, _ERF_Q, lanes)


_UNARY: dict[str, Callable[[Isa, Vector, int], Vector]] = {
    "exp": exp,
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "erf": _erf,
    "sqrt": lambda isa, x, lanes: tirx.op.sqrt(x),
    "log": lambda isa, x, lanes: natural_log(x, lanes),
    "abs": lambda isa, x, lanes: T.max(x, _const(0.0, lanes) - x),
    "neg": lambda isa, x, lanes: _const(0.0, lanes) - x,
    "reciprocal": lambda isa, x, lanes: _const(1.0, lanes) / x,
    "round": lambda isa, x, lanes: tirx.op.nearbyint(x),
    "floor": lambda isa, x, lanes: tirx.op.floor(x),
    "ceil": lambda isa, x, lanes: tirx.op.ceil(x),
}
_BINARY: dict[str, Callable[[Vector, Vector], Vector]] = {
    "add": lambda x, y: x + y,
    "sub": lambda x, y: x - y,
    "mul": lambda x, y: x * y,
    "div": lambda x, y: x / y,
    "min": T.min,
    "max": T.max,
}


def emit(
    isa: Isa,
    roots: Sequence[E.Expr],
    lanes: int,
    acc: Vector | None,
    load: Callable[[int, int], Vector],
    constant: Callable[[E.Expr, str, int], Vector],
    lookup: Callable[[E.Table, Vector], Vector],
    clamp_root: bool = True,
) -> list[Vector]:
    """The values of trees for `lanes` channels as float32; a Snap that is the only root is left unrounded.

    Args:
        roots: they may share nodes, which are computed once.
        acc: the accumulator converted to float32, `lanes` wide; None where the tree has no Acc.
        load: (operand index, lanes) -> float32 vector of the operand at the current position.
        constant: (node, field, lanes) -> float32 vector of a node's constant at the current channels.
        lookup: (table node, int32 index vector) -> float32 vector.
        clamp_root: False where the caller clamps a Snap at the root as well.
    """
    values: dict[int, Vector] = {}
    kept = E.written_once(*roots)
    root = roots[0] if len(roots) == 1 else None
    for node in E.walk(*roots):
        match node:
            case E.Acc():
                value = acc
            case E.Load(index=index):
                value = load(index, lanes)
            case E.Affine(x=x, mul=mul, add=add):
                value = values[id(x)]
                if not _is(mul, 1.0):
                    value = value * constant(node, "mul", lanes)
                if not _is(add, 0.0):
                    value = value + constant(node, "add", lanes)
            case E.Snap(x=x) if node is root and not clamp_root:
                value = values[id(x)]
            case E.Snap(x=x):
                value = _clamped(isa, values[id(x)], node, lanes, constant)
                if node is not root:
                    value = tirx.op.nearbyint(value)
            case E.Clamp(x=x):
                value = _clamped(isa, values[id(x)], node, lanes, constant)
            case E.Mask(x=x, gate=gate):
                value = T.Select(values[id(gate)] > _const(0.0, lanes), values[id(x)], _const(0.0, lanes))
            case E.Binary(op=op, x=x, y=y):
                value = _BINARY[op](values[id(x)], values[id(y)])
            case E.Unary(fn=fn, x=x):
                value = _UNARY[fn](isa, values[id(x)], lanes)
            case E.Table(x=x, first=first):
                index = round_to_int(isa, values[id(x)], lanes) - splat(T.int32(first), lanes)
                value = lookup(node, index)
            case _:
                raise TypeError(f"no TIR for {type(node).__name__}")
        # A name: TIR trees would repeat the operand at each use.
        values[id(node)] = held(value, lanes) if id(node) in kept else T.Bind(value)
    return [values[id(one)] for one in roots]


def _clamped(
    isa: Isa, value: Vector, node: E.Snap | E.Clamp, lanes: int, constant: Callable[[E.Expr, str, int], Vector]
) -> Vector:
    """The value within the node's finite limits."""
    kind = vector("float32", lanes)
    if np.isfinite(node.hi):
        limit = constant(node, "hi", lanes)
        value = at_most(isa, value, limit, kind) if node.hi != 0 else T.min(value, limit)
    if np.isfinite(node.lo):
        value = at_least(isa, value, constant(node, "lo", lanes), kind)
    return value


def _is(values: np.ndarray, number: float) -> bool:
    return values.size == 1 and float(values.item()) == number


def constants_of(node: E.Expr) -> tuple[tuple[str, np.ndarray], ...]:
    """The numbers of a node that `emit` asks its caller for, in a fixed order."""
    match node:
        case E.Affine(mul=mul, add=add):
            pairs = (("mul", mul, 1.0), ("add", add, 0.0))
            return tuple((name, values) for name, values, neutral in pairs if not _is(values, neutral))
        case E.Snap(lo=lo, hi=hi) | E.Clamp(lo=lo, hi=hi):
            return tuple(
                (name, np.asarray(v, np.float64)) for name, v in (("lo", lo + 0.0), ("hi", hi)) if np.isfinite(v)
            )
    return ()
