"""Building blocks shared by the kernels that are not convolutions: function frames, vector loops, tasks for threads."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from tvm.script.ir_builder import IRBuilder
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.isa import Isa

Index = Any  # a TIR index expression or a Python int
BYTES = {"uint8": 1, "int8": 1, "bool": 1, "int16": 2, "uint16": 2, "int32": 4, "uint32": 4, "float32": 4, "int64": 8}
_PARALLEL_WORK = 1 << 14  # elements below which waking a second thread costs more than it saves


@contextmanager
def function(name: str) -> Iterator[IRBuilder]:
    """A function under construction; `.get()` of the builder is the result, after the block."""
    with IRBuilder() as builder, T.prim_func(s_tir=True):
        T.func_name(name)
        T.func_attr({"global_symbol": name, "tirx.noalias": True})
        yield builder


def tasks(extent: int, work: int) -> Any:
    """A loop over `extent` tasks, shared by the threads when the whole of them (`work` elements) is worth it."""
    return T.parallel(extent) if extent > 1 and work >= _PARALLEL_WORK else T.serial(extent)


def sweep(count: int, lanes: int, body: Callable[[Index, int], None]) -> None:
    """Call body(start, width) so that the vectors cover 0..count.

    With at least one full vector the last one starts early and overlaps its neighbour, so the body may run twice on an
    element and must not read what it writes. Shorter counts are cut into powers of two.
    """
    if count >= lanes:
        with T.serial(-(-count // lanes)) as i:
            body(i * lanes if count % lanes == 0 else T.Bind(T.min(i * lanes, count - lanes)), lanes)
        return
    done = 0
    while done < count:
        width = 1 << (count - done).bit_length() - 1
        body(done, width)
        done += width


def byte_lanes(isa: Isa, dtype: str) -> int:
    """Elements of one vector register."""
    return isa.lanes * 4 // BYTES[dtype]
