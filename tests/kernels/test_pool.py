"""Pooling: borders, dilation, ceil mode, counts."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pool import average_pool, max_pool, pool_counts
from tests.kernels.running import few, integers, on_each_isa, raw, run, windows

DTYPES = ["uint8", "int8", "int16", "float32"]
Pair = tuple[int, int]
Parameters = tuple[Pair, Pair, tuple[int, int, int, int], Pair, Pair]
Window = tuple[tuple[int, int, int, int], Parameters]


@st.composite
def pools(draw: st.DrawFn) -> Window:
    """A tensor's shape and (kernel, stride, pads, dilation, out size), some rounding the output size up."""
    kernel, stride, dilation = (draw(st.tuples(st.integers(1, high), st.integers(1, high))) for high in (4, 3, 2))
    reach = [(kernel[i] - 1) * dilation[i] + 1 for i in (0, 1)]
    before, after = ([draw(st.integers(0, kernel[i] - 1)) for i in (0, 1)] for _ in range(2))
    size = [draw(st.integers(max(1, reach[i] - before[i] - after[i]), 12)) for i in (0, 1)]
    out = []
    for i in (0, 1):
        count = (size[i] + before[i] + after[i] - reach[i]) // stride[i] + 1
        # Ceil mode adds a window if it starts inside the image or its leading padding, and still sees a pixel.
        more = count * stride[i] < size[i] + before[i] and draw(st.booleans())
        sees = any(0 <= (count * stride[i] - before[i]) + tap * dilation[i] < size[i] for tap in range(kernel[i]))
        out.append(count + (more and sees))
    shape = (draw(st.integers(1, 2)), size[0], size[1], draw(st.sampled_from([1, 5, 16, 35, 64])))
    return shape, (kernel, stride, (before[0], before[1], after[0], after[1]), dilation, (out[0], out[1]))


def inside(shape: tuple[int, ...], window: Parameters) -> np.ndarray:
    """Which positions each window sees: (taps, rows, columns)."""
    return windows(np.ones((1, *shape[1:3], 1)), *window, 0)[:, 0, :, :, 0] == 1


@on_each_isa
@few
@given(dtype=st.sampled_from(DTYPES), pool=pools(), seed=st.integers(0, 9))
def test_max_pool(isa: Isa, dtype: str, pool: Window, seed: int) -> None:
    shape, window = pool
    if not inside(shape, window).any(0).all():
        return  # a window that sees no pixel has no maximum
    x = integers(np.random.default_rng(seed), shape, dtype)
    expected = windows(x, *window, -np.inf).max(0)
    np.testing.assert_array_equal(run(max_pool(shape, *window, dtype, isa), isa, x), expected)


@on_each_isa
@few
@given(dtype=st.sampled_from(DTYPES), pool=pools(), seed=st.integers(0, 9))
def test_average_pool(isa: Isa, dtype: str, pool: Window, seed: int) -> None:
    shape, window = pool
    zero_point = 0 if dtype == "float32" else 9
    x = integers(np.random.default_rng(seed), shape, dtype)
    sums = np.nansum(windows(x, *window, np.nan) - zero_point, 0)
    np.testing.assert_array_equal(run(average_pool(shape, *window, dtype, zero_point, raw(), isa), isa, x), sums)
    counts = pool_counts(shape[1:3], *window, include_pad=False)
    epilogue = raw(E.affine(E.Acc(), 1 / np.maximum(counts, 1)))
    got = run(average_pool(shape, *window, dtype, zero_point, epilogue, isa), isa, x)
    np.testing.assert_allclose(got, sums / np.maximum(counts, 1), rtol=1e-6)


@few
@given(pool=pools())
def test_counts(pool: Window) -> None:
    shape, window = pool
    counts = pool_counts(shape[1:3], *window, include_pad=False)
    np.testing.assert_array_equal(np.broadcast_to(counts, (1, *window[-1], 1))[0, ..., 0], inside(shape, window).sum(0))


def test_counts_with_padding_stop_where_the_padding_does() -> None:
    # 5 pixels, one of padding on each side, windows of 3 every 3: the third starts at 5, sees padding and then nothing.
    counts = pool_counts((5, 1), (3, 1), (3, 1), (1, 0, 1, 0), (1, 1), (3, 1), include_pad=True)
    assert counts.reshape(-1).tolist() == [3, 3, 1]
    assert pool_counts((4, 4), (2, 2), (2, 2), (0, 0, 0, 0), (1, 1), (2, 2), include_pad=False).shape == ()
