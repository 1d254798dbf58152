"""Operators that ONNX defines by a function of simpler ones, and that no kernel serves: replaced by that function.

Attention, RMSNormalization, RotaryEmbedding (opset 23) and their kin. What a function computes from shapes and
attributes is folded later, as any shape arithmetic.
"""

from __future__ import annotations

import onnx
import onnx.inliner

EXPANDED = (
    "Attention", "RMSNormalization", "RotaryEmbedding", "CenterCropPad", "SwiGLU", "LinearAttention",
    "FlexAttention", "CausalConvWithState",
)  # fmt: skip


def expand_functions(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with those operators replaced; `model` itself if it has none."""
    if not any(node.op_type in EXPANDED and not node.domain for node in model.graph.node):
        return model
    typed = onnx.ModelProto()
    typed.CopyFrom(model)
    known = {info.name for info in (*typed.graph.value_info, *typed.graph.input, *typed.graph.output)}
    typed.graph.value_info.extend(  # which the inliner takes types from
        onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
        for tensor in typed.graph.initializer
        if tensor.name not in known
    )
    names = [("", op) for op in EXPANDED]
    try:
        expanded = onnx.inliner.inline_selected_functions(typed, names, exclude=False, inline_schema_functions=True)
    except RuntimeError:  # onnx's inliner fails at some omitted inputs; who lowers the operator refuses it by name
        return model
    del expanded.graph.value_info[:]
    return expanded
