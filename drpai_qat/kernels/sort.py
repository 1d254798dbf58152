"""The largest or smallest elements along one axis, and where they stand: layout [outer, searched, inner].

For several in order, a merge sort of positions, bottom-up: runs of 1, 2, 4 ... positions are merged pairwise, from
one half of a scratch buffer into the other. It takes n * log2(n) steps whatever the data, and equal elements keep
their order, as ONNX asks.
"""

from __future__ import annotations

from typing import Any

from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.loops import Index, function, tasks


def top_k(outer: int, count: int, inner: int, k: int, largest: bool, dtype: str) -> Kernel:
    """The first k elements of each column, sorted, and where they stood.

        values[o, t, i] = in[o, places[o, t, i], i]

    Args:
        count: elements of a column, at least 1.
        k: at most `count`.
        largest: the largest first; else the smallest. Of equal ones the first comes first.
        dtype: of the input, and of `values`.
    Returns: kernel of (data); outputs (outer, k, inner): values, and places as int64.
    """
    passes = (count - 1).bit_length()
    with function("top_k") as builder:
        data = flat_arg("data", (outer, count, inner), dtype)
        values = flat_arg("values", (outer, k, inner), dtype)
        places = flat_arg("places", (outer, k, inner), "int64")
        with tasks(outer * inner, outer * inner * count * max(passes, 1)) as task:
            o, i = tirx.floordiv(task, inner), tirx.floormod(task, inner)
            first = T.Bind(o * (count * inner) + i)
            order = T.alloc_buffer((2 * count,), "int32")
            with T.serial(count) as t:
                T.buffer_store(order, T.Cast("int32", t), [t])
            with T.serial(passes) as number:
                width = T.Bind(tirx.const(1, "int32") << number)
                source = T.Bind(tirx.floormod(number, 2) * count)
                with T.serial(tirx.floordiv(count + 2 * width - 1, 2 * width)) as pair:
                    begin = T.Bind(pair * 2 * width)
                    _merge(data, first, inner, order, source, count, begin, width, largest)
            done = passes % 2 * count
            with T.serial(k) as t:
                place = T.Bind(order[done + t])
                to = T.Bind(o * (k * inner) + t * inner + i)
                T.buffer_store(values, data[first + place * inner], [to])
                T.buffer_store(places, T.Cast("int64", place), [to])
    return Kernel(builder.get(), (), (outer, k, inner), dtype, ("int64",))


def arg_best(outer: int, count: int, inner: int, largest: bool, last: bool, dtype: str) -> Kernel:
    """Where the largest (or smallest) element of each column stands.

    Args:
        count: elements of a column, at least 1.
        last: of equal ones the last; else the first.
        dtype: of the input.
    Returns: kernel of (data); output (outer, inner), int64.
    """
    with function("arg_best") as builder:
        data = flat_arg("data", (outer, count, inner), dtype)
        places = flat_arg("places", (outer, inner), "int64")
        with tasks(outer * inner, outer * inner * count) as task:
            first = T.Bind(tirx.floordiv(task, inner) * (count * inner) + tirx.floormod(task, inner))
            best, place = T.alloc_buffer((1,), dtype), T.alloc_buffer((1,), "int32")
            T.buffer_store(best, data[first], [0])
            T.buffer_store(place, tirx.const(0, "int32"), [0])
            with T.serial(count - 1) as t:
                one, known = T.Bind(data[first + (t + 1) * inner]), T.Bind(best[0])
                if last:
                    better = one >= known if largest else one <= known
                else:
                    better = one > known if largest else one < known
                chosen = T.Bind(better)
                T.buffer_store(best, T.Select(chosen, one, known), [0])
                T.buffer_store(place, T.Select(chosen, t + 1, place[0]), [0])
            T.buffer_store(places, T.Cast("int64", place[0]), [task])
    return Kernel(builder.get(), (), (outer, inner), "int64")


def _merge(
    data: Any,
    first: Index,
    inner: int,
    order: Any,
    source: Index,
    count: int,
    begin: Index,
    width: Index,
    largest: bool,
) -> None:
    """Merge the runs begin .. begin + width and the next one; both may end early, at `count`."""
    middle, end = T.Bind(T.min(begin + width, count)), T.Bind(T.min(begin + 2 * width, count))
    heads = T.alloc_buffer((2,), "int32")
    T.buffer_store(heads, begin, [0])
    T.buffer_store(heads, middle, [1])
    with T.serial(end - begin) as t:
        left, right = T.Bind(heads[0]), T.Bind(heads[1])
        x = T.Bind(order[source + T.min(left, middle - 1)])  # a run that has ended is not chosen, but read
        y = T.Bind(order[source + T.min(right, end - 1)])
        one, other = T.Bind(data[first + x * inner]), T.Bind(data[first + y * inner])
        before = other > one if largest else other < one
        chosen = T.Bind(T.Cast("int32", tirx.And(right < end, tirx.Or(left >= middle, before))))
        T.buffer_store(order, T.Select(chosen > 0, y, x), [count - source + begin + t])
        T.buffer_store(heads, left + 1 - chosen, [0])
        T.buffer_store(heads, right + chosen, [1])
