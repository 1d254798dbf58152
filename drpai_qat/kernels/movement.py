"""Kernels that only move data: dtypes of 1, 2, 4 or 8 bytes, flat row-major buffers."""

from __future__ import annotations

import math
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels import loops
from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, splat
from drpai_qat.kernels.loops import Index, copy_run, function, tasks
from drpai_qat.kernels.transpose import transpose

__all__ = ["concat", "copy", "expand", "gather", "pad", "slice_", "transpose"]

Shape = tuple[int, ...]


def _strides(shape: Shape) -> list[int]:
    return [math.prod(shape[i + 1 :]) for i in range(len(shape))]


def _coordinates(index: Index, shape: Shape) -> list[Any]:
    """Coordinates of a row-major index."""
    return [
        tirx.floormod(tirx.floordiv(index, stride), size) for stride, size in zip(_strides(shape), shape, strict=True)
    ]


def _dot(coordinates: list[Any], strides: list[int]) -> Any:
    total: Any = 0
    for coordinate, stride in zip(coordinates, strides, strict=True):
        total = total + coordinate * stride
    return total


def copy(size: int, dtype: str, isa: Isa) -> Kernel:
    """out = in."""
    with function("copy") as builder:
        data, out = flat_arg("data", (size,), dtype), flat_arg("out", (size,), dtype)
        loops.copy(data, out, size, dtype, isa)
    return Kernel(builder.get(), (), (size,), dtype)


def concat(shapes: tuple[Shape, ...], axis: int, dtype: str, isa: Isa) -> Kernel:
    """Join tensors of equal shapes but for `axis`; kernel of as many inputs as shapes."""
    out_shape = (*shapes[0][:axis], sum(shape[axis] for shape in shapes), *shapes[0][axis + 1 :])
    outer, width = math.prod(out_shape[:axis]), math.prod(out_shape[axis:])
    with function("concat") as builder:
        inputs = [flat_arg(f"data{i}", shape, dtype) for i, shape in enumerate(shapes)]
        out = flat_arg("out", out_shape, dtype)
        with tasks(outer, math.prod(out_shape)) as task:
            done = 0
            for data, shape in zip(inputs, shapes, strict=True):
                count = math.prod(shape[axis:])
                copy_run(data, task * count, out, task * width + done, count, dtype, isa)
                done += count
    return Kernel(builder.get(), (), out_shape, dtype)


def slice_(shape: Shape, starts: Shape, sizes: Shape, steps: Shape, dtype: str, isa: Isa) -> Kernel:
    """out[i, ...] = in[starts[0] + i * steps[0], ...]; steps may be negative; out_shape is `sizes`."""
    strides = [stride * step for stride, step in zip(_strides(shape), steps, strict=True)]
    first = _dot(list(starts), _strides(shape))
    with function("slice") as builder:
        data, out = flat_arg("data", shape, dtype), flat_arg("out", sizes, dtype)
        inner = sizes[-1]
        with tasks(math.prod(sizes[:-1]), math.prod(sizes)) as task:
            source = T.Bind(first + _dot(_coordinates(task, sizes[:-1]), strides[:-1]))
            if strides[-1] == 1:
                copy_run(data, source, out, task * inner, inner, dtype, isa)
            else:
                with T.serial(inner) as i:
                    T.buffer_store(out, data[source + i * strides[-1]], [task * inner + i])
    return Kernel(builder.get(), (), sizes, dtype)


def gather(shape: Shape, axis: int, indices: npt.NDArray[np.integer[Any]], dtype: str, isa: Isa) -> Kernel:
    """ONNX Gather with constant, non-negative indices: they replace `axis` by their own shape."""
    out_shape = (*shape[:axis], *indices.shape, *shape[axis + 1 :])
    outer, inner, count = math.prod(shape[:axis]), math.prod(shape[axis + 1 :]), indices.size
    with function("gather") as builder:
        data = flat_arg("data", shape, dtype)
        table = flat_arg("indices", (count,), "int32")
        out = flat_arg("out", out_shape, dtype)
        with tasks(outer * count, math.prod(out_shape)) as task:
            row, index = tirx.floordiv(task, count), tirx.floormod(task, count)
            source = T.Bind((row * shape[axis] + table[index]) * inner)
            copy_run(data, source, out, task * inner, inner, dtype, isa)
    return Kernel(builder.get(), (indices.astype(np.int32).reshape(-1),), out_shape, dtype)


def pad(
    shape: Shape,
    before: Shape,
    after: Shape,
    mode: Literal["constant", "reflect", "edge"],
    value: float,
    dtype: str,
    isa: Isa,
) -> Kernel:
    """ONNX Pad with non-negative pads; `value` in the units of the stored dtype."""
    out_shape = tuple(b + size + a for b, size, a in zip(before, shape, after, strict=True))
    with function("pad") as builder:
        data = flat_arg("data", shape, dtype)
        fill = flat_arg("value", (1,), dtype)
        out = flat_arg("out", out_shape, dtype)
        rows, inner = math.prod(out_shape[:-1]), out_shape[-1]
        with tasks(rows, math.prod(out_shape)) as task, T.serial(inner) as i:
            coordinates = _coordinates(task * inner + i, out_shape)
            sources, inside = [], tirx.const(True, "bool")
            for position, start, size in zip(coordinates, before, shape, strict=True):
                at = position - start
                if mode == "reflect":
                    at = T.max(at, 0 - at)
                    at = T.min(at, 2 * (size - 1) - at)
                elif mode == "constant":
                    inside = tirx.all(inside, at >= 0, at < size)
                sources.append(T.max(T.min(at, size - 1), 0))
            index = _dot(sources, _strides(shape))
            T.buffer_store(out, T.Select(inside, data[index], fill[0]), [task * inner + i])
    return Kernel(builder.get(), (np.asarray([value], dtype),), out_shape, dtype)


def expand(shape: Shape, out_shape: Shape, dtype: str, isa: Isa) -> Kernel:
    """Repeat: dims of 1 broadcast (ONNX Expand), others repeat as a whole (ONNX Tile); ranks are equal."""
    with function("expand") as builder:
        data, out = flat_arg("data", shape, dtype), flat_arg("out", out_shape, dtype)
        inner = out_shape[-1]
        with tasks(math.prod(out_shape[:-1]), math.prod(out_shape)) as task:
            coordinates = [tirx.floormod(c, s) for c, s in zip(_coordinates(task, out_shape[:-1]), shape, strict=False)]
            source = T.Bind(_dot(coordinates, _strides(shape)[:-1]))
            with T.serial(inner // shape[-1]) as repeat:
                _copy_or_fill(data, source, out, task * inner + repeat * shape[-1], shape[-1], dtype, isa)
    return Kernel(builder.get(), (), out_shape, dtype)


def _copy_or_fill(data: Any, source: Index, out: Any, target: Index, count: int, dtype: str, isa: Isa) -> None:
    if count == 1:
        T.buffer_store(out, splat(data[source], 1), [target])
    else:
        copy_run(data, source, out, target, count, dtype, isa)
