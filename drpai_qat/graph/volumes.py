"""Convolutions and maximum pooling of volumes, written with those of images, which have kernels.

    Conv(x, w)[n, o, d, h, w] = sum over taps k of the depth, channels c, rows and columns of
                                x[n, c, d * stride + k * dilation - pad, ...] * w[o, c, k, ...]

The depth's taps become channels: slices of the padded depth are gathered for each output slice, which is then an image
of C * taps channels, and w[o, c, k] is already in that order. It moves stored integers, and every product stays.

    x (N, C, D, H, W) -> Pad, Gather (N, C, Do, taps, H, W) -> (N * Do, C * taps, H, W) -> Conv -> (N, O, Do, Ho, Wo)

Maximum pooling goes over rows and columns first, the slices being channels, then over the depth, an image being a row.

    x (N, C * D, H, W) -> MaxPool -> (N, C, D, Ho * Wo) -> MaxPool with one column -> (N, C, Do, Ho, Wo)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from drpai_qat.graph.canonical import Graph, Node, Weight

_DEPTH = 2  # axis


def volumes_as_images(graph: Graph) -> Graph:
    """The graph without Conv and MaxPool over three dimensions, where their weights are constant."""
    nodes: list[Node] = []
    for node in graph.nodes:
        volume = bool(node.inputs) and len(graph.shapes.get(node.inputs[0], ())) == 5
        writer = _Writer(graph, node, nodes)
        if volume and node.op == "Conv" and graph.is_constant(node.inputs[1]):
            _convolve(writer)
        elif volume and node.op == "MaxPool" and len(node.outputs) == 1:
            _pool(writer)
        else:
            nodes.append(node)
    return graph.with_nodes(tuple(nodes))


class _Writer:
    """Appends what one node becomes; the last one has its name and output."""

    def __init__(self, graph: Graph, node: Node, nodes: list[Node]) -> None:
        self.graph, self.node, self._nodes, self._count = graph, node, nodes, 0

    def emit(self, op: str, inputs: Sequence[str], shape: Sequence[int], output: str = "", /, **attributes: Any) -> str:
        """Append a node of one output."""
        self._count += 1
        name = output or f"{self.node.output}::{op}{self._count}"
        self.graph.shapes[name] = tuple(int(size) for size in shape)
        self.graph.dtypes[name] = self.graph.dtypes.get(self.node.output, "float32")
        label = self.node.name if op == self.node.op else f"{self.node.name}:{op}{self._count}"
        self._nodes.append(Node(label, op, tuple(inputs), (name,), attributes))
        return name

    def reshape(self, tensor: str, shape: Sequence[int], output: str = "") -> str:
        """Append a Reshape."""
        return self.emit("Reshape", (tensor, self.constant(shape)), shape, output)

    def constant(self, values: object) -> str:
        """A constant of integers."""
        self._count += 1
        name, array = f"{self.node.output}::constant{self._count}", np.asarray(values, np.int64)
        self.graph.constants[name] = array
        self.graph.shapes[name], self.graph.dtypes[name] = array.shape, "int64"
        return name


def _window(node: Node, kernel: Sequence[int]) -> tuple[list[int], list[int], list[int]]:
    """Strides, dilations and pads, three at each end."""
    strides, dilations, pads = (
        list(node.attributes.get(name, default))
        for name, default in (("strides", [1] * 3), ("dilations", [1] * 3), ("pads", [0] * 6))
    )
    assert len(kernel) == 3
    return strides, dilations, pads


def _convolve(writer: _Writer) -> None:
    graph, node = writer.graph, writer.node
    weight = graph.weight(node.inputs[1])
    assert weight is not None
    taps, rows, columns = weight.shape[2:]
    strides, dilations, pads = _window(node, weight.shape[2:])
    batch, channels, depth, height, width = graph.shapes[node.inputs[0]]
    _, out_channels, out_depth, out_height, out_width = graph.shapes[node.output]
    data = node.inputs[0]
    if pads[0] or pads[3]:
        depth += pads[0] + pads[3]
        ends = [0, 0, pads[0], 0, 0, 0, 0, pads[3], 0, 0]
        data = writer.emit("Pad", (data, writer.constant(ends)), (batch, channels, depth, height, width))
    slices = np.arange(out_depth)[:, None] * strides[0] + np.arange(taps) * dilations[0]
    data = writer.emit(
        "Gather", (data, writer.constant(slices)), (batch, channels, out_depth, taps, height, width), axis=_DEPTH
    )
    data = writer.emit("Transpose", (data,), (batch, out_depth, channels, taps, height, width), perm=[0, 2, 1, 3, 4, 5])
    data = writer.reshape(data, (batch * out_depth, channels * taps, height, width))
    attributes = node.attributes | {
        "kernel_shape": [rows, columns], "strides": strides[1:], "dilations": dilations[1:],
        "pads": [*pads[1:3], *pads[4:]],
    }  # fmt: skip
    name = _as_image_weights(graph, node.inputs[1], weight)
    made = writer.emit(
        "Conv", (data, name, *node.inputs[2:]), (batch * out_depth, out_channels, out_height, out_width), **attributes
    )
    made = writer.reshape(made, (batch, out_depth, out_channels, out_height, out_width))
    writer.emit("Transpose", (made,), graph.shapes[node.output], node.output, perm=[0, 2, 1, 3, 4])


def _as_image_weights(graph: Graph, name: str, weight: Weight) -> str:
    """Weights (O, C, taps, rows, columns) as (O, C * taps, rows, columns)."""
    shape = (weight.shape[0], weight.shape[1] * weight.shape[2], *weight.shape[3:])
    made = f"{name}::images"
    graph.shapes[made], graph.dtypes[made] = shape, "float32"
    if weight.params is None or weight.params.axis not in (None, 0):
        graph.constants[made] = weight.real.reshape(shape)
    else:
        graph.weights[made] = replace(weight, values=weight.values.reshape(shape))
    return made


def _pool(writer: _Writer) -> None:
    graph, node = writer.graph, writer.node
    kernel = list(node.attributes["kernel_shape"])
    strides, dilations, pads = _window(node, kernel)
    batch, channels, depth, height, width = graph.shapes[node.inputs[0]]
    _, _, out_depth, out_height, out_width = graph.shapes[node.output]
    data = writer.reshape(node.inputs[0], (batch, channels * depth, height, width))
    common = {name: value for name, value in node.attributes.items() if name == "ceil_mode"}
    data = writer.emit(
        "MaxPool", (data,), (batch, channels * depth, out_height, out_width), kernel_shape=kernel[1:],
        strides=strides[1:], dilations=dilations[1:], pads=[*pads[1:3], *pads[4:]], **common,
    )  # fmt: skip
    data = writer.reshape(data, (batch, channels, depth, out_height * out_width))
    data = writer.emit(
        "MaxPool", (data,), (batch, channels, out_depth, out_height * out_width), kernel_shape=[kernel[0], 1],
        strides=[strides[0], 1], dilations=[dilations[0], 1], pads=[pads[0], 0, pads[3], 0], **common,
    )  # fmt: skip
    writer.reshape(data, graph.shapes[node.output], node.output)
