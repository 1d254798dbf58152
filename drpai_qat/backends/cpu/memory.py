"""Where a network's intermediate tensors lie: in blocks of memory, shared by tensors that are not
needed at the same time.

TVM's own planner gives a block to later tensors of the same type only, which takes up to 2.5 times the memory in use at
any one time. Here any type may follow any other. A tensor starts where its block does: kernels take no offsets.
"""

from __future__ import annotations

import bisect
import math
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import tvm
from tvm import relax

from drpai_qat.report.size import MemoryUse

_WASTE = 1.25
"""A result that its caller keeps may hold on to a block that is so many times its own size."""

WHOLE = "main"
"""The function that calls all others."""

_NOISY = 32  # orders with noise
_WORK = 20_000  # tensors placed in them at most
_NEVER = 1 << 60


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

    Tensors are placed in several orders, and the result that needs least is taken; on most of our models that is below
    1.3 times the memory in use at any one time.
    Source: Pisarchyk and Lee, Efficient Memory Management for Deep Neural Net Inference, 2020: "shared objects", greedy
    by size and by breadth. To these come the order of time, and orders by size with some noise.
    """
    return min((_assign(tensors, order) for order in _orders(tensors)), key=lambda found: sum(found[1]))


def _orders(tensors: Sequence[Lifetime]) -> Iterator[list[int]]:
    indices = list(range(len(tensors)))
    yield indices
    by_size = sorted(indices, key=lambda i: -tensors[i].size)
    yield by_size
    alive = _totals(tensors)
    breadth = [max(alive[tensor.first : tensor.last + 1]) for tensor in tensors]
    yield sorted(by_size, key=lambda i: -breadth[i])
    generator = random.Random(0)  # the same network always gets the same places
    for _ in range(min(_NOISY, _WORK // max(1, len(tensors)))):
        noisy = [tensor.size * generator.uniform(0.6, 1) for tensor in tensors]
        yield sorted(indices, key=lambda i: -noisy[i])


@dataclass
class _Block:
    """Tensors that live one after another, in the order of time; `limit`: what a result among them bears."""

    size: int
    limit: float
    firsts: list[int]
    lasts: list[int]

    def gap(self, tensor: Lifetime) -> int:
        """Steps between its life and the nearest other's; 0 or less where they overlap."""
        at = bisect.bisect(self.firsts, tensor.first)
        after = self.firsts[at] - tensor.last if at < len(self.firsts) else _NEVER
        return min(after, tensor.first - self.lasts[at - 1] if at else _NEVER)

    def add(self, tensor: Lifetime) -> None:
        at = bisect.bisect(self.firsts, tensor.first)
        self.firsts.insert(at, tensor.first)
        self.lasts.insert(at, tensor.last)
        self.size = max(self.size, tensor.size)
        self.limit = min(self.limit, _limit(tensor))


def _assign(tensors: Sequence[Lifetime], order: Iterable[int]) -> tuple[list[int], list[int]]:
    """Each tensor in turn joins the free block that grows least, then the one least idle; or gets one of its own."""
    chosen = [0] * len(tensors)
    blocks: list[_Block] = []
    for i in order:
        tensor = tensors[i]
        best, chosen[i] = (tensor.size, 0), len(blocks)
        for number, block in enumerate(blocks):
            gap, size = block.gap(tensor), max(block.size, tensor.size)
            if gap > 0 and size <= min(block.limit, _limit(tensor)) and (size - block.size, gap) < best:
                best, chosen[i] = (size - block.size, gap), number
        if chosen[i] == len(blocks):
            blocks.append(_Block(0, math.inf, [], []))
        blocks[chosen[i]].add(tensor)
    return chosen, [block.size for block in blocks]


def _limit(tensor: Lifetime) -> float:
    return _WASTE * tensor.size if tensor.outlives else math.inf


def largest_live(tensors: Sequence[Lifetime]) -> int:
    """The largest total of sizes at one step."""
    return max(_totals(tensors), default=0)


def _totals(tensors: Sequence[Lifetime]) -> list[int]:
    """Bytes in use at each step."""
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
                by_step = _by_step(function, tensors) if var.name_hint == WHOLE else ()
                self.use += MemoryUse(sum(sizes), largest_live(tensors), by_step)
                result[var] = _Placed(chosen, sizes).visit_expr(function)
        return result


def _by_step(function: relax.Function, tensors: Sequence[Lifetime]) -> tuple[int, ...]:
    """Bytes in use at each call of a kernel, or of a function that stands for one."""
    bindings = [binding for block in function.body.blocks for binding in block.bindings]
    totals = [*_totals(tensors), *[0] * len(bindings)]
    calls = (i for i, one in enumerate(bindings) if isinstance(one.value, relax.Call))
    return tuple(totals[i] for i in calls if isinstance(bindings[i].value.op, tvm.ir.GlobalVar))


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
