"""Compile time grows linearly with the network. Counted are Python's calls: no clock, no noise."""

from __future__ import annotations

import cProfile
from collections.abc import Callable

import onnx
import onnx.parser
import pytest
import tvm

import preprocess
from drpai_qat.backends.cpu import targets
from drpai_qat.lowering import lower

START = "q = QuantizeLinear(x, s, z)  t0 = DequantizeLinear(q, s, z)\n"


def chain(layers: int) -> onnx.ModelProto:
    """Convolution, batch norm, sum with the layer before, ReLU, each with a fake-quant."""
    lines = [START]
    for i in range(layers):
        lines.append(
            f"wq{i} = QuantizeLinear(w, sw, zw)  v{i} = DequantizeLinear(wq{i}, sw, zw)\n"
            f"c{i} = Conv(t{i}, v{i})  cq{i} = QuantizeLinear(c{i}, s, z)  d{i} = DequantizeLinear(cq{i}, s, z)\n"
            f"n{i} = BatchNormalization(d{i}, g, g, g, g)  a{i} = Add(n{i}, t{i})  r{i} = Relu(a{i})\n"
            f"rq{i} = QuantizeLinear(r{i}, s, z)  t{i + 1} = DequantizeLinear(rq{i}, s, z)\n"
        )
    return _model("".join(lines), f"t{layers}")


def fan(branches: int) -> onnx.ModelProto:
    """One tensor read by many convolutions that are added up."""
    lines = [START, "v = DequantizeLinear(wi, sw, zw)\n"]
    for i in range(branches):
        lines.append(
            f"c{i} = Conv(t0, v)  cq{i} = QuantizeLinear(c{i}, s, z)  d{i} = DequantizeLinear(cq{i}, s, z)\n"
            + (f"a{i} = Add(a{i - 1}, d{i})\n" if i else "a0 = Relu(d0)\n")
        )
    lines.append(f"yq = QuantizeLinear(a{branches - 1}, s, z)  y = DequantizeLinear(yq, s, z)\n")
    return _model("".join(lines), "y")


def doubling(steps: int) -> onnx.ModelProto:
    """Each sum read twice: 2^steps paths."""
    lines = [START, *(f"t{i + 1} = Add(t{i}, t{i})\n" for i in range(steps))]
    return _model("".join(lines), f"t{steps}")


def _model(body: str, result: str) -> onnx.ModelProto:
    constants = (
        "float s = {0.05}, uint8 z = {128}, float sw = {0.01}, int8 zw = {0}, float[4] g = {1, 1, 1, 1}, "
        f"float[4,4,1,1] w = {{{', '.join(['0.25'] * 16)}}}, int8[4,4,1,1] wi = {{{', '.join(['25'] * 16)}}}"
    )
    text = f'<ir_version: 8, opset_import: ["" : 13]> net (float[1,4,3,3] x) => (float[1,4,3,3] {result})'
    return onnx.parser.parse_model(f"{text} <{constants}> {{ {body} }}")


def calls(make: Callable[[int], onnx.ModelProto], size: int) -> tuple[int, int]:
    """Of preprocess, and of lowering."""
    model, target = make(size), targets.by_name("avx2")
    counts = []
    canonical: list[onnx.ModelProto] = []
    for work in (
        lambda: canonical.append(preprocess.preprocess(model, "pytorch").model),
        lambda: lower(canonical[0], target.isa),
    ):
        profile = cProfile.Profile()
        profile.runcall(work)
        counts.append(sum(entry.callcount for entry in profile.getstats()))
    return counts[0], counts[1]


@pytest.mark.parametrize("make", [chain, fan, doubling])
def test_twice_the_network_takes_twice_the_calls(make: Callable[[int], onnx.ModelProto]) -> None:
    calls(make, 2)  # imports and caches
    small, large = calls(make, 24), calls(make, 48)
    for name, few, many in zip(("preprocess", "lowering"), small, large, strict=True):
        assert many < 2.2 * few, f"{name}: {few} -> {many} calls"


def test_shared_operands_are_written_once() -> None:
    """TVM's simplifiers write an operand out wherever it is read, unless it is stored."""
    sizes = []
    for steps in (16, 32, 64):
        module = lower(preprocess.preprocess(doubling(steps), "pytorch").model, targets.by_name("avx2").isa).module
        simple = tvm.tirx.transform.StmtSimplify()(module)
        sizes.append(len(simple.script()))
    assert sizes[2] - sizes[1] < 3 * (sizes[1] - sizes[0])
