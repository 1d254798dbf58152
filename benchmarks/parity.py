"""How far an INT8 TFLite file is from the QAT model that it was written from: five kinds of networks, 20 seeds each.

    python benchmarks/parity.py                       # the table of docs/numerics.md
    python benchmarks/parity.py --seeds 3 --kind dense

Every network has random weights and the ranges that its activations have on random inputs. It is written as TFLite and
held against the QAT model in onnxruntime: each layer fed the QAT model's integers, and the outputs, in the kernels of
XNNPACK and in LiteRT's plain ones, which microcontrollers run too.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper
import onnxruntime
from numpy.typing import NDArray

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

import drpai_qat  # noqa: E402 - after the path is set
from drpai_qat.compare.compare_options import CompareOptions  # noqa: E402
from drpai_qat.compare.comparison import compare  # noqa: E402
from drpai_qat.core.progress import Silent  # noqa: E402
from drpai_qat.core.sqnr import sqnr_db  # noqa: E402
from drpai_qat.runtimes.onnxruntime import Reference  # noqa: E402
from drpai_qat.runtimes.tflite import LiteNetwork  # noqa: E402

SAMPLES = 16
OPSET = 17


class Network:
    """A QAT graph under construction. Each activation's fake-quant gets the range that it has on random inputs."""

    def __init__(self, shape: tuple[int, ...], seed: int) -> None:
        self.rng = np.random.default_rng(seed)
        self.shape = shape
        self.nodes: list[onnx.NodeProto] = []
        self.constants: dict[str, NDArray[np.generic]] = {}
        self.rounded: list[str] = []

    def constant(self, value: object) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.asarray(value)
        return name

    def node(self, op: str, inputs: list[str], **attributes: object) -> str:
        result = f"t{len(self.nodes)}"
        self.nodes.append(oh.make_node(op, inputs, [result], name=result, **attributes))
        return result

    def weights(self, *shape: int) -> str:
        """Fake-quantized int8 weights, one scale for each of the first axis."""
        values = self.rng.normal(0, np.sqrt(2 / np.prod(shape[1:])), shape).astype(np.float32)
        scale = np.abs(values).max(axis=tuple(range(1, len(shape)))) / np.float32(127)
        grid = [self.constant(scale), self.constant(np.zeros(shape[0], np.int8))]
        quantized = self.node("QuantizeLinear", [self.constant(values), *grid], axis=0)
        return self.node("DequantizeLinear", [quantized, *grid], axis=0)

    def bias(self, size: int) -> str:
        return self.constant(self.rng.normal(0, 0.1, size).astype(np.float32))

    def fake_quant(self, x: str) -> str:
        """An activation's; its grid is set by `calibrated`."""
        self.rounded.append(x)
        grid = [f"{x}_scale", f"{x}_zero"]
        return self.node("DequantizeLinear", [self.node("QuantizeLinear", [x, *grid]), *grid])

    def conv(self, x: str, inputs: int, outputs: int, *, group: int = 1, size: int = 3) -> str:
        weights = self.weights(outputs, inputs // group, size, size)
        return self.node("Conv", [x, weights, self.bias(outputs)], group=group, pads=[size // 2] * 4)

    def dense(self, x: str, inputs: int, outputs: int) -> str:
        return self.node("Gemm", [x, self.weights(outputs, inputs), self.bias(outputs)], transB=1)

    def classes(self, x: str, channels: int) -> str:
        """Mean over the image, and a dense layer."""
        mean = self.fake_quant(self.node("Flatten", [self.node("GlobalAveragePool", [x])]))
        return self.fake_quant(self.dense(mean, channels, 10))

    def calibrated(self, output: str) -> onnx.ModelProto:
        """The model, with grids from the ranges over 64 random inputs; fake-quants in front do not round yet."""
        passing = dict(self.constants)
        for name in self.rounded:  # a grid so fine and wide that nothing is rounded to speak of
            passing |= {f"{name}_scale": np.float32(2**-10), f"{name}_zero": np.uint16(32768)}
        model = self._model(output, passing)
        for name in self.rounded:
            model.graph.output.append(oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
        ends: dict[str, tuple[float, float]] = dict.fromkeys(self.rounded, (0.0, 0.0))
        model.opset_import[0].version = 21  # 16-bit grids
        session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
        for _ in range(64):
            inputs = {"x": self.rng.normal(0, 1, self.shape).astype(np.float32)}
            for name, value in zip(self.rounded, session.run(self.rounded, inputs), strict=True):
                low, high = ends[name]
                ends[name] = (min(low, float(value.min())), max(high, float(value.max())))
        for name, (low, high) in ends.items():
            scale = np.float32((high - low) / 255)
            zero = np.uint8(np.clip(np.rint(-low / scale), 0, 255))
            self.constants |= {f"{name}_scale": np.asarray(scale), f"{name}_zero": np.asarray(zero)}
        return self._model(output, self.constants)

    def _model(self, output: str, constants: dict[str, NDArray[np.generic]]) -> onnx.ModelProto:
        nodes = [onnx.NodeProto.FromString(node.SerializeToString()) for node in self.nodes]
        for node in nodes:
            for names in (node.input, node.output):
                for index, name in enumerate(names):
                    names[index] = "y" if name == output else name
        graph = oh.make_graph(
            nodes,
            "parity",
            [oh.make_tensor_value_info("x", onnx.TensorProto.FLOAT, self.shape)],
            [oh.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
            [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
        )
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", OPSET)], ir_version=10)


def dense(seed: int) -> onnx.ModelProto:
    """Four dense layers."""
    net = Network((1, 64), seed)
    x = net.fake_quant("x")
    for inputs, outputs in ((64, 128), (128, 128), (128, 64)):
        x = net.fake_quant(net.node("Relu", [net.dense(x, inputs, outputs)]))
    return net.calibrated(net.fake_quant(net.dense(x, 64, 10)))


def convolution(seed: int) -> onnx.ModelProto:
    """Four convolutions, pooling between."""
    net = Network((1, 3, 24, 24), seed)
    x = net.fake_quant("x")
    for index, (inputs, outputs) in enumerate(((3, 16), (16, 24), (24, 32), (32, 32))):
        x = net.fake_quant(net.node("Relu", [net.conv(x, inputs, outputs)]))
        if index < 2:
            x = net.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2])
    return net.calibrated(net.classes(x, 32))


def depthwise(seed: int) -> onnx.ModelProto:
    """Three depthwise separable blocks."""
    net = Network((1, 8, 16, 16), seed)
    x = net.fake_quant("x")
    for inputs, outputs in ((8, 16), (16, 32), (32, 32)):
        x = net.fake_quant(net.node("Relu", [net.conv(x, inputs, inputs, group=inputs)]))
        x = net.fake_quant(net.node("Relu", [net.conv(x, inputs, outputs, size=1)]))
    return net.calibrated(net.classes(x, 32))


def residual(seed: int) -> onnx.ModelProto:
    """Four residual blocks of two convolutions, sums with ranges of their own."""
    net = Network((1, 16, 16, 16), seed)
    x = net.fake_quant("x")
    for _ in range(4):
        y = net.fake_quant(net.node("Relu", [net.conv(x, 16, 16)]))
        y = net.fake_quant(net.conv(y, 16, 16))
        x = net.fake_quant(net.node("Relu", [net.node("Add", [x, y])]))
    return net.calibrated(net.classes(x, 16))


def recurrent(seed: int) -> onnx.ModelProto:
    """An LSTM over eight steps, written out, and a dense layer on its last state."""
    net = Network((8, 1, 16), seed)
    size = 24
    x = net.fake_quant("x")
    weights = [net.node("Unsqueeze", [net.weights(4 * size, n), net.constant(np.array([0]))]) for n in (16, size)]
    bias = net.constant(net.rng.normal(0, 0.1, (1, 8 * size)).astype(np.float32))
    h = net.node("LSTM", [x, *weights, bias], hidden_size=size)
    last = net.node("Gather", [h, net.constant(np.array(7))], axis=0)
    flat = net.fake_quant(net.node("Reshape", [last, net.constant(np.array([1, size]))]))
    return net.calibrated(net.fake_quant(net.dense(flat, size, 10)))


KINDS: dict[str, Callable[[int], onnx.ModelProto]] = {
    "dense": dense,
    "convolution": convolution,
    "depthwise": depthwise,
    "residual": residual,
    "recurrent": recurrent,
}


@dataclass(frozen=True)
class Parity:
    """One network.

    Attributes:
        layer_equal: share of the layers' integers that are the QAT model's, each layer fed those.
        layer_lsb: their largest difference.
        equal, lsb, decibels, top1: of the outputs, in XNNPACK and in the plain kernels.
    """

    layer_equal: float
    layer_lsb: float
    equal: tuple[float, float]
    lsb: tuple[float, float]
    decibels: tuple[float, float]
    top1: tuple[float, float]


def measure(model: onnx.ModelProto, seed: int) -> Parity:
    """Write one network, and compare."""
    with tempfile.TemporaryDirectory() as name:
        source = Path(name) / "qat.onnx"
        onnx.save(model, source)
        drpai_qat.compile(source, output_dir=Path(name) / "out", target="tflite", check="none")
        (file,) = (Path(name) / "out").glob("*.tflite")
        found = compare(CompareOptions(a=source, b=file, seed=seed), Silent())
        shape = tuple(dim.dim_value for dim in model.graph.input[0].type.tensor_type.shape.dim)
        rng = np.random.default_rng([seed, 1])
        inputs = [{"x": rng.normal(0, 1, shape).astype(np.float32)} for _ in range(SAMPLES)]
        run = Reference(source, "qat").run
        wanted = np.concatenate([run(one)["y"] for one in inputs])
        outputs = []
        for plain in (False, True):
            network = LiteNetwork(file, plain=plain)
            outputs.append(np.concatenate([network.run(one)["y"] for one in inputs]))
            grid = network.outputs[0].quantization
        assert grid is not None
        apart = [np.rint(np.abs(one - wanted) / float(grid.scale)) for one in outputs]
    layers = [one.single for one in found.layers]
    total = sum(one.count for one in layers)
    agree = [float((one.argmax(1) == wanted.argmax(1)).mean()) for one in outputs]
    equal, most = ([float(of(one)) for one in apart] for of in (lambda one: (one == 0).mean(), np.max))
    return Parity(
        sum(one.equal for one in layers) / total, max(one.max_lsb for one in layers),
        (equal[0], equal[1]), (most[0], most[1]), (sqnr_db(outputs[0], wanted), sqnr_db(outputs[1], wanted)),
        (agree[0], agree[1]),
    )  # fmt: skip


@click.command(help=__doc__)
@click.option("--kind", multiple=True, type=click.Choice(list(KINDS)), help="default: all")
@click.option("--seeds", default=20)
def main(kind: tuple[str, ...], seeds: int) -> None:
    print("| network | layers equal | layers LSB | outputs equal | outputs LSB | SQNR dB, worst | top-1 |")
    print("|---|---|---|---|---|---|---|")
    for name in kind or KINDS:
        found = [measure(KINDS[name](seed), seed) for seed in range(seeds)]
        print(
            f"| {name} | {100 * np.mean([one.layer_equal for one in found]):.2f}%"
            f" | {max(one.layer_lsb for one in found):.0f}"
            f" | {_both([100 * np.mean([one.equal[i] for one in found]) for i in (0, 1)], '.1f')}%"
            f" | {_both([max(one.lsb[i] for one in found) for i in (0, 1)], '.0f')}"
            f" | {_both([min(one.decibels[i] for one in found) for i in (0, 1)], '.1f')}"
            f" | {_both([100 * np.mean([one.top1[i] for one in found]) for i in (0, 1)], '.1f')}% |"
        )


def _both(values: list[float], form: str) -> str:
    return " / ".join(format(value, form) for value in values)


if __name__ == "__main__":
    main()
