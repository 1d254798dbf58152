"""What a file is that its user may not know: it compiles, and its results would mislead.

exported in training mode     onnxruntime computes it otherwise than the network does
never calibrated              every range is the default of its observer
quantized after training      ranges are calibrated, not trained
"""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import onnx.numpy_helper
import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.product_forms import is_trained
from preprocess.quantize_nodes import QUANTIZE
from preprocess.surgery import value_of

_AFTER_TRAINING = {"onnx.quantize": "onnxruntime's quantization tool", "neural_compressor": "Neural Compressor"}
_FEW = 2
"""A single scale of 1.0 can be trained: integers are fed in so."""


def warn_about_source(model: onnx.ModelProto, log: PassLog) -> None:
    """Warnings that the source file tells."""
    training = training_nodes(model)
    if training:
        told = " and ".join(f"{count} {op}" for op, count in sorted(training.items()))
        log.warn(
            "model",
            f"exported in training mode ({told}): compiled and compared in evaluation mode; "
            "call model.eval() before the export",
        )
    tool = _AFTER_TRAINING.get(model.producer_name)
    if tool is not None:
        log.warn("model", f"quantized after training, by {tool}: its ranges are calibrated, not trained")


def warn_if_never_calibrated(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Warn if every range is the one that observers begin with."""
    inputs = {id(tensor) for tensor in graph.inputs}
    scales = [
        value_of(node.inputs[1])
        for node in graph.nodes
        if node.op == QUANTIZE and id(node.inputs[0]) not in inputs and not is_trained(node.inputs[0])
    ]
    if len(scales) >= _FEW and all(scale is not None and bool((scale == 1).all()) for scale in scales):
        log.warn(
            "model",
            f"prepared but never calibrated: the scale of all {len(scales)} activations is 1.0, as observers begin; "
            "run training data through the prepared model before the export",
        )
    return graph


def training_nodes(model: onnx.ModelProto) -> Counter[str]:
    """Number of nodes in training form, by operator."""
    true = {tensor.name for tensor in model.graph.initializer if _is_true(tensor)}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and _is_true(node.attribute[0].t):
            true.add(node.output[0])
    return Counter(node.op_type for node in model.graph.node if _is_training(node, true))


def _is_training(node: onnx.NodeProto, true: set[str]) -> bool:
    if node.op_type == "BatchNormalization":
        return sum(bool(name) for name in node.output) > 1 or any(
            one.name == "training_mode" and one.i for one in node.attribute
        )
    return node.op_type == "Dropout" and len(node.input) > 2 and node.input[2] in true


def _is_true(tensor: onnx.TensorProto) -> bool:
    return tensor.data_type == onnx.TensorProto.BOOL and bool(np.all(onnx.numpy_helper.to_array(tensor)))
