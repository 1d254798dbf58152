"""Functions of one value, arithmetic with constants and with itself, fake-quant in the middle."""

from __future__ import annotations

import numpy as np

from tests.attack.chain import Chain, Shape
from tests.attack.inserts.register import a_grid, an_axis, fake_quantized, insert, needs, something_small

_SINCE = {
    "Relu": 6, "Sigmoid": 6, "Tanh": 6, "Elu": 6, "Selu": 6, "LeakyRelu": 6, "HardSigmoid": 6, "Softplus": 1,
    "Softsign": 1, "ThresholdedRelu": 10, "Celu": 12, "HardSwish": 14, "Mish": 18, "Gelu": 20, "Neg": 6, "Abs": 6,
    "Exp": 6, "Erf": 9, "Ceil": 6, "Floor": 6, "Round": 11, "Sign": 9, "Sin": 7, "Cos": 7, "Atan": 7, "Sinh": 9,
    "Reciprocal": 6, "Identity": 1, "Dropout": 12, "Asinh": 9, "Shrink": 9, "Tan": 7,
}  # fmt: skip
_SIZES = (1e-30, 1e-6, 1e-3, 0.1, 1.0, 1.0, 3.0, 100.0, 1e4, 1e9)


@insert
def unary(chain: Chain, x: str, _shape: Shape) -> str:
    """A function of one tensor."""
    operator = chain.rng.choice([one for one, since in _SINCE.items() if since <= chain.opset])
    alpha = chain.rng.choice((0.0, 0.01, 0.2, 1.0, -0.5, 3.0))
    given = {"alpha": alpha} if operator in ("Elu", "LeakyRelu", "HardSigmoid", "ThresholdedRelu") else {}
    return chain.op(operator, x, **given)


@insert
def of_positive(chain: Chain, x: str, _shape: Shape) -> str:
    """A function that is real for positive numbers alone."""
    above = chain.op("Add", chain.op("Abs", x), chain.constant(chain.rng.choice((1e-9, 1e-3, 1.0))))
    operator = chain.rng.choice(("Sqrt", "Log", "Reciprocal", "Pow"))
    return chain.op(operator, above, *([chain.constant(chain.rng.choice((0.5, -1.0, 2.5)))] * (operator == "Pow")))


@insert
def clip(chain: Chain, x: str, _shape: Shape) -> str:
    """Bounds, also of equal size, or one alone."""
    needs(chain.opset >= 11)
    low, high = chain.rng.choice(((0.0, 6.0), (-1.0, 1.0), (0.0, 0.0), (-3e38, 3e38), (1.0, 2.0), (-1e-3, 1e-3)))
    way = chain.rng.choice(("both", "low", "high"))
    low_name = chain.constant(low) if way != "high" else ""
    return chain.op("Clip", x, low_name, *([chain.constant(high)] * (way != "low")))


@insert
def with_a_constant(chain: Chain, x: str, shape: Shape) -> str:
    """Arithmetic with a constant of a shape that is spread."""
    operator = chain.rng.choice(("Add", "Sub", "Mul", "Div", "Max", "Min", "PRelu", "Mod", "Pow"))
    to = chain.rng.choice((
        (), (1,), shape, shape[-1:], *([(shape[1], *([1] * (len(shape) - 2)))] if len(shape) > 1 else []),
        tuple(n if chain.rng.random() < 0.5 else 1 for n in shape),
    ))  # fmt: skip
    values: np.ndarray = chain.spread(to, chain.rng.choice(_SIZES))
    if operator in ("Div", "Mod"):
        values = np.abs(values) + np.float32(1e-3)
    if operator == "Pow":
        values = np.array(chain.rng.choice((1.0, 2.0, 3.0, 0.0)), np.float32)
    given = {"fmod": 1} if operator == "Mod" else {}
    operands = [x, chain.constant(values)]
    if operator in ("Add", "Mul", "Sub", "Max") and chain.rng.random() < 0.3:
        operands.reverse()
    return chain.op(operator, *operands, **given)


@insert
def with_itself(chain: Chain, x: str, _shape: Shape) -> str:
    """Both operands are one tensor, or made of it."""
    way = chain.rng.choice(("Add", "Mul", "Sub", "Max", "Where", "Sum", "Mean"))
    other = something_small(chain, x)
    if way == "Where":
        return chain.op("Where", chain.op("Less", x, chain.constant(0.1)), other, x)
    if way in ("Sum", "Mean"):
        return chain.op(way, x, other, *[something_small(chain, x) for _ in range(chain.rng.randrange(4))])
    return chain.op(way, x, other)


@insert
def quantized(chain: Chain, x: str, _shape: Shape) -> str:
    """A pair of quantizers, once or more."""
    for _ in range(chain.rng.choice((1, 1, 2, 3))):
        x = fake_quantized(chain, x)
    return x


@insert
def quantized_per_channel(chain: Chain, x: str, shape: Shape) -> str:
    """A pair with a scale for each slice of an axis."""
    needs(shape)
    axis = an_axis(chain, shape)
    scale = chain.constant(np.abs(chain.spread((shape[axis],), 0.05)) + 1e-3)
    zero_point = chain.constant(np.zeros(shape[axis]), chain.rng.choice((np.int8, np.uint8)))
    quantized_ = chain.op("QuantizeLinear", x, scale, zero_point, axis=axis)
    return chain.op("DequantizeLinear", quantized_, scale, zero_point, axis=axis)


@insert
def moved_in_integers(chain: Chain, x: str, shape: Shape) -> str:
    """Between the two of a pair, integers move and come back."""
    grid = a_grid(chain)
    q = chain.op("QuantizeLinear", x, *grid)
    perm = chain.rng.sample(range(len(shape)), len(shape))
    q = chain.op("Transpose", chain.op("Transpose", q, perm=perm), perm=[int(one) for one in np.argsort(perm)])
    q = chain.op("Reshape", chain.op("Reshape", q, chain.indices([-1])), chain.indices(shape))
    return chain.op("DequantizeLinear", q, *grid)
