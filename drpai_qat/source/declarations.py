"""What a file declares of itself, where it leaves that out: onnxruntime needs none of it, onnx's checker does.

Graph editors and own exporters write graphs without a name, outputs without a type or shape, and operators of other
tools in the standard domain.
"""

from __future__ import annotations

import onnx

from drpai_qat.core.shape_inference import inferred

_UNNAMED = "network"
_OTHERS = "not.onnx"


def complete_declarations(model: onnx.ModelProto) -> None:
    """Name the graph, and give its outputs the types and shapes that can be inferred. Changes `model`."""
    graph = model.graph
    graph.name = graph.name or _UNNAMED
    unknown = {value.name: value for value in graph.output if _is_incomplete(value)}
    if not unknown:
        return
    try:
        found_out = inferred(_skeleton(model))
    except (onnx.shape_inference.InferenceError, ValueError, RuntimeError):
        return  # whatever is wrong is said where the model is checked
    for found in (*found_out.graph.output, *found_out.graph.value_info):
        value = unknown.get(found.name)
        if value is not None and found.type.HasField("tensor_type"):
            value.type.CopyFrom(found.type)


def checkable(model: onnx.ModelProto) -> onnx.ModelProto:
    """A model that onnx's checker accepts if nothing is wrong beyond what preprocess reads or refuses by name.

    Returns: `model`, or a copy in which shapes are declared and unknown operators are in a domain of their own.
    """
    values = [*model.graph.input, *model.graph.output]
    shapeless = any(one.type.HasField("tensor_type") and not one.type.tensor_type.HasField("shape") for one in values)
    opset = next((one.version for one in model.opset_import if one.domain in ("", "ai.onnx")), 0)
    if not shapeless and all(_is_known(node, opset) for node in model.graph.node):
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    for value in (*copy.graph.input, *copy.graph.output):
        if value.type.HasField("tensor_type") and not value.type.tensor_type.HasField("shape"):
            value.type.tensor_type.shape.SetInParent()
    for node in copy.graph.node:
        if not _is_known(node, opset):
            node.domain = _OTHERS
    copy.opset_import.append(onnx.helper.make_opsetid(_OTHERS, 1))
    return copy


def _is_known(node: onnx.NodeProto, opset: int) -> bool:
    """False for an operator of the standard domain that its opset does not have, or has deprecated."""
    if node.domain not in ("", "ai.onnx"):
        return True
    return onnx.defs.has(node.op_type, opset) and not onnx.defs.get_schema(node.op_type, opset).deprecated


def _is_incomplete(value: onnx.ValueInfoProto) -> bool:
    if value.type.HasField("tensor_type"):
        return not value.type.tensor_type.elem_type or not value.type.tensor_type.HasField("shape")
    return not value.type.WhichOneof("value")


def _skeleton(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with large weights as inputs, and without declared types of the outputs in question."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    kept = []
    for tensor in copy.graph.initializer:
        if len(tensor.raw_data) <= 4096:
            kept.append(tensor)
        else:
            info = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, list(tensor.dims))
            copy.graph.input.append(info)
    small = [onnx.TensorProto.FromString(tensor.SerializeToString()) for tensor in kept]
    del copy.graph.initializer[:]
    copy.graph.initializer.extend(small)
    for value in copy.graph.output:
        if _is_incomplete(value):
            value.ClearField("type")
    return copy
