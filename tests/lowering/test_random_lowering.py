"""Random small QDQ graphs: the compiled network against onnxruntime with optimisations off."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.lowering import random_steps as steps
from tests.lowering.random_graphs import Net, Tensor, start, to_model
from tests.lowering.running import RUNNABLE, compiled, lsb, telling
from tests.reference import reference

IMAGE = (
    steps.convolution, steps.convolution, steps.transposed_convolution, steps.pooling, steps.resize, steps.movement,
    steps.blocks, steps.curve,
)  # fmt: skip
MIXED = (steps.arithmetic, steps.concatenation)


def _grow(net: Net, depth: int, kinds: tuple[object, ...]) -> list[Tensor]:
    """Quantized tensors, each made from earlier ones."""
    rank = net.pick(4, 4, 4, 3)
    shape = (net.integer(1, 2), net.integer(1, 9), *(net.integer(1, 7) for _ in range(rank - 2)))
    tensors = [start(net, "x", shape)]
    for _ in range(depth):
        x = net.pick(*tensors[-2:])
        if x.value.size > 4000:  # keep it small
            x = tensors[0]
        step = net.pick(*kinds)
        y = step(net, x, tensors) if step in MIXED else step(net, x)
        if y is not x:
            tensors.append(y)
    return tensors


def _check_exact(data: st.DataObject, seed: int, depth: int) -> None:
    net = Net(data.draw, True, np.random.default_rng(seed))
    tensors = _grow(net, depth, (*IMAGE, *MIXED))
    last = tensors[-1]
    if net.pick(True, False):
        last = net.pick(steps.linear, steps.attention)(net, last)
    outputs = [last, *([net.pick(*tensors[1:])] if len(tensors) > 1 and net.pick(True, False, False) else [])]
    assume(all(telling(output.value) for output in outputs))
    model = to_model(net, list({o.name: o for o in outputs}.values()))
    results = compiled(model, net.inputs, net.pick(*RUNNABLE))
    for result, expected in zip(results, reference(model, net.inputs), strict=True):
        assert telling(expected), "a test on zeros proves nothing"
        np.testing.assert_array_equal(result, expected)


def _check_close(data: st.DataObject, seed: int) -> None:
    """One operator between two grids: float32 sums in another order may tip a rounding, by one step and rarely."""
    net = Net(data.draw, False, np.random.default_rng(seed))
    tensors = _grow(net, net.integer(0, 1), (steps.movement, steps.blocks))
    step = net.pick(*IMAGE, *MIXED, steps.linear, steps.attention, steps.normalization)
    last = step(net, tensors[-1], tensors) if step in MIXED else step(net, tensors[-1])
    assume(last.name != "x" and last.scale is not None and telling(last.value))
    model = to_model(net, [last])
    (result,), (expected,) = compiled(model, net.inputs, net.pick(*RUNNABLE)), reference(model, net.inputs)
    assert telling(expected), "a test on zeros proves nothing"
    difference = lsb(result, expected, last.scale)
    assert difference.max() <= 1
    assert np.count_nonzero(difference) <= max(2, 0.02 * difference.size)


@settings(max_examples=50)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 4))
def test_exact_graphs_give_every_bit(data: st.DataObject, seed: int, depth: int) -> None:
    _check_exact(data, seed, depth)


@settings(max_examples=50)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_one_operator_between_grids(data: st.DataObject, seed: int) -> None:
    _check_close(data, seed)


@pytest.mark.slow
@settings(max_examples=150)  # a few minutes
@given(data=st.data(), seed=st.integers(0, 2**32 - 1), depth=st.integers(1, 8))
def test_deep_exact_graphs_give_every_bit(data: st.DataObject, seed: int, depth: int) -> None:
    _check_exact(data, seed, depth)


@pytest.mark.slow
@settings(max_examples=150)  # a few minutes
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_many_operators_between_grids(data: st.DataObject, seed: int) -> None:
    _check_close(data, seed)
