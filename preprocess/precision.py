"""One float type: float32.

Half-precision exports (ModelOpt, autocast) compute in float16 between Cast nodes. The integer network has float32
scales and float32 input and output; float16 values are float32 values, so all that is lost is the intermediate rounding
to half precision.
"""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs

from preprocess.constants import evaluate_constants
from preprocess.passlog import PassLog
from preprocess.surgery import Names, bypass

_OTHERS = {
    onnx.TensorProto.FLOAT16: np.dtype(np.float16),
    onnx.TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16),
    onnx.TensorProto.DOUBLE: np.dtype(np.float64),
}


def use_float32(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Turn float16, bfloat16 and float64 tensors and casts into float32; drop casts that then do nothing."""
    for tensor in (*graph.inputs, *graph.outputs):
        if is_other_float(tensor.dtype):
            log.note(tensor.name, f"{_numpy_dtype(tensor.dtype).name} in the source, float32 here")
    for tensor in graph.tensors().values():
        _convert(tensor)
    for node in graph.nodes:
        for key in ("to", "dtype", "output_dtype"):
            if node.attrs.get(key) in _OTHERS:
                node.attrs[key] = int(onnx.TensorProto.FLOAT)
        value = node.attrs.get("value")
        if isinstance(value, gs.Constant):
            _convert(value)
    return graph


def remove_idle_casts(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Bypass casts to the type that a tensor has already; needs inferred types.

    CastLike (dynamo exports that were not optimized, function bodies) becomes Cast; casts of constants are evaluated.
    """
    for node in graph.nodes:
        if node.op == "CastLike" and node.inputs[1].dtype is not None:
            to = onnx.helper.np_dtype_to_tensor_dtype(_numpy_dtype(node.inputs[1].dtype))
            node.op, node.attrs, node.inputs = "Cast", {"to": to}, [node.inputs[0]]
        if node.op != "Cast" or node.inputs[0].dtype is None:
            continue
        if _numpy_dtype(node.inputs[0].dtype) == onnx.helper.tensor_dtype_to_np_dtype(node.attrs["to"]):
            bypass(graph, node)
    return evaluate_constants(graph, log)


def cast_interface(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Put casts between float32 inputs and outputs and the half or double precision inside."""
    names = Names(graph)
    for index, tensor in enumerate(graph.inputs):
        if is_other_float(tensor.dtype):
            outer = gs.Variable(tensor.name, np.dtype(np.float32), tensor.shape)
            tensor.name = names(f"{tensor.name}_inner")
            to = onnx.helper.np_dtype_to_tensor_dtype(np.dtype(tensor.dtype))
            graph.nodes.append(gs.Node("Cast", names(f"{outer.name}_cast"), {"to": to}, [outer], [tensor]))
            graph.inputs[index] = outer
    for index, tensor in enumerate(graph.outputs):
        if is_other_float(tensor.dtype):
            outer = gs.Variable(tensor.name, np.dtype(np.float32), tensor.shape)
            tensor.name = names(f"{tensor.name}_inner")
            to = int(onnx.TensorProto.FLOAT)
            graph.nodes.append(gs.Node("Cast", names(f"{outer.name}_cast"), {"to": to}, [tensor], [outer]))
            graph.outputs[index] = outer
    return graph.toposort()


def is_other_float(dtype: Any) -> bool:
    """True for a float type other than float32: a numpy type, or an ONNX number where numpy has none."""
    return dtype is not None and (dtype in _OTHERS if isinstance(dtype, int) else np.dtype(dtype) in _OTHERS.values())


def _numpy_dtype(dtype: Any) -> np.dtype[Any]:
    """graphsurgeon keeps ONNX's number where numpy alone does not know the type."""
    return np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype) if isinstance(dtype, int) else dtype)


def _convert(tensor: gs.Tensor) -> None:
    if not is_other_float(tensor.dtype):
        return
    if isinstance(tensor, gs.Constant):
        tensor.values = tensor.values.astype(np.float32)
    else:
        tensor.dtype = np.dtype(np.float32)
