"""Which framework a file comes from, and whether it is a QAT export at all.

Exporters sign their files. Where another tool (a simplifier, a merger) rewrote one, its weights give the answer:
PyTorch exports quantize weights in the graph, tf2onnx leaves float constants that already lie on their grid.
"""

from __future__ import annotations

from dataclasses import dataclass

import onnx_graphsurgeon as gs

from drpai_qat.core.errors import NoFakeQuantError
from preprocess.passlog import PassLog
from preprocess.product_forms import is_trained
from preprocess.quantize_nodes import DEQUANTIZE, QUANTIZE
from preprocess.recover_weights import were_quantized
from preprocess.surgery import LAYERS, producer

_PRODUCERS = {"pytorch": "pytorch", "tf2onnx": "tensorflow", "keras2onnx": "tensorflow"}


@dataclass(frozen=True)
class Framework:
    """Where a file comes from.

    Attributes:
        qat_type: "pytorch" or "tensorflow".
        reason: the evidence for it, for messages.
        certain: False if the file could come from either framework.
    """

    qat_type: str
    reason: str
    certain: bool


def detect_framework(producer_name: str, graph: gs.Graph) -> Framework:
    """Decide by the exporter's signature, else by how weights are quantized."""
    known = _PRODUCERS.get(producer_name.lower())
    if known is not None:
        return Framework(known, f"written by {producer_name}", True)
    through, constant = 0, 0
    for node in graph.nodes:
        if node.op in LAYERS and len(node.inputs) > 1:
            kind = _kind_of_weights(node.inputs[1])
            through += kind is True
            constant += kind is False
    if through:
        return Framework("pytorch", f"{through} layers quantize their weights in the graph", not constant)
    if constant and any(node.op == QUANTIZE for node in graph.nodes):
        return Framework("tensorflow", "activations are quantized, weights are plain constants", False)
    return Framework("pytorch", "no sign of either framework", False)


def has_fake_quant(graph: gs.Graph) -> bool:
    """True if activations or weights were quantized: by QuantizeLinear or DequantizeLinear, or left on a grid."""
    return any(node.op in (QUANTIZE, DEQUANTIZE) for node in graph.nodes) or were_quantized(graph)


def require_fake_quant(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Refuse a model without anything trained to be quantized; say if only its weights were.

    Raises: NoFakeQuantError: there is no QuantizeLinear and no DequantizeLinear, and no weights lie on a grid.
    """
    if log.dynamic or any(node.op == QUANTIZE and not is_trained(node.inputs[0]) for node in graph.nodes):
        return graph
    if not has_fake_quant(graph):
        raise NoFakeQuantError(
            "no fake-quant in the file: it has no QuantizeLinear or DequantizeLinear node; train it "
            "quantization-aware and export the prepared model, or drop -a and -m: then it is quantized after training",
            see="no-fake-quant-in-the-file",
        )
    log.warn(
        "model",
        "quantized in its weights alone: int8 weights are kept, activations have no trained range and stay float32",
    )
    return graph


def _kind_of_weights(tensor: gs.Tensor) -> bool | None:
    """True for constants behind Q/DQ, False for plain constants, None for activations."""
    quantized = False
    while not isinstance(tensor, gs.Constant):
        node = producer(tensor)
        if node is None:
            return None
        if node.op == "Constant":
            break
        quantized = quantized or node.op in (QUANTIZE, DEQUANTIZE)
        if not node.inputs:
            return None
        tensor = node.inputs[0]
    return quantized
