"""How compile time grows with a network: a residual CNN of N layers, processor seconds of each step.

    python benchmarks/depth.py 100 200 400

All layers have one shape, so the kernels are few and what is seen is the work on the graph.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import click
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper

CHANNELS = 16


class Network:
    """A graph as PyTorch's recipe for DRP-AI exports it: a fake-quant behind convolution, batch norm and ReLU."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.rng = np.random.default_rng(0)

    def constant(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants.append(onnx.numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        result = f"t{len(self.nodes)}"
        self.nodes.append(oh.make_node(op, inputs, [result], name=result, **attributes))
        return result

    def fake_quant(self, x: str, dtype: str, scale: float, zero_point: int) -> str:
        grid = [self.constant(np.float32(scale)), self.constant(np.asarray(zero_point, dtype))]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *grid]), *grid])

    def layer(self, x: str) -> str:
        weights = self.constant(self.rng.normal(0, 0.1, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32))
        bias = self.constant(self.rng.normal(0, 0.1, CHANNELS).astype(np.float32))
        y = self.node("Conv", [x, self.fake_quant(weights, "int8", 0.3 / 127, 0), bias], pads=[1] * 4)
        y = self.fake_quant(y, "uint8", 0.03 + 1e-6 * len(self.nodes), 120)
        norm = [self.constant(self.rng.uniform(0.5, 1.5, CHANNELS).astype(np.float32)) for _ in range(4)]
        y = self.fake_quant(self.node("BatchNormalization", [y, *norm]), "uint8", 0.03, 128)
        return self.fake_quant(self.node("Relu", [y]), "uint8", 0.02, 0)


def residual(layers: int) -> onnx.ModelProto:
    """A sum behind every second layer."""
    net = Network()
    before = x = net.fake_quant("x", "uint8", 0.02, 128)
    for i in range(layers):
        y = net.layer(x)
        if i % 2:
            y = net.fake_quant(net.node("Add", [y, before]), "uint8", 0.04, 0)
        before, x = x, y
    shape = [1, CHANNELS, 16, 16]
    ends = [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name in ("x", x)]
    graph = oh.make_graph(net.nodes, "residual", ends[:1], ends[1:], net.constants)
    return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 13)], ir_version=8)


def processor_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


@click.command(help=__doc__)
@click.argument("layers", nargs=-1, required=True, type=click.IntRange(min=1))
@click.option("--target", default="host", help="as for the compile command")
def main(layers: tuple[int, ...], target: str) -> None:
    import preprocess
    from drpai_qat.backends.cpu import targets
    from drpai_qat.backends.cpu.build import build
    from drpai_qat.lowering import lower

    machine = targets.by_name(target)
    lower(preprocess.preprocess(residual(2), "pytorch").model, machine.isa)  # imports
    click.echo("layers  nodes  preprocess  lower  build")
    with tempfile.TemporaryDirectory() as folder:
        for count in layers:
            model = residual(count)
            start = processor_seconds()
            canonical = preprocess.preprocess(model, "pytorch").model
            folded = processor_seconds()
            lowered = lower(canonical, machine.isa)
            done = processor_seconds()
            build(lowered, machine, Path(folder) / "deploy.so")
            row = (folded - start, done - folded, processor_seconds() - done)
            click.echo(f"{count:6} {len(model.graph.node):6}  {row[0]:10.2f} {row[1]:6.2f} {row[2]:6.2f}")


if __name__ == "__main__":
    main()
