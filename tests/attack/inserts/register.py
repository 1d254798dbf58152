"""How inserts are registered, and what several of them use."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from tests.attack.chain import Chain, Shape

Insert = Callable[[Chain, str, Shape], str]
INSERTS: dict[str, Insert] = {}


def insert(function: Insert) -> Insert:
    """Register a way."""
    INSERTS[function.__name__.replace("_", " ").strip()] = function
    return function


def needs(fact: object) -> None:
    """Raise ValueError where the tensor or the opset does not allow it."""
    if not fact:
        raise ValueError


def an_axis(chain: Chain, shape: Shape) -> int:
    """Any axis, counted from either end."""
    needs(shape)
    return chain.rng.randrange(-len(shape), len(shape))


def a_grid(chain: Chain) -> tuple[str, str]:
    """A legal scale and zero point."""
    dtype = np.dtype(chain.rng.choice(["int8", "uint8", "uint8"] + ["int16", "uint16"] * (chain.opset >= 21)))
    info = np.iinfo(dtype.name)
    scale = chain.rng.choice((0.02, 0.02, 1 / 255, 0.1, 0.5, 1e-3, 1e-6, 1e-12, 7.0, 1e4)) * chain.rng.uniform(0.5, 1.5)
    zero_point = chain.rng.choice((0, info.min, info.max, (info.min + info.max + 1) // 2, 3))
    return chain.constant(scale), chain.constant(zero_point, dtype)


def fake_quantized(chain: Chain, x: str) -> str:
    """A legal fake-quant."""
    grid = a_grid(chain)
    return chain.op("DequantizeLinear", chain.op("QuantizeLinear", x, *grid), *grid)


def something_small(chain: Chain, x: str) -> str:
    """Something small in the middle of another way."""
    way = chain.rng.choice(("none", "pair", "Relu", "Sigmoid", "Neg"))
    return x if way == "none" else fake_quantized(chain, x) if way == "pair" else chain.op(way, x)
