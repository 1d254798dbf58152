"""Functions of one 8-bit tensor: whatever the nodes compute, it is a table of 256 entries.

A group of elementwise nodes that depends on one int8 tensor alone is evaluated for its 256 values, by onnxruntime.
TFLite's own operator is written where it computes that very function; else the table itself, read by GATHER: exact by
definition.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from drpai_qat.backends.tflite import grids as G
from drpai_qat.backends.tflite.context import Context, RefusedError, compute_of
from drpai_qat.backends.tflite.grids import LiteGrid, Target
from drpai_qat.backends.tflite.stored import Stored
from drpai_qat.graph.canonical import FAKE_QUANT, Node
from drpai_qat.graph.tables import tabulate

Reals = NDArray[np.float64]

ELEMENTWISE = frozenset(
    ("Add", "Sub", "Mul", "Div", "Min", "Max", "Pow", "Relu", "Clip", "LeakyRelu", "HardSigmoid", "HardSwish", "Swish",
     "Gelu", "Elu", "Celu", "Selu", "Softplus", "Mish", "Softsign", "Sigmoid", "Tanh", "Erf", "Exp", "Log", "Sqrt",
     "Abs", "Neg", "Reciprocal", "Round", "Floor", "Ceil", "PRelu", FAKE_QUANT)
)  # fmt: skip
_MOST = 64  # nodes of one function


@dataclass(frozen=True)
class Function:
    """Nodes that compute a function of one tensor; only the last one's output is read outside."""

    source: str
    nodes: tuple[Node, ...]

    @property
    def output(self) -> str:
        """The tensor that leaves."""
        return self.nodes[-1].output


def find_function(context: Context, start: Node) -> Function | None:
    """The function that starts at a node: up to its first trained rounding, else as far as it goes."""
    data = [name for name in dict.fromkeys(start.inputs) if name and not context.graph.is_constant(name)]
    if len(data) != 1:
        return None
    shape, inside = context.shape(data[0]), {data[0]}
    positions = {node.output: i for i, node in enumerate(context.graph.nodes)}
    members: list[Node] = []
    waiting, seen = [(positions[start.output], start.output)], {start.output}
    while waiting and len(members) < _MOST:
        _, name = heapq.heappop(waiting)
        node = context.producers[name]
        if not _reads_only(context, node, inside) or context.shape(name) != shape:
            continue
        inside.add(name)
        members.append(node)
        for reader in context.consumers.get(name, []):
            if reader.output not in seen:
                seen.add(reader.output)
                heapq.heappush(waiting, (positions[reader.output], reader.output))
    closed = [count for count in range(1, len(members) + 1) if _is_closed(context, members[:count])]
    rounded = [count for count in closed if members[count - 1].op == FAKE_QUANT]
    count = rounded[0] if rounded else closed[-1] if closed else 0
    return Function(data[0], tuple(members[:count])) if count else None


def _reads_only(context: Context, node: Node, inside: set[str]) -> bool:
    if node.op not in ELEMENTWISE or len(node.outputs) != 1:
        return False
    if node.params is not None and node.params.per_channel:
        return False
    for name in node.inputs:
        constant = context.graph.constant(name) if name else None
        if name and name not in inside and (constant is None or constant.size != 1):
            return False
    return True


def _is_closed(context: Context, members: list[Node]) -> bool:
    inside = {node.output for node in members}
    return all(
        node.output not in context.graph.outputs
        and all(reader.output in inside for reader in context.consumers.get(node.output, []))
        for node in members[:-1]
    )


def write_function(context: Context, function: Function, start: Node) -> None:
    """Write a function of an int8 tensor.

    Raises: RefusedError: its source is no int8 tensor.
    """
    source = context.operand(function.source, False)
    grid = source.grid
    if grid is None or grid.dtype != "int8":
        raise RefusedError(f"its input {function.source!r} is int16, of which TFLite has no table")
    steps = np.arange(-128, 128, dtype=np.int64)
    reals = (steps - grid.zero_point).astype(np.float32) * np.float32(grid.scale)
    values = tabulate(context.graph, function.nodes, function.source, reals).astype(np.float64)
    if not np.isfinite(values).all():
        raise RefusedError("it is not finite for every value of its input")
    target = _target(context, function, values)
    table = _quantized(values, target)
    kind, options_table, options = _own_operator(context, function, reals.astype(np.float64), grid, target, table)
    made = context.new(function.output, source.shape, source.order, target.grid)
    if kind:
        context.emit(kind, [source.tensor], [made.tensor], options_table, **options)
        made = context.limited_steps(made, target, function.output)
    else:
        _gather(context, source, made, table)
    context.keep(function.output, made)
    context.done.update(node.output for node in function.nodes)
    context.record(start, compute_of(target.grid), reason="" if kind else "a table: TFLite has no such function")


def _target(context: Context, function: Function, values: Reals) -> Target:
    last = function.nodes[-1]
    if last.op == FAKE_QUANT and last.params is not None:
        found = G.target_of(last.params, float(values.min()), float(values.max()))
        if found is None:
            raise RefusedError(f"the grid of {function.output!r} does not exist in TFLite")
        return found
    grid = context.derived_grid(function.output, float(values.min()), float(values.max()))
    return Target(grid, *grid.limits)


def _quantized(values: Reals, target: Target) -> NDArray[np.signedinteger]:
    grid = target.grid
    steps = np.rint(values.astype(np.float32) / np.float32(grid.scale)).astype(np.float64) + grid.zero_point
    return np.clip(steps, *grid.limits).astype(grid.dtype)


def _gather(context: Context, source: Stored, made: Stored, table: NDArray[np.signedinteger]) -> None:
    """GATHER of the table's entries; its indices are the integers, moved to begin at 0."""
    name = context.file.tensors[source.tensor].name
    integers = context.cast(source.tensor, f"{name}:integers", "int32")
    shape = context.file.shapes[integers]
    index = context.file.tensor(f"{name}:index", shape, "int32")
    offset = context.file.constant("const/128", np.asarray([128], np.int32))
    context.emit("ADD", [integers, offset], [index], "AddOptions")
    entries = context.file.constant(f"{context.file.tensors[made.tensor].name}:table", table, made.grid)
    context.emit("GATHER", [entries, index], [made.tensor], "GatherOptions", axis=0)


def _sigmoid(x: Reals) -> Reals:
    return 1.0 / (1.0 + np.exp(-x))


def _gelu(x: Reals) -> Reals:
    return 0.5 * x * (1.0 + np.vectorize(math.erf)(x / math.sqrt(2.0)))


def _gelu_tanh(x: Reals) -> Reals:
    return 0.5 * x * (1.0 + np.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * x**3)))


# TFLite's operators whose int8 kernels look up a table that they fill in float32: any grids, one rounding.
_TABLES: dict[str, tuple[Callable[[Reals], Reals], tuple[str, dict[str, bool]]]] = {
    "TANH": (np.tanh, ("", {})),
    "LOGISTIC": (_sigmoid, ("", {})),
    "GELU": (_gelu, ("GeluOptions", {"approximate": False})),
    "GELU_TANH": (_gelu_tanh, ("GeluOptions", {"approximate": True})),
    "ELU": (lambda x: np.where(x < 0, np.expm1(x), x), ("", {})),
}


def _own_operator(
    context: Context, function: Function, reals: Reals, grid: LiteGrid, target: Target,
    table: NDArray[np.signedinteger],
) -> tuple[str, str, dict[str, bool]]:  # fmt: skip
    """TFLite's operator that computes this function, and its options; "" where there is none."""
    if target.grid.dtype != "int8":
        return "", "", {}
    for name, (compute, options) in _TABLES.items():
        own = _quantized(compute(reals), target)
        own = np.clip(own, target.low, target.high)
        off = np.abs(own.astype(np.int64) - table)
        if off.max() > 1 or (off > 0).sum() > 1:  # one entry may be a tie that float32 decides
            continue
        if name in ("LOGISTIC", "TANH") and not _has_fixed_grid(name, target.grid):
            continue
        return "GELU" if name == "GELU_TANH" else name, *options
    return "", "", {}


def write_float_gelu(context: Context, start: Node) -> bool:
    """GELU out of the steps that exporters make of it, in float32: TFLite has no Erf, and a GELU."""
    function = find_function(context, start)
    if function is None or not any(node.op == "Erf" for node in function.nodes):
        return False
    nodes = function.nodes[:-1] if function.nodes[-1].op == FAKE_QUANT else function.nodes
    reals = np.linspace(-8, 8, 257, dtype=np.float32)
    values = tabulate(context.graph, nodes, function.source, reals)
    if any(node.op == FAKE_QUANT for node in nodes) or not np.allclose(values, _gelu(reals.astype(float)), atol=1e-5):
        return False
    source = context.operand(function.source, True)
    made = context.new(nodes[-1].output, source.shape, source.order, None)
    context.emit("GELU", [source.tensor], [made.tensor], "GeluOptions", approximate=False)
    context.keep(nodes[-1].output, made)
    context.done.update(node.output for node in nodes)
    context.record(start, "float32")
    return True


def _has_fixed_grid(kind: str, grid: LiteGrid) -> bool:
    """The plain kernels of LOGISTIC and TANH give this grid alone."""
    scale, zero_point = (1 / 256, -128) if kind == "LOGISTIC" else (1 / 128, 0)
    return grid.scale == scale and grid.zero_point == zero_point
