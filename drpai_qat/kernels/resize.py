"""Resize of channels-last images; the caller computes the coordinates, so every ONNX mode is one of these two."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg, largest_acc
from drpai_qat.kernels.isa import Isa, Vector, splat, vector
from drpai_qat.kernels.loops import Index, copy_run, function, sweep, tasks

Integers = npt.NDArray[np.integer[Any]]


@dataclass(frozen=True, eq=False)
class Blend:
    """Linear interpolation along one axis: out[i] = in[left[i]] * (1 - weight[i]) + in[right[i]] * weight[i].

    Attributes:
        left, right: int, shape (out size,); indices within the input.
        weight: float, shape (out size,).
    """

    left: Integers
    right: Integers
    weight: npt.NDArray[np.floating[Any]]


def resize_nearest(shape: tuple[int, int, int, int], rows: Integers, columns: Integers, dtype: str, isa: Isa) -> Kernel:
    """out[n, y, x] = in[n, rows[y], columns[x]]; shape (N, H, W, C), output (N, len(rows), len(columns), C)."""
    batch, height, width, channels = shape
    out_shape = (batch, len(rows), len(columns), channels)
    with function("resize_nearest") as builder:
        data = flat_arg("data", shape, dtype)
        row_map, column_map = flat_arg("rows", (len(rows),), "int32"), flat_arg("columns", (len(columns),), "int32")
        out = flat_arg("out", out_shape, dtype)
        with tasks(batch * len(rows), math.prod(out_shape)) as task:
            image, y = tirx.floordiv(task, len(rows)), tirx.floormod(task, len(rows))
            base = T.Bind((image * height + row_map[y]) * (width * channels))
            with T.serial(len(columns)) as x:
                source = T.Bind(base + column_map[x] * channels)
                target = T.Bind((task * len(columns) + x) * channels)

                copy_run(data, source, out, target, channels, dtype, isa)
    return Kernel(builder.get(), (rows.astype(np.int32), columns.astype(np.int32)), out_shape, dtype)


def resize_linear(
    shape: tuple[int, int, int, int],
    rows: Blend,
    columns: Blend,
    in_dtype: str,
    epilogue: Epilogue,
    isa: Isa,
    zero_point: int = 0,
) -> Kernel:
    """Bilinear interpolation of the stored numbers.

        acc = float32: blend along columns of the blends along rows, of input - zero_point

    Args:
        shape: (N, H, W, C).
        in_dtype: uint8, int8, int16 or float32.
        zero_point: of the input.
    Returns: kernel of (data); output (N, len(rows.left), len(columns.left), C).
    """
    batch, height, width, channels = shape
    out_height, out_width = len(rows.left), len(columns.left)
    out_shape = (batch, out_height, out_width, channels)
    emitter = EpilogueEmitter(epilogue, out_shape, isa, largest_acc(in_dtype))
    with function("resize_linear") as builder:
        data = flat_arg("data", shape, in_dtype)
        emitter.declare_operands()
        row_map = flat_arg("rows", (2 * out_height,), "int32")
        column_map = flat_arg("columns", (2 * out_width,), "int32")
        row_weight = flat_arg("row_weights", (out_height,), "float32")
        column_weight = flat_arg("column_weights", (out_width,), "float32")
        zero = flat_arg("zero_point", (1,), "float32")
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(batch * out_height, math.prod(out_shape)) as task:
            image, y = tirx.floordiv(task, out_height), tirx.floormod(task, out_height)
            bases = [T.Bind((image * height + row_map[y + i * out_height]) * (width * channels)) for i in (0, 1)]
            with T.serial(out_width) as x:
                columns_at = [T.Bind(column_map[x + i * out_width] * channels) for i in (0, 1)]

                def body(starts: list[Index], lanes: int) -> None:
                    down, across = splat(row_weight[y], lanes), splat(column_weight[x], lanes)

                    def value(start: Index) -> Vector:
                        def load(at: Index) -> Vector:
                            return T.Cast(vector("float32", lanes), data.vload([at + start], vector(in_dtype, lanes)))

                        edges = []
                        for column in columns_at:
                            upper = T.Bind(load(bases[0] + column))
                            centred = upper - splat(zero[0], lanes) if zero_point else upper
                            edges.append(T.Bind(centred + (load(bases[1] + column) - upper) * down))
                        return T.Bind(edges[0] + (edges[1] - edges[0]) * across)

                    values = [value(start) for start in starts]
                    emitter.store_vectors(task * out_width + x, starts, values, lanes)

                sweep(channels, isa.lanes, body, 4)
    maps = [np.concatenate([axis.left, axis.right]).astype(np.int32) for axis in (rows, columns)]
    weights = [axis.weight.astype(np.float32) for axis in (rows, columns)]
    constants = (*maps, *weights, np.asarray([zero_point], np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, out_shape, epilogue.out_dtype, epilogue.more_dtypes)
