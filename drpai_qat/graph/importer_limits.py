"""What TVM's ONNX importer accepts but computes differently from ONNX: refused, so that nothing is silently wrong.

Each case is shown by a node test of onnx (tests/backend).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drpai_qat.graph.canonical import Graph, Node


def why_not_importable(graph: Graph, node: Node) -> str:
    """Why the importer's result would be wrong; empty where it is right."""
    check = _CHECKS.get(node.op)
    return check(graph, node) if check is not None else ""


def _resize(graph: Graph, node: Node) -> str:
    mode, transformation = (node.attributes.get(a) for a in ("mode", "coordinate_transformation_mode"))
    if node.attributes.get("antialias", 0):
        return "antialias is not supported"
    if transformation == "tf_crop_and_resize":
        return "coordinate_transformation_mode tf_crop_and_resize is not supported"
    given = graph.constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] else None
    if given is not None and given.size:
        in_shape, out_shape = graph.shapes[node.inputs[0]], graph.shapes[node.output]
        axes = node.attributes.get("axes") or range(len(in_shape))
        if not np.allclose([out_shape[a] / in_shape[a] for a in axes], given.reshape(-1), rtol=1e-6):
            return f"mode {mode} with scales that don't give whole sizes is not supported"
    return ""


def _roi_align(graph: Graph, node: Node) -> str:
    return "mode max is not supported" if node.attributes.get("mode") == "max" else ""


def _max_roi_pool(graph: Graph, node: Node) -> str:
    return "nothing checks where its regions lie; export RoiAlign"


def _is_inf(graph: Graph, node: Node) -> str:
    both = node.attributes.get("detect_positive", 1) and node.attributes.get("detect_negative", 1)
    return "" if both else "detecting one sign alone is not supported"


def _batch_norm(graph: Graph, node: Node) -> str:
    return "training mode is not supported" if node.attributes.get("training_mode", 0) else ""


def _layer_norm(graph: Graph, node: Node) -> str:
    read = [name for name in node.outputs[1:] if graph.consumers().get(name) or name in graph.outputs]
    return "its outputs Mean and InvStdDev are not supported" if read else ""


def _recurrent(graph: Graph, node: Node) -> str:
    return "sequences of their own length each, layout 1, input_forget and functions with parameters are not supported"


def _sized_by_values(graph: Graph, node: Node) -> str:
    return "the size of its output depends on the data; end the network before it"


_CHECKS: dict[str, Callable[[Graph, Node], str]] = {
    "BatchNormalization": _batch_norm,
    "Compress": _sized_by_values,
    "IsInf": _is_inf,
    "LayerNormalization": _layer_norm,
    "MaxRoiPool": _max_roi_pool,
    **dict.fromkeys(("LSTM", "GRU", "RNN"), _recurrent),
    "NonMaxSuppression": _sized_by_values,
    "NonZero": _sized_by_values,
    "Resize": _resize,
    "RoiAlign": _roi_align,
    "Unique": _sized_by_values,
}
