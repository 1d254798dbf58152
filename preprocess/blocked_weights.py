"""Weights with a scale for every block of their input channels: one layer a block, whose scales leave its sum.

    y[n] = sum over k of x[k] * s[k / B, n] * (q[k, n] - z[k / B, n])
         = sum over blocks b of s[b, n] * sum over k in b of x[k] * (q[k, n] - z[b, n])

    MatMul(x, DQ(q, s, z, block_size))  =>  Add(... Add(MatMul(x0, DQ(q0, s0, z0)), MatMul(x1, DQ(q1, s1, z1))) ...)

Each block's sum is exact in integers; the sums are added in float32, as the epilogue of the next one. Gemm likewise,
and Conv without groups, whose channels are split. Needs static shapes; the slices get theirs.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.moving import PLACED
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.shape_inference import infer_shapes
from preprocess.surgery import Array, optional_input, produced_by, producer, value_of
from preprocess.weights import quantize_blocks
from preprocess.writing import Writer, taken_apart


@dataclass(frozen=True, eq=False)
class _Blocks:
    """Integers of weights, and a scale and zero point for `size` entries along `axis`."""

    integers: Array
    scale: Array
    zero_point: Array
    axis: int
    size: int


def split_blocks(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace layers with block-wise weights that read a quantized activation."""
    writer, changed = Writer(graph), False
    for node in list(graph.nodes):
        along = _input_axis(node)
        blocks = None if along is None else _blocks_of(node)
        if blocks is None or along is None or not _is_quantized(node.inputs[0]):
            continue
        writer.base = node.name
        log.note(node.name, f"{len(_starts(blocks))} blocks of weights with scales of their own: a layer each")
        _split(node, blocks, along, writer)
        changed = True
    graph = writer.finish()
    return infer_shapes(graph, log) if changed else graph


def _input_axis(node: gs.Node) -> int | None:
    """Axis of the layer's input along which it sums; None for what is no such layer."""
    if node.op == "Conv" and node.attrs.get("group", 1) == 1:
        return 1
    if node.op == "Gemm":
        return 0 if node.attrs.get("transA", 0) else 1
    if node.op != "MatMul":
        return None
    shape = node.inputs[0].shape  # None: of unknown rank, which is refused later
    return len(shape) - 1 if shape is not None and len(shape) > 1 else None


def _blocks_of(node: gs.Node) -> _Blocks | None:
    """The block-wise weights of a layer, also behind a Transpose; None if blocks do not lie along what is summed."""
    tensor, turned = node.inputs[1], False
    transpose = produced_by(tensor, "Transpose")
    if transpose is not None and node.op != "Conv" and len(transpose.inputs[0].shape) == 2:
        tensor, turned = transpose.inputs[0], list(transpose.attrs.get("perm", [1, 0])) == [1, 0]
    dequantize = produced_by(tensor, DEQUANTIZE)
    if dequantize is None or not dequantize.attrs.get("block_size", 0):
        return None
    integers = value_of(dequantize.inputs[0])
    quantize = produced_by(dequantize.inputs[0], QUANTIZE)
    if quantize is not None and value_of(quantize.inputs[0]) is not None:
        integers = quantize_blocks(quantize)
    if integers is None or (node.op == "MatMul" and integers.ndim != 2):
        return None
    scale, zero_point = dequantize.inputs[1].values, dequantize.inputs[2].values
    axis = int(dequantize.attrs["axis"])
    if turned:
        integers, scale, zero_point, axis = integers.T, scale.T, zero_point.T, 1 - axis
    summed = 1 if node.op == "Conv" or (node.op == "Gemm" and node.attrs.get("transB", 0)) else 0
    if axis != summed or zero_point.shape != scale.shape:
        return None
    first = (slice(None), slice(None), *[slice(1)] * (scale.ndim - 2))  # all taps of a kernel share one scale
    if (scale != scale[first]).any() or (zero_point != zero_point[first]).any():
        return None
    return _Blocks(integers, scale[first], zero_point[first], axis, int(dequantize.attrs["block_size"]))


def _is_quantized(tensor: gs.Tensor) -> bool:
    """True for an activation on a grid, also behind data movement."""
    maker = producer(tensor)
    while maker is not None and maker.op in PLACED:
        maker = producer(maker.inputs[0])
    return maker is not None and maker.op == DEQUANTIZE


def _starts(blocks: _Blocks) -> range:
    return range(0, blocks.integers.shape[blocks.axis], blocks.size)


def _split(node: gs.Node, blocks: _Blocks, along: int, writer: Writer) -> None:
    op, attrs, bias = node.op, dict(node.attrs), optional_input(node, 2)
    (data, *_), output = taken_apart(node)
    size, starts = blocks.integers.shape[blocks.axis], _starts(blocks)
    total: gs.Tensor | None = None
    for number, start in enumerate(starts):
        end = min(start + blocks.size, size)
        ends = [writer.constant([one], np.int64) for one in (start, end, along)]
        part = writer.emit("Slice", [data, *ends])
        inputs = [part, _weights(blocks, number, start, end, writer)]
        if bias is not None and number == 0:
            inputs.append(bias)
        product = writer.emit(op, inputs, output if len(starts) == 1 else None, **attrs)
        last = output if end == size else None
        total = product if total is None else writer.emit("Add", [total, product], last)


def _weights(blocks: _Blocks, number: int, start: int, end: int, writer: Writer) -> gs.Tensor:
    """DequantizeLinear of one block, with a scale for each output channel."""
    integers = np.take(blocks.integers, range(start, end), blocks.axis).astype(np.int64)
    points = np.take(blocks.zero_point, number, blocks.axis).reshape(-1).astype(np.int64)
    scale = np.take(blocks.scale, number, blocks.axis).reshape(-1)
    kind = np.uint8 if max(integers.max(initial=0), points.max(initial=0)) > 127 else np.int8
    grid = [writer.constant(scale), writer.constant(points, kind)]
    return writer.dequantize(writer.constant(integers, kind), grid, axis=1 - blocks.axis)
