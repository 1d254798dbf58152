"""PReLU, which tf2onnx spells out, as one node again.

Relu(x) + c * Relu(-x)   =>   PRelu(x, -c)      bit-equal
"""

from __future__ import annotations

import numpy as np
import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.sizes import is_static
from preprocess.surgery import Names, produced_by, value_of


def write_prelu(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace Relu(x) + c * Relu(-x) by PRelu."""
    names = Names(graph)
    for node in graph.nodes:
        found = _prelu(node) if node.op == "Add" and node.outputs else None
        if found is None:
            continue
        data, slope = found
        base = node.outputs[0].name
        node.op, node.inputs = "PRelu", [data, gs.Constant(names(f"{base}_slope"), slope)]
    return graph.cleanup()


def _prelu(add: gs.Node) -> tuple[gs.Tensor, np.ndarray] | None:
    """Input and slope of the PRelu that ends in `add`."""
    for index in (0, 1):
        positive, product = produced_by(add.inputs[index], "Relu"), produced_by(add.inputs[1 - index], "Mul")
        if positive is None or product is None:
            continue
        at = 0 if value_of(product.inputs[0]) is not None else 1
        factor, negative = value_of(product.inputs[at]), produced_by(product.inputs[1 - at], "Relu")
        negated = produced_by(negative.inputs[0], "Neg") if negative is not None else None
        data = positive.inputs[0]
        if factor is None or negated is None or negated.inputs[0] is not data or not is_static(data.shape):
            continue
        if list(np.broadcast_shapes(factor.shape, tuple(data.shape))) == list(data.shape):
            return data, -factor
    return None
