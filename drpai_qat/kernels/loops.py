"""Building blocks shared by the kernels that are not convolutions: function frames, vector loops, tasks for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.isa import Isa, Vector, span, vector

Index = Any  # a TIR index expression or a Python int
BYTES = {"uint8": 1, "int8": 1, "bool": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "int64": 8}
_CHUNKS = 8  # parts of a long run: enough for several threads, few enough to cost nothing
_FOLDED = 16  # partial results of a reduction: the lanes of the widest instruction set
_PARALLEL_WORK = 1 << 14  # elements below which waking a second thread costs more than it saves


@contextmanager
def function(name: str) -> Iterator[IRBuilder]:
    """A function under construction; `.get()` of the builder is the result, after the block."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        yield builder


class Registers:
    """Vectors that a loop updates: a small buffer, which TVM puts on the stack and LLVM keeps in registers.

    (With scope "local", TVM would call for workspace each time.)
    """

    def __init__(self, count: int, lanes: int, dtype: str) -> None:
        self._lanes, self._kind = lanes, vector(dtype, lanes)
        self._buffer = T.alloc_buffer((count * lanes,), dtype)

    def __getitem__(self, index: int) -> Vector:
        return self._buffer.vload([index * self._lanes], self._kind)

    def __setitem__(self, index: int, value: Vector) -> None:
        T.buffer_store(self._buffer, value, [span(index * self._lanes, self._lanes)])

    def lane(self, index: Index) -> Vector:
        """One element, whichever register it is in."""
        return self._buffer[index]


def tasks(extent: int, work: int) -> Any:
    """A loop over `extent` tasks, shared by the threads when the whole of them (`work` elements) is worth it."""
    return T.parallel(extent) if extent > 1 and work >= _PARALLEL_WORK else T.serial(extent)


def sweep(count: int, lanes: int, body: Callable[[list[Index], int], None], registers: int = 1) -> None:
    """Call body(starts, width) so that vectors of `width` elements at `starts` cover 0..count.

    With at least one full vector the last ones start early and overlap their neighbours, so the body may see an element
    twice and must not read what it writes. Shorter counts are cut into powers of two.

    Args:
        registers: full vectors handed out together.
    """
    if count < lanes:
        done = 0
        while done < count:
            width = 1 << (count - done).bit_length() - 1
            body([done], width)
            done += width
        return
    tile = lanes * registers
    if count >= tile:
        with T.serial(count // tile) as i:
            first = T.Bind(i * tile)
            body([first + j * lanes for j in range(registers)], lanes)
    rest = count % tile
    if rest:
        body([min(count - rest + j * lanes, count - lanes) for j in range(-(-rest // lanes))], lanes)


def chunks(count: int, lanes: int) -> tuple[int, int]:
    """(number, elements) of the equal parts into which a long run is cut for threads; they may overlap at the end."""
    if count < _PARALLEL_WORK:
        return 1, count
    size = -(-count // _CHUNKS // lanes) * lanes
    return -(-count // size), size


def byte_lanes(isa: Isa, dtype: str) -> int:
    """Elements of one vector register."""
    return isa.lanes * 4 // BYTES[dtype]


def copy_run(data: Any, source: Index, out: Any, target: Index, count: int, dtype: str, isa: Isa) -> None:
    """Copy `count` neighbouring elements between flat buffers."""

    def body(starts: list[Index], lanes: int) -> None:
        for start in starts:
            T.buffer_store(out, data.vload([source + start], vector(dtype, lanes)), [span(target + start, lanes)])

    sweep(count, byte_lanes(isa, dtype), body, 4)


def copy(data: Any, out: Any, count: int, dtype: str, isa: Isa) -> None:
    """Copy a whole flat buffer, shared by the threads."""
    number, size = chunks(count, byte_lanes(isa, dtype))
    with tasks(number, count) as task:
        start = T.Bind(T.min(task * size, count - size))
        copy_run(data, start, out, start, size, dtype, isa)


def fold(
    count: int,
    lanes: int,
    dtype: str,
    value: Callable[[Index, int], Vector],
    combine: Callable[[Vector, Vector], Vector],
) -> Vector:
    """Scalar: value(start, width) over the positions 0..count, combined; each position once.

    Positions are combined in the same order whatever the lanes are, so that float sums agree between instruction sets.
    """
    total = Registers(1, 1, dtype)
    registers = _FOLDED // lanes
    done = count // _FOLDED * _FOLDED
    if done:
        wide = Registers(registers, lanes, dtype)
        for j in range(registers):
            wide[j] = value(j * lanes, lanes)
        with T.serial(count // _FOLDED - 1) as i:
            for j in range(registers):
                wide[j] = combine(wide[j], value((i + 1) * _FOLDED + j * lanes, lanes))
        total[0] = wide.lane(0)
        for k in range(1, _FOLDED):
            total[0] = combine(total[0], wide.lane(k))
    else:
        done = 1
        total[0] = value(0, 1)
    some = (count - done) // lanes * lanes
    if some:
        part = Registers(1, lanes, dtype)
        with T.serial(some // lanes) as i:
            part[0] = value(done + i * lanes, lanes)
            for k in range(lanes):
                total[0] = combine(total[0], part.lane(k))
    with T.serial(count - done - some) as i:
        total[0] = combine(total[0], value(done + some + i, 1))
    return T.Bind(total[0])
