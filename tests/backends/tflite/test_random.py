"""Random small QDQ graphs: one operator, or several, between trained grids."""

from __future__ import annotations

import numpy as np
import onnx
import onnx.numpy_helper
import pytest
from hypothesis import assume, given, reject, settings
from hypothesis import strategies as st

from drpai_qat.backends.tflite.observed import observed_ranges
from drpai_qat.backends.tflite.running import WrittenNetwork
from drpai_qat.core.errors import LoweringError
from tests.backends.tflite.running import written_or_island
from tests.lowering import random_steps as steps
from tests.lowering.random_graphs import Net, start, to_model
from tests.reference import reference

IMAGE = (
    steps.convolution, steps.convolution, steps.transposed_convolution, steps.pooling, steps.resize, steps.movement,
    steps.blocks, steps.curve,
)  # fmt: skip
MIXED = (steps.arithmetic, steps.concatenation)
OTHERS = (steps.linear, steps.normalization)  # attention rounds before its Softmax, which amplifies a step


def _accumulator_step(model: onnx.ModelProto) -> float:
    """The largest of the layers: scale of the input times scale of the weights."""
    constants = {one.name: onnx.numpy_helper.to_array(one) for one in model.graph.initializer}
    scales = {
        node.output[0]: float(constants[node.input[1]].max())
        for node in model.graph.node
        if node.op_type == "DequantizeLinear"
    }
    layers = ("Conv", "ConvTranspose", "Gemm", "MatMul")
    read = [node.input[:2] for node in model.graph.node if node.op_type in layers]
    return max((scales.get(x, 0.0) * scales.get(w, 0.0) for x, w in read), default=0.0)


def _check(data: st.DataObject, seed: int) -> None:
    net = Net(data.draw, False, np.random.default_rng(seed))
    rank = net.pick(4, 4, 4, 3)
    shape = (net.integer(1, 2), net.integer(1, 9), *(net.integer(1, 7) for _ in range(rank - 2)))
    tensors = [start(net, "x", shape)]
    for _ in range(net.integer(0, 1)):
        moved = net.pick(steps.movement, steps.blocks)(net, tensors[-1])
        tensors += [moved] if moved is not tensors[-1] else []
    step = net.pick(*IMAGE, *MIXED, *OTHERS)
    last = step(net, tensors[-1], tensors) if step in MIXED else step(net, tensors[-1])
    assume(last is not tensors[0] and last.scale is not None)
    model = to_model(net, [last])
    # A trained rounding in between passes its own step on, times what follows: another test's matter.
    assume(sum(node.op_type == "QuantizeLinear" for node in model.graph.node) == 2)
    try:
        made, _ = written_or_island(model, ranges=observed_ranges(model, [net.inputs]))
    except LoweringError:  # TFLite has it neither in integers nor in float32
        reject()
    (expected,) = reference(model, net.inputs)
    # One step of difference: kernels compute in fixed point. Bilinear ones know positions to 1/1024 of a pixel.
    # Biases are whole numbers of accumulator steps, which may be larger than the result's: half of one is lost.
    half = 0.5 * _accumulator_step(model) / float(np.min(last.scale))
    most = max(2 if step is steps.resize else 1, int(np.ceil(half + 0.5)))
    for plain in (False, True):
        found = WrittenNetwork(made, plain=plain).run(net.inputs)[last.name]
        apart = np.rint(np.abs(found.astype(np.float64) - expected) / last.scale)
        assert apart.max(initial=0) <= most
        if not plain and half <= 0.5:  # plain kernels round twice: of accumulators of few bits, half may end a step off
            assert np.count_nonzero(apart) <= max(8, 0.2 * apart.size)


@settings(max_examples=60)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_one_operator_between_grids(data: st.DataObject, seed: int) -> None:
    _check(data, seed)


@pytest.mark.slow
@settings(max_examples=1500)
@given(data=st.data(), seed=st.integers(0, 2**32 - 1))
def test_one_operator_between_grids_at_length(data: st.DataObject, seed: int) -> None:
    _check(data, seed)
