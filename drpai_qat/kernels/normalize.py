"""Softmax and normalizations: float32 inside, integers or float32 outside. Layout [outer, size, inner]."""

from __future__ import annotations

from typing import Any

import numpy as np
from tvm import tirx
from tvm.tirx.script.builder import ir as T

from drpai_qat.kernels.emit import exp
from drpai_qat.kernels.epilogue import Epilogue, EpilogueEmitter, Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, Vector
from drpai_qat.kernels.loops import Index, function, tasks


def softmax(
    outer: int,
    size: int,
    inner: int,
    in_dtype: str,
    scale: float,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
    log: bool = False,
) -> Kernel:
    """Softmax over the middle dim.

        acc[o, a, i] = exp(r[o, a, i]) / sum over a of exp(r[o, a, i]),   r = scale * (in - zero_point)

    Args:
        in_dtype: uint8, int8, int16, uint16 or float32 (scale 1, zero point 0).
        log: acc is the logarithm of the probability.
    Returns: kernel of (data); output (outer, size, inner), or (outer, size) where inner is 1.
    """
    shape = (outer, size) if inner == 1 else (outer, size, inner)
    emitter = EpilogueEmitter(epilogue, shape, isa)
    with function("softmax") as builder:
        data = flat_arg("data", (outer, size, inner), in_dtype)
        emitter.declare_operands()
        numbers = flat_arg("numbers", (2,), "float32")
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(outer, outer * size * inner * 8) as o, T.serial(inner) as i:
            state = T.alloc_buffer((2,), "float32", scope="local")

            def load(a: Any) -> Vector:
                return T.Cast("float32", data[(o * size + a) * inner + i])

            T.buffer_store(state, load(0), [0])
            with T.serial(size) as a:
                T.buffer_store(state, T.max(state[0], load(a)), [0])
            T.buffer_store(state, T.float32(0), [1])
            with T.serial(size) as a:
                T.buffer_store(state, state[1] + exp(isa, (load(a) - state[0]) * numbers[0], 1), [1])
            with T.serial(size) as a:
                x = T.Bind((load(a) - state[0]) * numbers[0])
                value = x - tirx.op.log(state[1]) if log else exp(isa, x, 1) / state[1]
                if inner == 1:
                    emitter.store(o, a, value, 1)
                else:
                    emitter.store(o * size + a, i, value, 1)
    constants = (np.asarray([scale, zero_point], np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, shape, epilogue.out_dtype)


def layer_norm(
    rows: int,
    size: int,
    epsilon: float,
    in_dtype: str,
    scale: float,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
) -> Kernel:
    """Normalize each row to mean 0 and variance 1; gamma and beta are the epilogue's affine step.

        acc[r, c] = (x[r, c] - mean_r) / sqrt(variance_r + epsilon),   x = scale * (in - zero_point)

    Args:
        in_dtype: uint8, int8, int16, uint16 or float32 (scale 1, zero point 0).
    Returns: kernel of (data); output (rows, size).
    """
    shape = (rows, size)
    emitter = EpilogueEmitter(epilogue, shape, isa)
    with function("layer_norm") as builder:
        data = flat_arg("data", (rows, size), in_dtype)
        emitter.declare_operands()
        numbers = flat_arg("numbers", (2,), "float32")
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(rows, rows * size * 4) as row:
            _normalize(emitter, data, numbers, row * size, 1, size, size, row, 0)
    # variance(x) = scale^2 * variance(in): normalize the raw numbers with epsilon / scale^2.
    constants = (np.asarray([epsilon / scale**2, 1.0 / size], np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, shape, epilogue.out_dtype)


def group_norm(
    batch: int,
    positions: int,
    groups: int,
    width: int,
    epsilon: float,
    in_dtype: str,
    scale: float,
    zero_point: int,
    epilogue: Epilogue,
    isa: Isa,
) -> Kernel:
    """Normalize each group of `width` neighbouring channels over all positions of a channels-last image.

        acc[n, p, g, c] = (x[n, p, g, c] - mean_ng) / sqrt(variance_ng + epsilon),   x = scale * (in - zero_point)

    width 1 is InstanceNormalization.

    Args: as in `layer_norm`.
    Returns: kernel of (data); output (batch, positions, groups * width).
    """
    channels = groups * width
    shape = (batch, positions, channels)
    emitter = EpilogueEmitter(epilogue, shape, isa)
    with function("group_norm") as builder:
        data = flat_arg("data", (batch, positions, channels), in_dtype)
        emitter.declare_operands()
        numbers = flat_arg("numbers", (2,), "float32")
        emitter.declare_constants()
        emitter.declare_output()
        with tasks(batch * groups, batch * positions * channels * 4) as task:
            image, group = tirx.floordiv(task, groups), tirx.floormod(task, groups)
            row, channel = image * positions, group * width
            _normalize(emitter, data, numbers, row * channels + channel, positions, width, channels, row, channel)
    constants = (np.asarray([epsilon / scale**2, 1.0 / (positions * width)], np.float32), *emitter.constants)
    return Kernel(builder.get(), constants, shape, epilogue.out_dtype)


def _normalize(
    emitter: EpilogueEmitter,
    data: Any,
    numbers: Any,
    base: Index,
    rows: int,
    width: int,
    stride: int,
    row: Index,
    channel: Index,
) -> None:
    """Mean, variance and normalized values of `rows` runs of `width` elements, `stride` apart."""
    state = T.alloc_buffer((2,), "float32", scope="local")

    def load(r: Any, c: Any) -> Vector:
        return T.Cast("float32", data[base + r * stride + c])

    T.buffer_store(state, T.float32(0), [0])
    with T.serial(rows) as r, T.serial(width) as c:
        T.buffer_store(state, state[0] + load(r, c), [0])
    mean = T.Bind(state[0] * numbers[1])
    T.buffer_store(state, T.float32(0), [1])
    with T.serial(rows) as r, T.serial(width) as c:
        x = T.Bind(load(r, c) - mean)
        T.buffer_store(state, state[1] + x * x, [1])
    factor = T.Bind(T.float32(1) / tirx.op.sqrt(state[1] * numbers[1] + numbers[0]))
    with T.serial(rows) as r, T.serial(width) as c:
        emitter.store(row + r, channel + c, (load(r, c) - mean) * factor, 1)
