"""Trained constants: fake-quant chains on weights become int8 initializers behind one DequantizeLinear.

    Q(w, s, z) -> [Clip] -> [Cast] -> DQ(s, z)   =>   DQ(q, s, z)        q = round(w / s) + z, evaluated once
    DQ(q, s, z) -> Transpose | Reshape | ...     =>   DQ(q', s', z')     moved on the integers, with the channel axis
    DQ(q, s, z), DQ(r, t, y) -> Concat           =>   DQ(q & r, s & t, z & y)    where one axis holds all the scales
    DQ(q, s, z) -> Mul(c) | Div(c)               =>   DQ(q, s * c, z)    c per tensor or per channel, into the scale
    DQ(q, s, z), not the weights of a layer      =>   float constant     logged

The integers are the ones onnxruntime computes (float32 division, half to even); no fold requantizes them.
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import QuantizationError
from drpai_qat.core.moving import PLACED
from drpai_qat.core.quantization import QuantParams
from preprocess.constants import evaluate_constants
from preprocess.moved_weights import concatenate, move
from preprocess.passlog import PassLog
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.scaling import scale_channels
from preprocess.surgery import (
    LAYERS,
    Array,
    Names,
    is_graph_output,
    make_dequantize,
    optional_input,
    params_of,
    producer,
    value_of,
)

_MAX_ROUNDS = 8


def fold_weight_fake_quant(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Evaluate Q/DQ on constants; the weights of layers stay integers behind DequantizeLinear.

    Raises: QuantizationError: weights that are NaN.
    """
    for _ in range(_MAX_ROUNDS):  # a constant quantized twice takes two rounds
        quantized = _quantize_constants(graph, log)
        if quantized:
            evaluate_constants(graph, log)  # integer Clip, Cast and the like behind QuantizeLinear
        moved = _absorb_into_dequantize(graph, log)
        folded = _fold_other_constants(graph, log)
        if folded:
            evaluate_constants(graph, log)
        if not (quantized or moved or folded):
            break
    return graph.cleanup()


def _quantize_constants(graph: gs.Graph, log: PassLog) -> bool:
    """Replace QuantizeLinear of a constant by its integers."""
    changed = False
    for node in graph.nodes:
        if node.op != QUANTIZE or not node.outputs:
            continue
        values = value_of(node.inputs[0])
        output = node.outputs[0]
        if values is None or is_graph_output(graph, output):
            continue
        if not np.isfinite(values).all():
            raise QuantizationError(f"node {node.name}, tensor {node.inputs[0].name}: constant holds NaN or infinity")
        log.folded(node, f"constant {node.inputs[0].name} quantized once")
        integers = quantize_blocks(node) if node.attrs.get("block_size", 0) else params_of(node).quantize(values)
        node.outputs.clear()
        output.to_constant(integers)
        changed = True
    return changed


def _absorb_into_dequantize(graph: gs.Graph, log: PassLog) -> bool:
    """Fold movements and scalings of the reals of a constant into its integers and scale; one sweep."""
    names = Names(graph)
    made: list[gs.Node] = []
    for node in graph.nodes:
        if node.op == "Concat" and not is_graph_output(graph, node.outputs[0]):
            _join(node, names, made, log)
            continue
        if node.op not in PLACED and node.op not in ("Mul", "Div"):
            continue
        source = _dequantize_input(node.inputs[:1] if node.op in PLACED else node.inputs)
        if source is None or any(is_graph_output(graph, output) for output in node.outputs):
            continue
        params, q = params_of(source), source.inputs[0].values
        parts = move(node, q, params, graph.opset) if node.op in PLACED else _scaled(node, q, params)
        if parts is None:
            continue
        base = source.inputs[0].name
        log.folded(source, f"behind {node.op} {node.name}, as integers of their own")
        log.folded(node, f"into the integers and scale of {base}")
        outputs = list(node.outputs)
        node.inputs.clear()
        node.outputs.clear()
        for output, (integers, moved) in zip(outputs, parts, strict=True):
            made.append(make_dequantize(names, base, integers, moved, output))
    graph.nodes.extend(made)
    if made:
        graph.cleanup().toposort()
    return bool(made)


def _join(node: gs.Node, names: Names, made: list[gs.Node], log: PassLog) -> None:
    """Concat of dequantized constants: of their integers, if the scales run along one axis."""
    sources = [producer(tensor) for tensor in node.inputs]
    if any(one is None or not is_dequantized_constant(one) for one in sources):
        return
    parts = [(one.inputs[0].values, params_of(one)) for one in sources if one is not None]
    joined = concatenate(parts, int(node.attrs["axis"]))
    if joined is None:
        return
    for one in sources:
        if one is not None:
            log.folded(one, f"behind {node.op} {node.name}, as integers of their own")
    log.folded(node, "into the integers and scales of what it joins")
    base, output = node.inputs[0].name, node.outputs[0]
    node.inputs.clear()
    node.outputs.clear()
    made.append(make_dequantize(names, base, *joined, output))


def _scaled(node: gs.Node, q: Array, params: QuantParams) -> list[tuple[Array, QuantParams]] | None:
    """Mul or Div by a constant: into the scale."""
    index = 0 if value_of(node.inputs[0]) is None else 1
    factor = value_of(node.inputs[1 - index])
    if factor is None or (node.op == "Div" and index == 1) or factor.ndim > q.ndim:
        return None
    shape = (1,) * (q.ndim - factor.ndim) + factor.shape
    wide = [at for at, size in enumerate(shape) if size != 1]
    if len(wide) > 1 or (wide and shape[wide[0]] != q.shape[wide[0]]):
        return None
    axis = wide[0] if wide else params.axis
    numbers = factor.reshape(-1).astype(np.float64)
    with np.errstate(divide="ignore"):
        scaled = scale_channels(q, params, 1 / numbers if node.op == "Div" else numbers, axis)
    return None if scaled is None else [scaled]


def _dequantize_input(inputs: list[gs.Tensor]) -> gs.Node | None:
    """The DequantizeLinear of constant integers among those that write `inputs`."""
    for tensor in inputs:
        maker = tensor.inputs[0] if tensor.inputs else None
        if maker is not None and is_dequantized_constant(maker):
            return maker
    return None


def is_dequantized_constant(node: gs.Node) -> bool:
    """True for DequantizeLinear of an initializer, per tensor or per channel."""
    return node.op == DEQUANTIZE and isinstance(node.inputs[0], gs.Constant) and not node.attrs.get("block_size", 0)


def _fold_other_constants(graph: gs.Graph, log: PassLog) -> bool:
    """Turn dequantized constants that are no layer's weights, bias or look-up table into float constants."""
    changed = False
    for node in graph.nodes:
        if node.op != DEQUANTIZE or not isinstance(node.inputs[0], gs.Constant) or not node.outputs:
            continue
        output = node.outputs[0]
        if is_graph_output(graph, output) or (is_dequantized_constant(node) and _is_trained_parameter(output)):
            continue
        if node.attrs.get("block_size", 0):
            log.skipped(node, "block-wise scales that no sum of layers expresses: float constant")
            reals = _dequantize_blocks(node)
        else:
            log.folded(node, f"{node.inputs[0].name} is no layer's weights: float constant")
            reals = params_of(node).dequantize(node.inputs[0].values)
        node.outputs.clear()
        output.to_constant(reals)
        changed = True
    return changed


def quantize_blocks(node: gs.Node) -> Array:
    """Integers of reals with one scale for `block_size` entries along `axis`."""
    limits = np.iinfo(node.inputs[2].dtype)
    scale, zero_point = _block_parameters(node)
    steps = np.rint(node.inputs[0].values / scale).astype(np.float64) + zero_point
    return np.clip(steps, limits.min, limits.max).astype(limits.dtype)


def _dequantize_blocks(node: gs.Node) -> Array:
    """Reals of block-wise quantized integers."""
    scale, zero_point = _block_parameters(node)
    return (node.inputs[0].values.astype(np.int64) - zero_point).astype(np.float32) * scale


def _block_parameters(node: gs.Node) -> tuple[Array, Array]:
    """Scale and zero point of each entry; the last block can be cut short."""
    cut = tuple(slice(0, size) for size in node.inputs[0].shape)
    axis, block = node.attrs["axis"], node.attrs["block_size"]
    scale, zero_point = (np.repeat(node.inputs[at].values, block, axis)[cut] for at in (1, 2))
    return scale.astype(np.float32), zero_point.astype(np.int64)


RECURRENT = ("LSTM", "GRU", "RNN")
"""Recurrent operators whose weights, inputs 1 and 2, can be integers."""


def weight_reader(tensor: gs.Tensor) -> gs.Node | None:
    """A layer that reads `tensor` as its weights, if any."""
    for node in tensor.outputs:
        if node.op in LAYERS and (optional_input(node, 1) is tensor or node.op == "MatMul"):
            return node
        if node.op in RECURRENT and any(optional_input(node, at) is tensor for at in (1, 2)):
            return node
    return None


def _is_trained_parameter(tensor: gs.Tensor) -> bool:
    """True if a layer reads `tensor` as weights or bias, or Gather as its table."""
    return weight_reader(tensor) is not None or any(
        (node.op in LAYERS and optional_input(node, 2) is tensor) or (node.op == "Gather" and node.inputs[0] is tensor)
        for node in tensor.outputs
    )
