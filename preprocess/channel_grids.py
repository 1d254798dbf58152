"""Activations with a scale per channel (NNCF trains them in front of depthwise convolutions) on one scalar grid.

    Q(x, s[C], z)    -> DQ   =>   Div(x, s[C]) -> Q(1, z) -> DQ(1, z) -> Mul(s[C])
    Q(x, s[C], z[C]) -> DQ   =>   Div(x, s[C]) -> Max(qmin - z[C]) -> Min(qmax - z[C]) -> Q16(1, 0) -> DQ -> Mul(s[C])
    Mul(s[C]) -> depthwise Conv(W)   =>   Conv(W * s[C]), into the scale of W

The first two are bit-equal: the same float32 division, rounding and product. Steps minus the zero points span more than
8 bits where the zero points differ, hence 16.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.quantization import QuantParams
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.scaling import scale_channels
from preprocess.surgery import (
    Names,
    channel_vector,
    make_dequantize,
    params_of,
    produced_by,
    producer,
    readers,
    sole_consumer,
    value_of,
)
from preprocess.weights import is_dequantized_constant


def scale_channels_outside(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give each per-channel activation a scalar grid between a division and a multiplication by its scales."""
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        if node.op != QUANTIZE or isinstance(node.inputs[0], gs.Constant) or not node.outputs:
            continue
        if node.attrs.get("block_size", 0):
            log.skipped(node, "block-wise activation")
            continue
        params, rank = params_of(node), len(node.inputs[0].shape or ())
        if params.axis is None:
            continue
        pairs = list(readers(node.outputs[0]))
        if not rank or any(reader.op != DEQUANTIZE or params_of(reader) != params for reader in pairs):
            log.skipped(node, "per-channel activation whose integers are used")
            continue
        made += _scaled_pair(node, pairs, params, rank, names)
        log.note(node.name, "per-channel activation: scaled by channel outside a common grid")
    graph.nodes.extend(made)
    return graph.toposort() if made else graph


def _scaled_pair(node: gs.Node, pairs: list[gs.Node], params: QuantParams, rank: int, names: Names) -> list[gs.Node]:
    """Rewrite Q and its DQ nodes to the grid of scale 1; returns the nodes around them."""
    shape = [params.scale.size if at == params.axis else 1 for at in range(rank)]

    def constant(role: str, value: object, dtype: object) -> gs.Constant:
        return gs.Constant(names(f"{node.name}_{role}"), np.asarray(value, dtype))  # type: ignore[call-overload]

    def steps() -> gs.Variable:
        return gs.Variable(names(f"{node.name}_steps"), np.dtype(np.float32), node.inputs[0].shape)

    scale = constant("channel_scale", params.scale.reshape(shape), np.float32)
    limited: list[tuple[str, gs.Constant]] = []
    grid = [constant("one", 1, np.float32), constant("zero_point", params.zero_point[0], params.dtype)]
    if np.ptp(params.zero_point):
        low, high = params.qmin - params.zero_point, params.qmax - params.zero_point
        limited = [("Max", constant("min", low.reshape(shape), np.float32))]
        limited += [("Min", constant("max", high.reshape(shape), np.float32))]
        grid[1] = constant("zero_point", 0, np.int16)
        node.outputs[0].dtype = np.dtype(np.int16)
    data, made = node.inputs[0], []
    for op, operand in [("Div", scale), *limited]:
        result = steps()
        made.append(gs.Node(op, names(f"{node.name}_{op.lower()}"), {}, [data, operand], [result]))
        data = result
    node.attrs.pop("axis", None)
    node.inputs = [data, *grid]
    for pair in pairs:
        output, real = pair.outputs[0], steps()
        pair.attrs.pop("axis", None)
        pair.inputs = [node.outputs[0], *grid]
        pair.outputs = [real]
        made.append(gs.Node("Mul", names(f"{pair.name}_mul"), {}, [real, scale], [output]))
    return made


def fold_depthwise_scales(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Fold a per-channel multiplication in front of a depthwise convolution into the scale of its weights."""
    names = Names(graph)
    made: list[gs.Node] = []
    for layer in graph.nodes:
        product = produced_by(layer.inputs[0], "Mul") if layer.op == "Conv" else None
        weights = producer(layer.inputs[1]) if layer.op == "Conv" else None
        if product is None or weights is None or not is_dequantized_constant(weights):
            continue
        shape, groups = weights.inputs[0].shape, int(layer.attrs.get("group", 1))
        data, factor = produced_by(product.inputs[0], DEQUANTIZE), value_of(product.inputs[1])
        if shape[1] != 1 or shape[0] % groups or data is None or factor is None:
            continue
        reader = sole_consumer(graph, product.outputs[0])
        if reader is None or reader is not layer:
            continue
        vector = channel_vector(factor, len(shape), 1, groups)
        repeated = None if vector is None else np.repeat(vector, shape[0] // groups)
        scaled = None if repeated is None else scale_channels(weights.inputs[0].values, params_of(weights), repeated, 0)
        if scaled is None:
            continue
        output = gs.Variable(names(f"{layer.inputs[1].name}_scaled"), np.dtype(np.float32), list(shape))
        made.append(make_dequantize(names, weights.inputs[0].name, *scaled, output))
        layer.inputs[1] = output
        layer.inputs[0] = data.outputs[0]
        log.folded(product, f"into the scale of the weights of {layer.name}")
    graph.nodes.extend(made)
    return graph.cleanup().toposort() if made else graph
