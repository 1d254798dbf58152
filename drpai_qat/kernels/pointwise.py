"""Elementwise kernels: an epilogue without an accumulator."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.loops import Index, chunks, function, sweep, tasks

Shape = tuple[int, ...]
Values = npt.NDArray[Any]
_REGISTERS = 4


def pointwise(out_shape: Shape, epilogue: Epilogue, isa: Isa) -> Kernel:
    """Compute the epilogue's expression (no Acc in it) for each element of `out_shape`.

    Returns: kernel of the epilogue's operands alone; outputs as the epilogue says.
    """
    dims, collapsed = collapse(epilogue.out_shape or out_shape, epilogue)
    dims, collapsed = _widen_last(dims, collapsed, isa.lanes * _REGISTERS)
    emitter = EpilogueEmitter(collapsed, dims, isa)
    rows, inner = math.prod(dims[:-1]), dims[-1]
    with function("pointwise") as builder:
        emitter.declare_operands()
        emitter.declare_constants()
        emitter.declare_output()
        if rows == 1:
            count, size = chunks(inner, isa.lanes * _REGISTERS)
            with tasks(count, inner) as task:
                _row(emitter, 0, T.Bind(T.min(task * size, inner - size)), size)
        else:
            with tasks(rows, rows * inner) as row:
                _row(emitter, row, 0, inner)
    return Kernel(builder.get(), emitter.constants, out_shape, epilogue.out_dtype, epilogue.more_dtypes)


def _row(emitter: EpilogueEmitter, row: Index, first: Index, count: int) -> None:
    def body(starts: list[Index], lanes: int) -> None:
        emitter.store_vectors(row, [first + start for start in starts], None, lanes)

    sweep(count, emitter.isa.lanes, body, _REGISTERS)


def collapse(out_shape: Shape, epilogue: Epilogue) -> tuple[Shape, Epilogue]:
    """Merge neighbouring dims wherever all operands and constants either have both or broadcast along both.

    Long rows vectorize whatever the channel count, and fewer dims make cheaper indices.
    """
    rank = len(out_shape)
    shapes = [operand.shape for operand in epilogue.operands] + [c.shape for c in E.constants(*epilogue.roots)]
    aligned = [_aligned(shape, rank) for shape in shapes]
    groups: list[list[int]] = []
    for axis, size in enumerate(out_shape):
        if size == 1:
            continue
        if groups and all((shape[axis] == 1) == (shape[groups[-1][0]] == 1) for shape in aligned):
            groups[-1].append(axis)
        else:
            groups.append([axis])

    def merged(shape: Shape) -> Shape:
        full = _aligned(shape, rank)
        return tuple(math.prod(full[axis] for axis in group) for group in groups) or (1,)

    return merged(out_shape), _reshaped(epilogue, merged, lambda values: values.reshape(merged(values.shape)))


def _widen_last(dims: Shape, epilogue: Epilogue, width: int) -> tuple[Shape, Epilogue]:
    """Make a short last dim longer at the cost of the one before it: 3 channels of 100 pixels become 300 / n of n.

    Constants along the last dim alone are repeated; an operand that broadcasts along one of the two forbids it.
    """
    rank = len(dims)
    operands = [_aligned(operand.shape, rank) for operand in epilogue.operands]
    constants = [_aligned(values.shape, rank) for values in E.constants(*epilogue.roots)]
    if rank < 2 or dims[-1] >= width or any((s[-1] == 1) != (s[-2] == 1) for s in operands):
        return dims, epilogue
    if any(s[-1] == 1 and s[-2] > 1 for s in constants):
        return dims, epilogue
    factors = [n for n in range(1, dims[-2] + 1) if dims[-2] % n == 0]
    repeat = next((n for n in factors if n * dims[-1] >= width), dims[-2])

    def longer(shape: Shape) -> Shape:
        full = _aligned(shape, rank)
        return full if full[-1] == 1 else (*full[:-2], full[-2] // repeat, full[-1] * repeat)

    def repeated(values: Values) -> Values:
        full = values.reshape(_aligned(values.shape, rank))
        if full.shape[-2] == 1 and full.shape[-1] > 1:
            return np.tile(full, repeat)
        return full.reshape(longer(full.shape))

    return longer(dims), _reshaped(epilogue, longer, repeated)


def _aligned(shape: Shape, rank: int) -> Shape:
    return (1,) * (rank - len(shape)) + tuple(shape)


def _reshaped(epilogue: Epilogue, shape_of: Callable[[Shape], Shape], constant: Callable[[Values], Values]) -> Epilogue:
    operands = tuple(replace(operand, shape=shape_of(operand.shape)) for operand in epilogue.operands)
    expr, *others = E.map_constants(constant, *epilogue.roots)
    more = tuple(replace(output, expr=root) for output, root in zip(epilogue.more, others, strict=True))
    return replace(epilogue, expr=expr, more=more, operands=operands, out_shape=None)
