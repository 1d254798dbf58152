"""Per-channel steps behind a layer, folded into it where no trained rounding lies between.

Fused QAT modules compute, with W* = fake_quant(W * f) and f = gamma / sqrt(var + eps),

    Y = ((W* X) / f + b - mean) * gamma / sqrt(var + eps) + beta

Any chain of Mul, Div, Add, Sub by per-channel constants and BatchNormalization is Y = a * (W* X) + c, a and c of shape
(channels,), composed in float64. Then scale(W*)' = scale(W*) * a and bias' = c, rounded once; the trained integers
do not change. Where the scale cannot express a (scales along the input channels, grouped transposed convolutions),
the chain becomes one BatchNormalization, a per-channel multiply-add behind the layer.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import onnx_graphsurgeon as gs
from numpy.typing import NDArray

from preprocess.passlog import PassLog
from preprocess.scaling import scale_channels
from preprocess.surgery import (
    LAYERS,
    Names,
    channel_axis,
    channel_vector,
    detach,
    make_dequantize,
    optional_input,
    params_of,
    producer,
    sole_consumer,
    take_over,
    value_of,
)
from preprocess.weights import is_dequantized_constant


@dataclass
class _Chain:
    """Y = factor * (W X) + offset, and the nodes that compute it behind the layer."""

    factor: NDArray[np.float64]
    offset: NDArray[np.float64]
    nodes: list[gs.Node] = field(default_factory=list)

    def absorb(self, node: gs.Node, factor: NDArray[np.float64], offset: NDArray[np.float64]) -> None:
        """Append Y -> factor * Y + offset."""
        self.factor = self.factor * factor
        self.offset = self.offset * factor + offset
        self.nodes.append(node)


def fold_affine_steps(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Fold batch norms and per-channel arithmetic into the scale and bias of the layer in front."""
    names = Names(graph)
    made: list[gs.Node] = []
    for layer in list(graph.nodes):
        if layer.op not in LAYERS or not _has_constant_weights(layer):
            continue
        chain = _chain_behind(graph, layer)
        if chain is None or not _worth_folding(layer, chain):
            continue
        made += _fold(graph, layer, chain, names, log)
    graph.nodes.extend(made)
    return graph.cleanup().toposort()


def _worth_folding(layer: gs.Node, chain: _Chain) -> bool:
    """False if the layer is in its final form already."""
    if layer.op == "Gemm" and (layer.attrs.get("alpha", 1.0), layer.attrs.get("beta", 1.0)) != (1.0, 1.0):
        return True
    if layer.op == "MatMul" and len(layer.outputs[0].shape or ()) != 2:
        return len(chain.nodes) > 1 or any(node.op != "Add" for node in chain.nodes)
    return bool(chain.nodes)


def _has_constant_weights(layer: gs.Node) -> bool:
    weights = layer.inputs[1]
    maker = producer(weights)
    return isinstance(weights, gs.Constant) or (maker is not None and is_dequantized_constant(maker))


def _weights_shape(layer: gs.Node) -> tuple[int, ...]:
    maker = producer(layer.inputs[1])
    return tuple((layer.inputs[1] if maker is None else maker.inputs[0]).shape)


def output_channels(layer: gs.Node) -> int:
    """Output channels of a layer whose weights are a constant."""
    groups = layer.attrs.get("group", 1) if layer.op == "ConvTranspose" else 1
    return int(_weights_shape(layer)[channel_axis(layer)]) * int(groups)


def _chain_behind(graph: gs.Graph, layer: gs.Node) -> _Chain | None:
    """The longest run of per-channel steps that only `layer` feeds; None if its own bias is not known."""
    weights, output = layer.inputs[1], layer.outputs[0]
    if weights.shape is None and producer(weights) is None:
        return None
    shape = _weights_shape(layer)
    rank = len(output.shape) if output.shape is not None else len(shape)
    axis = 1 if layer.op.startswith("Conv") else rank - 1
    if layer.op == "MatMul" and len(shape) != 2:
        return None
    channels = output_channels(layer)
    bias = _own_bias(layer, channels)
    if bias is None:
        return None
    alpha = float(layer.attrs.get("alpha", 1.0)) if layer.op == "Gemm" else 1.0
    chain = _Chain(np.full(channels, alpha), bias)
    while (node := sole_consumer(graph, output)) is not None:
        step = _step(node, output, rank, axis, channels)
        if step is None:
            break
        chain.absorb(node, *step)
        output = node.outputs[0]
    return chain


def _own_bias(layer: gs.Node, channels: int) -> NDArray[np.float64] | None:
    """Bias as float64, shape (channels,), zeros if there is none; None if it is not one number per channel."""
    tensor = optional_input(layer, 2)
    if tensor is None:
        return np.zeros(channels)
    maker = producer(tensor)
    if maker is not None and is_dequantized_constant(maker):
        reals = params_of(maker).dequantize(maker.inputs[0].values)
    elif isinstance(tensor, gs.Constant):
        reals = tensor.values
    else:
        return None
    vector = channel_vector(reals, max(reals.ndim, 1), max(reals.ndim, 1) - 1, channels)
    beta = float(layer.attrs.get("beta", 1.0)) if layer.op == "Gemm" else 1.0
    return None if vector is None else vector * beta


def _step(
    node: gs.Node, data: gs.Tensor, rank: int, axis: int, channels: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Factor and offset of one elementwise node on `data`; None for any other node."""
    zeros, ones = np.zeros(channels), np.ones(channels)
    if node.op == "BatchNormalization":
        return _batchnorm_step(node, channels) if axis == 1 and node.inputs[0] is data else None
    if node.op not in ("Mul", "Div", "Add", "Sub") or len(node.inputs) != 2:
        return None
    first = node.inputs[0] is data
    value = value_of(node.inputs[1 if first else 0])
    operand = channel_vector(value, rank, axis, channels) if value is not None else None
    if operand is None:
        return None
    if node.op == "Mul":
        return operand, zeros
    if node.op == "Div":
        return (np.divide(1, operand, out=np.zeros(channels), where=operand != 0), zeros) if first else None
    if node.op == "Add":
        return ones, operand
    return (ones, -operand) if first else (-ones, operand)


def _batchnorm_step(node: gs.Node, channels: int) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """gamma / sqrt(var + eps) and beta - mean * that, in float64."""
    values = [value_of(tensor) for tensor in node.inputs[1:5]]
    if any(value is None for value in values) or len(node.outputs) != 1:
        return None
    gamma, beta, mean, variance = (np.asarray(value, np.float64) for value in values)
    if gamma.shape != (channels,):
        return None
    with np.errstate(invalid="ignore", divide="ignore"):  # a variance that is none: whoever folds looks at the result
        factor = gamma / np.sqrt(variance + np.float64(np.float32(node.attrs.get("epsilon", 1e-5))))
    return factor, beta - mean * factor


def _fold(graph: gs.Graph, layer: gs.Node, chain: _Chain, names: Names, log: PassLog) -> list[gs.Node]:
    """Rewrite `layer` so that it computes the whole chain; returns new nodes."""
    if not (np.isfinite(chain.factor).all() and np.isfinite(chain.offset).all()):
        log.skipped(layer, "the arithmetic behind it is not finite")
        return []
    weights = _scaled_weights(layer, chain.factor, names)
    if weights is None:
        return _as_batchnorm(layer, chain, names, log)
    for node in chain.nodes:
        log.folded(node, f"into the scale and bias of {layer.name}")
    maker = producer(layer.inputs[1])
    layer.inputs[1], made = weights
    if made and maker is not None:
        log.folded(maker, f"its scale now includes the arithmetic behind {layer.name}")
    last = chain.nodes[-1].outputs[0] if chain.nodes else layer.outputs[0]
    for node in chain.nodes:
        detach(node)
    if layer.op == "MatMul" and len(layer.outputs[0].shape or ()) == 2 == len(layer.inputs[0].shape or ()):
        layer.op = "Gemm"
    if layer.op == "MatMul":
        bias = gs.Constant(names(f"{layer.name}_bias"), chain.offset.astype(np.float32))
        return [*made, gs.Node("Add", names(f"{layer.name}_add_bias"), {}, [layer.outputs[0], bias], [last])]
    _set_bias(layer, chain.offset, names)
    if last is not layer.outputs[0]:
        take_over(layer, last)
    return made


def _scaled_weights(
    layer: gs.Node, factor: NDArray[np.float64], names: Names
) -> tuple[gs.Tensor, list[gs.Node]] | None:
    """Weights times one factor per output channel; None if their scale cannot express it."""
    weights, maker = layer.inputs[1], producer(layer.inputs[1])
    if (factor == 1).all():
        return weights, []
    axis = channel_axis(layer)
    groups = int(layer.attrs.get("group", 1)) if layer.op == "ConvTranspose" else 1
    if groups > 1:
        per_group = factor.reshape(groups, -1)
        if (per_group == per_group[0]).all():
            factor = per_group[0]
        elif per_group.shape[1] == 1 and _weights_shape(layer)[0] == groups:
            axis = 0  # depthwise: the input channel is the output channel
        else:
            return None
    if maker is None:
        shape = [-1 if at == axis else 1 for at in range(weights.values.ndim)]
        scaled = (weights.values.astype(np.float64) * factor.reshape(shape)).astype(np.float32)
        return gs.Constant(names(f"{weights.name}_scaled"), scaled), []
    result = scale_channels(maker.inputs[0].values, params_of(maker), factor, axis)
    if result is None:
        return None
    output = gs.Variable(names(f"{weights.name}_scaled"), np.dtype(np.float32), list(maker.inputs[0].shape))
    return output, [make_dequantize(names, maker.inputs[0].name, *result, output)]


def _set_bias(layer: gs.Node, offset: NDArray[np.float64], names: Names) -> None:
    """Give `layer` the bias `offset`."""
    layer.attrs.pop("alpha", None)
    layer.attrs.pop("beta", None)
    old = optional_input(layer, 2)
    if old is None and not offset.any():
        return
    bias = gs.Constant(names(f"{layer.name}_bias"), offset.astype(np.float32))
    if len(layer.inputs) > 2:
        layer.inputs[2] = bias
    else:
        layer.inputs.append(bias)


def _as_batchnorm(layer: gs.Node, chain: _Chain, names: Names, log: PassLog) -> list[gs.Node]:
    """Collapse the chain into one BatchNormalization of mean 0 and variance 1; a single node stays as it is."""
    for node in chain.nodes:
        log.skipped(node, f"the scale of {layer.inputs[1].name} runs along other channels")
    if len(chain.nodes) < 2 or layer.op == "MatMul":
        return []
    last, size = chain.nodes[-1].outputs[0], chain.factor.size
    for node in chain.nodes:
        detach(node)
    while len(layer.inputs) > 2:
        layer.inputs.pop()
    layer.attrs.pop("alpha", None)
    numbers = {"gamma": chain.factor, "beta": chain.offset, "mean": np.zeros(size), "variance": np.ones(size)}
    inputs = [gs.Constant(names(f"{layer.name}_{name}"), value.astype(np.float32)) for name, value in numbers.items()]
    name = names(f"{layer.name}_batchnorm")
    return [gs.Node("BatchNormalization", name, {"epsilon": 0.0}, [layer.outputs[0], *inputs], [last])]
