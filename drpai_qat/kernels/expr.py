"""Elementwise float32 expressions: what an epilogue or a pointwise kernel computes for each output element.

An expression is a small immutable tree (a DAG where a value is used twice). Leaves are the kernel's accumulator and
loads of other tensors; inner nodes are affine steps with constants, roundings onto an integer grid, clamps, two-operand
arithmetic, unary functions and 256-entry tables. Dequantize-then-affine chains fold into one affine step when they are
built (in float64, rounded once), so the tree holds exactly the roundings that training put there and no others.

`emit.py` turns a tree into vectorized TIR; `evaluate` here is the same arithmetic in numpy, for tests and tables.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

_WRITTEN_OUT = 24
"""Nodes of an operand that may be written out wherever it is read; SiLU, GELU and their kin have fewer."""
_DEEPEST = 256
"""Nodes of an operand that is read once."""


@dataclass(frozen=True, eq=False)
class Expr:
    """One value per output element, computed in float32."""

    @property
    def children(self) -> tuple[Expr, ...]:
        """Operands, in the order of the fields."""
        values = (getattr(self, field.name) for field in fields(self))
        return tuple(value for value in values if isinstance(value, Expr))


@dataclass(frozen=True, eq=False)
class Acc(Expr):
    """The kernel's accumulator as float32 (int32 accumulators are converted)."""


@dataclass(frozen=True, eq=False)
class Load(Expr):
    """Element of operand `index`, converted to float32; the operand broadcasts against the output's dims.

    Attributes:
        lo, hi: of an operand that holds integers, its smallest and largest one; emitted code does not depend on them.
    """

    index: int
    lo: float = -math.inf
    hi: float = math.inf


@dataclass(frozen=True, eq=False)
class Affine(Expr):
    """x * mul + add; float64 until emitted, each constant of size 1 or broadcasting to the output's dims."""

    x: Expr
    mul: Array
    add: Array


@dataclass(frozen=True, eq=False)
class Snap(Expr):
    """clamp(round_half_even(x), lo, hi): the rounding of a QuantizeLinear, zero point taken off."""

    x: Expr
    lo: float
    hi: float


@dataclass(frozen=True, eq=False)
class Clamp(Expr):
    """min(max(x, lo), hi); an infinite bound is no bound."""

    x: Expr
    lo: float
    hi: float


@dataclass(frozen=True, eq=False)
class Mask(Expr):
    """x where gate is positive, else 0."""

    x: Expr
    gate: Expr


@dataclass(frozen=True, eq=False)
class Binary(Expr):
    """x op y, op one of add sub mul div min max."""

    op: str
    x: Expr
    y: Expr


@dataclass(frozen=True, eq=False)
class Unary(Expr):
    """fn(x), fn one of UNARY."""

    fn: str
    x: Expr


@dataclass(frozen=True, eq=False)
class Table(Expr):
    """values[x - first] for integer-valued x in [first, first + len(values)); values are float32."""

    x: Expr
    first: int
    values: npt.NDArray[np.float32]


def _erf(x: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    from math import erf

    return np.vectorize(erf, otypes=[np.float32])(x)


_f32 = np.float32
UNARY: dict[str, Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]] = {
    "exp": np.exp,
    "sigmoid": lambda x: (_f32(1) / (_f32(1) + np.exp(-x))).astype(np.float32),
    "tanh": np.tanh,
    "erf": _erf,
    "sqrt": np.sqrt,
    "log": np.log,
    "abs": np.abs,
    "neg": np.negative,
    "reciprocal": lambda x: (_f32(1) / x).astype(np.float32),
    "round": np.rint,
    "floor": np.floor,
    "ceil": np.ceil,
}
BINARY: dict[str, Callable[..., npt.NDArray[np.float32]]] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "min": np.minimum,
    "max": np.maximum,
}


def affine(x: Expr, mul: npt.ArrayLike = 1.0, add: npt.ArrayLike = 0.0) -> Expr:
    """x * mul + add, folded into a preceding affine step (but a zero point's); nothing where mul is 1 and add is 0."""
    m, a = np.asarray(mul, np.float64), np.asarray(add, np.float64)
    if isinstance(x, Affine) and not _is_shift(x):
        m, a, x = x.mul * m, x.add * m + a, x.x
    m, a = _shrink(m), _shrink(a)
    if m.size == 1 and a.size == 1 and np.float32(m.item()) == 1.0 and float(a.item()) == 0.0:
        return x  # constants are float32 where they count
    return Affine(x, m, a)


def _is_shift(x: Affine) -> bool:
    """A zero point taken off a stored integer: exact on its own, so the result is the same for int8 as for uint8."""
    whole = x.mul.size == x.add.size == 1 and x.mul.item() == 1.0 and float(x.add.item()).is_integer()
    return whole and isinstance(x.x, Load)


def _shrink(values: Array) -> Array:
    """A constant that is the same everywhere becomes a scalar: cheaper to load, and kernels are shared."""
    if values.size and bool((values == values.flat[0]).all()):
        return np.asarray(values.flat[0], np.float64)
    return values


def is_integer(x: Expr, integer_operands: frozenset[int] = frozenset()) -> bool:
    """True when the value is an integer by construction, so storing it needs no rounding.

    Args:
        integer_operands: indices of the operands that are stored as integers of at most 16 bits.
    """
    known: dict[int, bool] = {}
    for node in walk(x):
        known[id(node)] = _is_integer(node, [known[id(child)] for child in node.children], integer_operands)
    return known[id(x)]


def _is_integer(node: Expr, args: list[bool], integer_operands: frozenset[int]) -> bool:
    match node:
        case Snap():
            return True
        case Load(index=index):
            return index in integer_operands
        case Affine(mul=mul, add=add):  # a stored operand less its zero point
            return args[0] and bool((mul == np.rint(mul)).all() and (add == np.rint(add)).all())
        case Clamp(lo=lo, hi=hi):
            return args[0] and all(float(b).is_integer() for b in (lo, hi) if np.isfinite(b))
        case Mask():
            return args[0]
        case Table(values=values):
            return bool((values == np.rint(values)).all())
        case Unary(fn=fn):
            return fn in ("round", "floor", "ceil")
        case Binary(op=op):
            return op in ("add", "sub", "min", "max") and all(args)
    return False


INT32 = 2.0**31
"""Bound of the magnitude of int32 accumulators."""


def magnitude(x: Expr, dtypes: Sequence[str], largest_acc: float = INT32) -> float:
    """A bound of the value's magnitude; infinite where nothing is known.

    Args:
        dtypes: of the tensors that Load nodes name.
        largest_acc: bound of the accumulator's magnitude; infinite for float32.
    """
    bounds: dict[int, float] = {}
    for node in walk(x):
        args = [bounds[id(child)] for child in node.children]
        bounds[id(node)] = largest_acc if isinstance(node, Acc) else _magnitude_of(node, args, dtypes)
    return bounds[id(x)]


def _magnitude_of(node: Expr, args: list[float], dtypes: Sequence[str]) -> float:
    match node:
        case Load(index=index):
            if "int" not in dtypes[index]:
                return math.inf
            limits = np.iinfo(dtypes[index])
            return float(max(-limits.min, limits.max))
        case Affine(mul=mul, add=add):
            return float(np.abs(mul).max(initial=0)) * args[0] + float(np.abs(add).max(initial=0))
        case Snap(lo=lo, hi=hi) | Clamp(lo=lo, hi=hi):
            return min(args[0], max(abs(lo), abs(hi)))
        case Mask():
            return args[0]
        case Binary(op=op) if op in ("add", "sub"):
            return args[0] + args[1]
        case Binary(op="mul"):
            return args[0] * args[1]
        case Binary(op=op) if op in ("min", "max"):
            return max(args)
        case Unary(fn=fn) if fn in ("sigmoid", "tanh", "erf"):
            return 1.0
        case Unary(fn=fn) if fn in ("abs", "neg", "round", "floor", "ceil"):
            return args[0] + 1.0
        case Table(values=values):
            return float(np.abs(values).max(initial=0))
    return math.inf


def walk(*roots: Expr) -> Iterator[Expr]:
    """Each distinct node of these trees once, operands before the nodes that use them; however deep they are."""
    seen: set[int] = set()
    waiting = [(root, False) for root in reversed(roots)]
    while waiting:
        node, operands_done = waiting.pop()
        if operands_done:
            yield node
        elif id(node) not in seen:
            seen.add(id(node))
            waiting.append((node, True))
            waiting += [(child, False) for child in reversed(node.children)]


def written_once(*roots: Expr) -> frozenset[int]:
    """Identities of nodes that are read several times, and so large that writing them out each time would not do.

    A chain of sums t + t has as many nodes as steps, and 2^steps paths: where those beyond a size are written once,
    what is written stays in proportion to the nodes. Long chains are cut, too: compilers walk expressions by recursion.
    """
    uses = Counter(id(child) for node in walk(*roots) for child in node.children)
    sizes: dict[int, int] = {}
    found: set[int] = set()
    for node in walk(*roots):
        size = 1 + sum(sizes[id(child)] for child in node.children)
        if size > (_WRITTEN_OUT if uses[id(node)] > 1 else _DEEPEST):
            found.add(id(node))
            size = 1
        sizes[id(node)] = size
    return frozenset(found)


def constants(*roots: Expr) -> list[Array]:
    """The arrays of all affine steps."""
    return [values for node in walk(*roots) if isinstance(node, Affine) for values in (node.mul, node.add)]


def map_constants(change: Callable[[Array], Array], *roots: Expr) -> list[Expr]:
    """The same trees with each array of their affine steps replaced; shared nodes stay shared."""
    made: dict[int, Expr] = {}
    for node in walk(*roots):
        below = {f.name: made[id(v)] for f in fields(node) if isinstance(v := getattr(node, f.name), Expr)}
        if isinstance(node, Affine):
            made[id(node)] = replace(node, **below, mul=change(node.mul), add=change(node.add))
        else:
            made[id(node)] = replace(node, **below) if below else node
    return [made[id(root)] for root in roots]


def evaluate(
    x: Expr, acc: npt.NDArray[np.generic] | None, operands: list[npt.NDArray[np.generic]]
) -> npt.NDArray[np.float32]:
    """The expression's value in numpy float32.

    Args:
        acc: accumulators, int32 or float32, shape of the output (None where the tree has no Acc).
        operands: the tensors that Load nodes name, as stored, broadcastable to the output.
    Returns: float32, shape of the output.
    """
    values: dict[int, npt.NDArray[np.float32]] = {}
    for node in walk(x):
        args = [values[id(child)] for child in node.children]
        values[id(node)] = np.asarray(_evaluate_node(node, args, acc, operands), np.float32)
    return values[id(x)]


def _evaluate_node(
    node: Expr,
    args: list[npt.NDArray[np.float32]],
    acc: npt.NDArray[np.generic] | None,
    operands: list[npt.NDArray[np.generic]],
) -> npt.NDArray[np.generic]:
    match node:
        case Acc():
            if acc is None:
                raise ValueError("the expression reads an accumulator, but none was given")
            return acc.astype(np.float32)
        case Load(index=index):
            return operands[index].astype(np.float32)
        case Affine(mul=mul, add=add):
            return args[0] * mul.astype(np.float32) + add.astype(np.float32)
        case Snap(lo=lo, hi=hi):
            return np.clip(np.rint(args[0]), np.float32(lo), np.float32(hi))
        case Clamp(lo=lo, hi=hi):
            return np.clip(args[0], np.float32(lo), np.float32(hi))
        case Mask():
            return np.where(args[1] > 0, args[0], np.float32(0))
        case Binary(op=op):
            return BINARY[op](*args)
        case Unary(fn=fn):
            return UNARY[fn](args[0])
        case Table(first=first, values=table):
            return table[np.clip(args[0].astype(np.int64) - first, 0, len(table) - 1)]
    raise TypeError(f"no arithmetic for {type(node).__name__}")
