"""Where a network's intermediate tensors lie: in blocks of memory that tensors share which do not live together.

TVM's own planner gives a block to later tensors of the same type only, which takes up to 2.5 times the memory that is
alive at once. Here any type may follow any other. A tensor starts where its block does: kernels take no offsets.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from drpai_qat.size import MemoryUse

_WASTE = 1.25
"""A result may keep a block alive that is so much larger than itself."""


@dataclass(frozen=True)
class Lifetime:
    """One tensor.

    Attributes:
        size: bytes.
        first, last: the steps between which it is needed, both included.
        outlives: it is returned, and keeps its block for as long as the caller keeps it.
    """

    size: int
    first: int
    last: int
    outlives: bool = False


def place(tensors: Sequence[Lifetime]) -> tuple[list[int], list[int]]:
    """The block of each tensor, and the size of each block.

    Three heuristics, and whichever needs least; on our models that is up to 1.5 times what is alive at once.
    Source: Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020: "shared objects", greedy
    by size and by breadth; the third takes tensors as they come and wastes as little as it can.
    """
    alive = _totals(tensors)
    breadth = [max(alive[tensor.first : tensor.last + 1]) for tensor in tensors]
    by_size = sorted(range(len(tensors)), key=lambda i: -tensors[i].size)
    by_breadth = sorted(by_size, key=lambda i: -breadth[i])
    return min(
        (
            _assign(tensors, by_size, lambda size, block, gap: (max(size - block, 0), gap)),
            _assign(tensors, by_breadth, lambda size, block, gap: (max(size - block, 0), gap)),
            _assign(tensors, range(len(tensors)), lambda size, block, gap: (max(size - block, 0), block)),
        ),
        key=lambda found: sum(found[1]),
    )


def _assign(
    tensors: Sequence[Lifetime], order: Iterable[int], cost: Callable[[int, int, int], tuple[int, int]]
) -> tuple[list[int], list[int]]:
    """Each tensor in turn joins the cheapest block that is free for all its life, or gets one of its own.

    Args:
        cost: of a tensor's size, the block's, and the steps to the nearest tensor in it: growth first.
    """
    chosen = [0] * len(tensors)
    blocks: list[list[Lifetime]] = []
    sizes: list[int] = []
    for i in order:
        tensor, best = tensors[i], (tensors[i].size, 0)
        chosen[i] = len(blocks)
        for number, block in enumerate(blocks):
            gap = min(max(other.first - tensor.last, tensor.first - other.last) for other in block)
            size = max(sizes[number], tensor.size)
            if gap <= 0 or any(other.outlives and size > _WASTE * other.size for other in (tensor, *block)):
                continue
            price = cost(tensor.size, sizes[number], gap)
            if price < best:
                best, chosen[i] = price, number
        if chosen[i] == len(blocks):
            blocks.append([])
            sizes.append(0)
        blocks[chosen[i]].append(tensor)
        sizes[chosen[i]] = max(sizes[chosen[i]], tensor.size)
    return chosen, sizes


def largest_live(tensors: Sequence[Lifetime]) -> int:
    """The largest total of sizes at one step."""
    return max(_totals(tensors), default=0)


def _totals(tensors: Sequence[Lifetime]) -> list[int]:
    """Bytes alive at each step."""
    totals = [0] * (max((tensor.last for tensor in tensors), default=-1) + 1)
    for tensor in tensors:
        for step in range(tensor.first, tensor.last + 1):
            totals[step] += tensor.size
    return totals


@dataclass
class PlanMemory:
    """A pass after CallTIRRewrite: tensors that a function allocates get their place in its block.

    Attributes:
        use: of all functions seen; read it when the pass has run.
    """

    use: MemoryUse = field(default_factory=MemoryUse)

    def as_pass(self) -> tvm.transform.Pass:
        """For a pipeline."""
        return tvm.transform.module_pass(self._run, opt_level=0, name="drpai_qat.PlanMemory")

    def _run(self, module: tvm.IRModule, context: object) -> tvm.IRModule:
        result = tvm.IRModule(dict(module.functions.items()), attrs=module.attrs)
        for var, function in module.functions.items():
            if isinstance(function, relax.Function):
                tensors = _lifetimes(function)
                chosen, sizes = place(tensors)
                self.use += MemoryUse(sum(sizes), largest_live(tensors))
                result[var] = _Placed(chosen, sizes).visit_expr(function)
        return result


def _lifetimes(function: relax.Function) -> list[Lifetime]:
    """Tensors that a function allocates, in the order of their allocation."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    holds: dict[relax.Var, frozenset[int]] = {}  # tensors whose memory a variable may show
    allocated: list[tuple[int, int]] = []
    last: dict[int, int] = {}
    for step, binding in enumerate(bindings):
        value = binding.value
        if _allocates(value):
            holds[binding.var] = frozenset([len(allocated)])
            last[len(allocated)] = step
            allocated.append((_bytes(value), step))
            continue
        # A call may return a view of any argument.
        holds[binding.var] = _held(value, holds)
        last.update(dict.fromkeys(holds[binding.var], step))
    returned = _held(function.body.body, holds)
    end = len(bindings)
    return [
        Lifetime(size, first, end if i in returned else last[i], i in returned)
        for i, (size, first) in enumerate(allocated)
    ]


def _held(expr: relax.Expr, holds: dict[relax.Var, frozenset[int]]) -> frozenset[int]:
    found: set[int] = set()
    relax.analysis.post_order_visit(
        expr, lambda e: found.update(holds.get(e, ())) if isinstance(e, relax.Var) else None
    )
    return frozenset(found)


def _allocates(expr: relax.Expr) -> bool:
    """A tensor of known size; TVM's planner sees to others."""
    known = isinstance(expr, relax.Call) and expr.op == tvm.ir.Op.get("relax.builtin.alloc_tensor")
    return known and all(isinstance(dim, tvm.tirx.IntImm) for dim in expr.args[0].values)


def _bytes(call: relax.Call) -> int:
    shape, dtype = call.args[0], call.args[1].value
    return math.prod(int(dim) for dim in shape.values) * np.dtype(str(dtype)).itemsize


@relax.expr_functor.mutator
class _Placed(relax.PyExprMutator):  # type: ignore[misc]
    """Allocations, in their order, replaced by blocks, each allocated when it is first needed."""

    def __init__(self, chosen: Iterable[int], sizes: Sequence[int]) -> None:
        super().__init__()
        self._chosen = iter(chosen)
        self._sizes = sizes
        self._blocks: dict[int, relax.Var] = {}

    def visit_call_(self, call: relax.Call) -> relax.Expr:
        if not _allocates(call):
            return super().visit_call_(call)
        number = next(self._chosen)
        if number not in self._blocks:
            size = relax.ShapeExpr([self._sizes[number]])
            self._blocks[number] = self.builder_.emit(relax.op.memory.alloc_storage(size, 0, "global", "uint8"))
        return relax.op.memory.alloc_tensor(self._blocks[number], 0, call.args[0], call.args[1].value)
