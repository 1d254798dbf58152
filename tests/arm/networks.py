"""ResNet-18 and MobileNetV2 at 224x224 as QAT exports with random weights: their sizes and structure, untrained; and
smaller ones of odd shapes and of 16-bit activations.

Weights and the outputs of layers are fake-quantized, residual sums are not, as eager-mode PyTorch exports them.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.helper as oh
import onnx.numpy_helper

_BOTTLENECKS = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


class _Builder:
    """Nodes and initializers of a network under construction; tensors go by name."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.values: list[onnx.TensorProto] = []
        self.seen: list[tuple[str, tuple[int, ...]]] = []  # outputs beside the last one
        self.rng = np.random.default_rng(0)

    def node(self, op: str, *inputs: str, **attributes: object) -> str:
        name = f"t{len(self.nodes)}"
        self.nodes.append(oh.make_node(op, list(inputs), [name], **attributes))
        return name

    def value(self, array: np.ndarray) -> str:
        name = f"v{len(self.values)}"
        self.values.append(onnx.numpy_helper.from_array(array, name))
        return name

    def fake_quant(self, x: str, scale: np.ndarray, zero_point: np.ndarray, **attributes: object) -> str:
        grid = self.value(scale.astype(np.float32)), self.value(zero_point)
        return self.node("DequantizeLinear", self.node("QuantizeLinear", x, *grid, **attributes), *grid, **attributes)

    def activation(self, x: str, *, signed: bool) -> str:
        scale, zero_point = (np.float32(8 / 255), 120) if signed else (np.float32(6 / 255), 0)
        return self.fake_quant(x, np.asarray(scale), np.asarray(zero_point, np.uint8))

    def conv(
        self, x: str, cin: int, cout: int, kernel: int, stride: int = 1, groups: int = 1, dilation: int = 1,
        steps: int = 127,
    ) -> str:  # fmt: skip
        fan_in = cin // groups * kernel**2
        weights = self.rng.normal(0, np.sqrt(2 / fan_in), (cout, cin // groups, kernel, kernel)).astype(np.float32)
        scale = np.abs(weights).max((1, 2, 3)) / steps
        zero_point = np.zeros(cout, np.int8 if steps == 127 else np.int16)
        quantized = self.fake_quant(self.value(weights), scale, zero_point, axis=0)
        bias = self.value(self.rng.normal(0, 0.1, cout).astype(np.float32))
        pads, dilations = [kernel // 2 * dilation] * 4, [dilation] * 2
        attributes = {
            "kernel_shape": [kernel] * 2,
            "strides": [stride] * 2,
            "pads": pads,
            "group": groups,
            "dilations": dilations,
        }
        return self.node("Conv", x, quantized, bias, **attributes)

    def relu(self, x: str, *, quantize: bool = True) -> str:
        x = self.node("Relu", x)
        return self.activation(x, signed=False) if quantize else x

    def model(self, x: str, channels: int) -> onnx.ModelProto:
        x = self.node("Flatten", self.node("GlobalAveragePool", x))
        x = self.activation(x, signed=False)
        weights = self.rng.normal(0, np.sqrt(1 / channels), (1000, channels)).astype(np.float32)
        scale = np.abs(weights).max(1) / 127
        quantized = self.fake_quant(self.value(weights), scale, np.zeros(1000, np.int8), axis=0)
        y = self.node("Gemm", x, quantized, self.value(np.zeros(1000, np.float32)), transB=1)
        inputs = [oh.make_tensor_value_info("image", onnx.TensorProto.FLOAT, (1, 3, 224, 224))]
        outputs = [oh.make_tensor_value_info(y, onnx.TensorProto.FLOAT, (1, 1000))]
        outputs += [oh.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape) for name, shape in self.seen]
        graph = oh.make_graph(self.nodes, "network", inputs, outputs, self.values)
        return oh.make_model(graph, opset_imports=[oh.make_opsetid("", 13)], ir_version=8)


def resnet18() -> onnx.ModelProto:
    """1.8 billion multiply-accumulates."""
    net = _Builder()
    x = net.relu(net.conv(net.activation("image", signed=True), 3, 64, 7, 2))
    x = net.node("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    channels = 64
    for out, first in ((64, 1), (128, 2), (256, 2), (512, 2)):
        for stride in (first, 1):
            y = net.relu(net.conv(x, channels, out, 3, stride))
            y = net.activation(net.conv(y, out, out, 3), signed=True)
            if stride != 1 or channels != out:
                x = net.activation(net.conv(x, channels, out, 1, stride), signed=True)
            x = net.relu(net.node("Add", x, y), quantize=False)
            channels = out
    return net.model(x, channels)


def mobilenet_v2() -> onnx.ModelProto:
    """0.3 billion multiply-accumulates, half of the layers depthwise."""
    net = _Builder()
    x = net.relu(net.conv(net.activation("image", signed=True), 3, 32, 3, 2))
    channels = 32
    for expansion, out, count, first in _BOTTLENECKS:
        for stride in (first, *[1] * (count - 1)):
            wide = channels * expansion
            y = net.relu(net.conv(x, channels, wide, 1)) if expansion > 1 else x
            y = net.relu(net.conv(y, wide, wide, 3, stride, wide))
            y = net.activation(net.conv(y, wide, out, 1), signed=True)
            x = net.node("Add", x, y) if stride == 1 and channels == out else y
            channels = out
    return net.model(net.relu(net.conv(x, channels, 1280, 1)), 1280)


def odd_shapes() -> onnx.ModelProto:
    """Channels that fill no register; many kernels, strides, dilations and groups; int16 sums. All are outputs."""
    net = _Builder()
    x = net.activation("image", signed=True)
    channels, size = 3, 224
    for out, kernel, stride, groups, dilation in (
        (12, 3, 4, 1, 1), (20, 3, 1, 1, 2), (36, 1, 1, 4, 1), (36, 5, 2, 36, 1), (7, 1, 1, 1, 1), (33, 2, 1, 1, 1),
        (28, 3, 1, 1, 1), (28, 3, 1, 2, 1), (28, 3, 1, 28, 2),
    ):  # fmt: skip
        y = net.conv(x, channels, out, kernel, stride, groups, dilation)
        size = (size + 2 * (kernel // 2 * dilation) - dilation * (kernel - 1) - 1) // stride + 1
        shortcut, x = x, net.relu(y)
        if channels == out and stride == 1:
            x = net.node("Relu", net.node("Add", shortcut, x))
        channels = out
        net.seen.append((x, (1, channels, size, size)))
    return net.model(x, channels)


def sixteen_bits() -> onnx.ModelProto:
    """16 bits as `--max-drop` makes them: symmetric, clipped, of weights, too; and asymmetric. All are outputs."""
    net = _Builder()
    x = net.node("AveragePool", "image", kernel_shape=[4, 4], strides=[4, 4])
    channels, size = 3, 56
    for out, kernel, stride, groups, steps in (
        (16, 3, 2, 1, 32767), (24, 1, 1, 1, 32767), (24, 3, 1, 24, 32767), (96, 3, 2, 1, 20000), (40, 3, 1, 2, 32767),
        (64, 3, 1, 1, 9001), (28, 3, 1, 1, 1500), (7, 1, 1, 1, 32767),
    ):  # fmt: skip
        end = net.value(np.asarray(6, np.float32)), net.value(np.asarray(-6, np.float32))
        x = net.node("Clip", x, end[1], end[0])
        if steps == 20000:
            x = net.fake_quant(x, np.asarray(12 / 40000), np.asarray(20000, np.uint16))
        else:
            x = net.fake_quant(x, np.asarray(6 / steps), np.asarray(0, np.int16))
        weights = 1500 if steps == 1500 else 127
        x = net.node("Relu", net.conv(x, channels, out, kernel, stride, groups, steps=weights))
        size, channels = (size - 1) // stride + 1, out
        net.seen.append((x, (1, channels, size, size)))
    model = net.model(x, channels)
    model.opset_import[0].version, model.ir_version = 21, 10
    return model
