"""Kernels that move data against numpy's."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from drpai_qat.kernels import movement
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.transpose import transpose
from tests.kernels.running import few, integers, on_each_isa, run

dtypes = st.sampled_from(["uint8", "int8", "int16", "float32"])
shapes = st.lists(st.sampled_from([1, 2, 3, 5, 8, 17, 20]), min_size=1, max_size=4).map(tuple)


def tensor(shape: tuple[int, ...], dtype: str) -> np.ndarray:
    return integers(np.random.default_rng(len(shape)), shape, dtype)


@on_each_isa
@few
@given(data=st.data(), dtype=dtypes, shape=shapes)
def test_transpose(isa: Isa, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    perm = tuple(data.draw(st.permutations(range(len(shape)))))
    x = tensor(shape, dtype)
    np.testing.assert_array_equal(run(transpose(shape, perm, dtype, isa), isa, x), x.transpose(perm))


@on_each_isa
@few
@given(dtype=dtypes, channels=st.sampled_from([1, 3, 4, 16, 33, 64]))
def test_transpose_between_image_layouts(isa: Isa, dtype: str, channels: int) -> None:
    x = tensor((2, channels, 19, 23), dtype)
    to_last, to_first = (0, 2, 3, 1), (0, 3, 1, 2)
    last = run(transpose(x.shape, to_last, dtype, isa), isa, x)
    np.testing.assert_array_equal(last, x.transpose(to_last))
    np.testing.assert_array_equal(run(transpose(last.shape, to_first, dtype, isa), isa, last), x)


@on_each_isa
@few
@given(data=st.data(), dtype=dtypes, shape=shapes)
def test_concat(isa: Isa, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    sizes = data.draw(st.lists(st.integers(1, 40), min_size=1, max_size=4))
    parts = [tensor((*shape[:axis], size, *shape[axis + 1 :]), dtype) for size in sizes]
    kernel = movement.concat(tuple(part.shape for part in parts), axis, dtype, isa)
    np.testing.assert_array_equal(run(kernel, isa, *parts), np.concatenate(parts, axis))


@on_each_isa
@few
@given(data=st.data(), dtype=dtypes, shape=shapes)
def test_slice(isa: Isa, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    starts = tuple(data.draw(st.integers(0, size - 1)) for size in shape)
    steps = tuple(data.draw(st.sampled_from([1, 1, 2, -1, -2])) for _ in shape)
    sizes = tuple(
        data.draw(st.integers(1, start // -step + 1 if step < 0 else (size - 1 - start) // step + 1))
        for start, step, size in zip(starts, steps, shape, strict=True)
    )
    x = tensor(shape, dtype)
    grid = np.ix_(*(start + step * np.arange(size) for start, step, size in zip(starts, steps, sizes, strict=True)))
    np.testing.assert_array_equal(run(movement.slice_(shape, starts, sizes, steps, dtype, isa), isa, x), x[grid])


@on_each_isa
@few
@given(data=st.data(), dtype=dtypes, shape=shapes)
def test_gather(isa: Isa, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    axis = data.draw(st.integers(0, len(shape) - 1))
    count = data.draw(st.sampled_from([(1,), (7,), (2, 3)]))
    indices = np.random.default_rng(0).integers(0, shape[axis], count)
    x = tensor(shape, dtype)
    got = run(movement.gather(shape, axis, indices, dtype, isa), isa, x)
    np.testing.assert_array_equal(got, np.take(x, indices, axis))


@on_each_isa
@pytest.mark.parametrize("mode", ["constant", "reflect", "edge"])
@few
@given(data=st.data(), dtype=dtypes, shape=shapes)
def test_pad(isa: Isa, mode: Any, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    high = [size - 1 if mode == "reflect" else 3 for size in shape]
    before, after = (tuple(data.draw(st.integers(0, min(3, h))) for h in high) for _ in range(2))
    x = tensor(shape, dtype)
    kernel = movement.pad(shape, before, after, mode, 7, dtype, isa)
    fill = {"constant_values": 7} if mode == "constant" else {}
    expected = np.pad(x, tuple(zip(before, after, strict=True)), mode, **fill)
    np.testing.assert_array_equal(run(kernel, isa, x), expected)


@on_each_isa
@few
@given(data=st.data(), dtype=dtypes, shape=shapes)
def test_expand(isa: Isa, data: st.DataObject, dtype: str, shape: tuple[int, ...]) -> None:
    repeats = tuple(data.draw(st.sampled_from([1, 1, 2, 5, 33])) for _ in shape)
    out_shape = tuple(size * repeat for size, repeat in zip(shape, repeats, strict=True))
    assume(np.prod(out_shape) <= 1 << 20)
    x = tensor(shape, dtype)
    np.testing.assert_array_equal(run(movement.expand(shape, out_shape, dtype, isa), isa, x), np.tile(x, repeats))


@on_each_isa
@few
@given(dtype=dtypes, size=st.sampled_from([1, 7, 100, 50_001]))
def test_copy(isa: Isa, dtype: str, size: int) -> None:
    x = tensor((size,), dtype)
    np.testing.assert_array_equal(run(movement.copy(size, dtype, isa), isa, x), x)
