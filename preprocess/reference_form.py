"""The reference for the deployed network: the source as it is meant to run, in onnxruntime, with float32 input.

Some files need a change first. Training-mode exports compute batch statistics and drop activations at random: their
inference form does not. Files with OpenVINO's FakeQuantize or QONNX's Quant, with leftovers of converters, or with
16-bit grids below opset 21 do not load: the same arithmetic in standard operators does. Operators on integers saturate
on some CPUs: the float ones that define them do not. Half-precision and integer inputs and outputs get a Cast,
QuantizeLinear or DequantizeLinear, as the deployed network has float32 ones.
"""

from __future__ import annotations

import onnx
import onnx_graphsurgeon as gs

from preprocess.constants import fold_constants
from preprocess.custom_quantizers import translate_custom_quantizers
from preprocess.dialects import all_nodes, is_translated
from preprocess.fake_quantize import translate_fake_quantize
from preprocess.float_interface import use_float_interface
from preprocess.fused_operators import translate_fused_operators
from preprocess.inference_form import name_nodes, remove_identities, use_inference_batchnorm
from preprocess.loops import write_out_loops
from preprocess.opening import allow_16_bit_grids, needs_translation, open_graph
from preprocess.passlog import Pass, PassLog, run
from preprocess.precision import cast_interface
from preprocess.qonnx import translate_qonnx
from preprocess.qoperators import translate_qoperators

PASSES: tuple[Pass, ...] = (
    name_nodes,
    fold_constants,  # the ranges of FakeQuantize can be Constant nodes
    write_out_loops,
    translate_qoperators,
    translate_fused_operators,
    translate_custom_quantizers,
    translate_qonnx,
    translate_fake_quantize,
    remove_identities,
    use_inference_batchnorm,
    cast_interface,
    use_float_interface,
    allow_16_bit_grids,
)

_CONVERTED = {
    onnx.TensorProto.FLOAT16, onnx.TensorProto.BFLOAT16, onnx.TensorProto.DOUBLE,
    onnx.TensorProto.INT8, onnx.TensorProto.UINT8, onnx.TensorProto.INT16, onnx.TensorProto.UINT16,
}  # fmt: skip


def reference_model(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model to take reference outputs from: `model` itself unless it cannot run as it is.

    Args:
        model: loaded model with static input shapes; not changed.
    Returns: `model`, or its inference form with the same inputs and outputs.
    Raises: ModelError: another dialect.
    """
    own_types = {one.type.tensor_type.elem_type for one in (*model.graph.input, *model.graph.output)}
    wide = any(one.type.tensor_type.elem_type == onnx.TensorProto.INT64 for one in model.graph.input)
    changed = wide or needs_translation(model) or any(_needs_change(node) for node in all_nodes(model.graph))
    if own_types.isdisjoint(_CONVERTED) and not changed:
        return model
    log = PassLog()
    return gs.export_onnx(run(PASSES, open_graph(model, log), log))


def _needs_change(node: onnx.NodeProto) -> bool:
    if node.op_type == "BatchNormalization":
        return len(node.output) > 1 or any(one.name == "training_mode" and one.i for one in node.attribute)
    if node.op_type == "Dropout":
        return len(node.input) > 2 and bool(node.input[2])
    return is_translated(node)
