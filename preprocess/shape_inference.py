"""Static shapes for every tensor, and shape arithmetic (Shape, Gather, Concat, ...) evaluated to constants.

The network's input shapes are static when a model comes here. Shape inference and constant folding feed each other:
a folded Reshape target makes the next shape known, which makes the next Shape node foldable, or tells how often a loop
runs.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from drpai_qat.core.shape_inference import inferred
from preprocess.constants import evaluate_constants
from preprocess.loops import unroll_loops
from preprocess.passlog import PassLog
from preprocess.sizes import is_static, without_large_values

_MAX_ROUNDS = 8
_LIKE_INPUT = ("GroupNormalization",)
"""Operators whose output has type and shape of the first input, and that onnx cannot infer."""

_DEFAULT_AXES = [0, 2, 3]
"""Of MeanVarianceNormalization: onnx's function for it knows no default, and fails in inference and in the checker."""

_RUN_TIME = {
    "Loop": "how often it runs is decided while it runs; export the model with a constant number of steps",
    "Scan": "loops of this kind are not written out; export the model with its steps unrolled",
    "If": "which branch it takes is decided while it runs; export the model with one of them",
}


def make_shapes_static(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Infer all shapes and evaluate all that depends on shapes alone, until nothing changes.

    Raises: ModelError: shapes contradict each other.
    """
    for node in graph.nodes:
        if node.op == "MeanVarianceNormalization":
            node.attrs.setdefault("axes", _DEFAULT_AXES)
    for _ in range(_MAX_ROUNDS):
        infer_shapes(graph, log)
        folded = _infer_the_rest(graph)
        folded = _fold_shape_nodes(graph) or folded
        before = len(graph.nodes)
        evaluate_constants(graph, log)
        folded = unroll_loops(graph, log) or folded
        if not folded and len(graph.nodes) == before:
            break
    return graph


def infer_shapes(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Set dtype and shape of every tensor that ONNX shape inference knows.

    Raises: ModelError: inference finds a contradiction.
    """
    known = _inferred(graph, strict=False)
    tensors = graph.tensors()
    for info in (*known.graph.value_info, *known.graph.output):
        tensor = tensors.get(info.name)
        kind = info.type.tensor_type
        if not isinstance(tensor, gs.Variable) or not info.type.HasField("tensor_type"):
            continue
        if kind.elem_type:
            tensor.dtype = _dtype(kind.elem_type)
        if kind.HasField("shape"):
            tensor.shape = [d.dim_value if d.HasField("dim_value") else d.dim_param or None for d in kind.shape.dim]
    return graph


def _infer_the_rest(graph: gs.Graph) -> bool:
    """Shapes that onnx cannot infer; true if there was one, behind which onnx may know more now."""
    changed = False
    for node in graph.nodes:
        if node.op not in _LIKE_INPUT or not node.outputs or is_static(node.outputs[0].shape):
            continue
        if is_static(node.inputs[0].shape):
            node.outputs[0].shape, node.outputs[0].dtype = list(node.inputs[0].shape), node.inputs[0].dtype
            changed = True
    return changed


def require_static_shapes(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Refuse tensors whose size is not known at compile time.

    Raises: ModelError: shapes contradict each other, or depend on the data; names node and tensor.
    """
    for node in graph.nodes:
        for tensor in node.outputs:
            if tensor.is_empty() or isinstance(tensor, gs.Constant) or is_static(tensor.shape):
                continue
            _inferred(graph, strict=True)  # says why, where it knows
            if node.op in _RUN_TIME:
                raise ModelError(f"node {node.name} ({node.op}): {_RUN_TIME[node.op]}")
            names = ",".join(_before_unknown_sizes(graph))
            raise ModelError(
                f"node {node.name} ({node.op}), tensor {tensor.name}: its size depends on the data; "
                f"end the network before that part{f': --outputs {names}' if names else ''}",
                see="parts-whose-size-depends-on-the-data",
            )
    return graph


def _before_unknown_sizes(graph: gs.Graph) -> list[str]:
    """What nodes of unknown size read, and outputs of the network that don't depend on them."""
    found: dict[str, None] = {}
    for node in graph.nodes:
        if any(not is_static(one.shape) for one in node.outputs if not one.is_empty()):
            computed = [one for one in node.inputs if isinstance(one, gs.Variable) and one.inputs]
            found |= dict.fromkeys(one.name for one in computed if is_static(one.shape))
    return [*found, *(one.name for one in graph.outputs if is_static(one.shape) and one.name not in found)]


def _inferred(graph: gs.Graph, *, strict: bool) -> onnx.ModelProto:
    """The graph with value infos; in strict mode operators that don't accept their inputs are errors."""
    skeleton = without_large_values(gs.export_onnx(graph, do_type_check=False))
    try:
        return inferred(skeleton, strict=strict)
    except onnx.shape_inference.InferenceError as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"shapes contradict each other: {lines[-1]}") from error


def _fold_shape_nodes(graph: gs.Graph) -> bool:
    """Turn the output of every Shape and Size node with a static input into a constant; true if there was one."""
    changed = False
    for node in graph.nodes:
        if (
            node.op not in ("Shape", "Size")
            or not node.inputs
            or not node.outputs
            or not is_static(node.inputs[0].shape)
        ):
            continue
        dims = list(node.inputs[0].shape)
        if node.op == "Size":
            value = np.array(int(np.prod(dims)), dtype=np.int64)
        else:
            value = np.array(dims[node.attrs.get("start", 0) : node.attrs.get("end", len(dims))], dtype=np.int64)
        output = node.outputs[0]
        if any(output is one for one in graph.outputs):
            continue
        node.outputs.clear()
        output.to_constant(value)
        changed = True
    if changed:
        graph.cleanup()
    return changed


def _dtype(elem_type: int) -> object:
    try:
        return onnx.helper.tensor_dtype_to_np_dtype(elem_type)
    except KeyError:
        return elem_type
