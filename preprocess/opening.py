"""From a loaded ONNX model to the graph that the passes work on.

In order: local functions are inlined (the dynamo exporter writes them), leftovers of converters are written out, custom
dialects are refused by name, sparse constants become dense, initializers stop being inputs (IR version 3 listed both),
files older than opset 13 are converted (QuantizeLinear has its channel axis only from there), and so are files with
16-bit grids (standard only from opset 21); operators that are functions of simpler ones are replaced by these.
"""

from __future__ import annotations

import numpy as np
import onnx
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs

from drpai_qat.core.errors import ModelError
from preprocess.constants import evaluate_constants
from preprocess.custom_quantizers import claim_custom_quantizers, is_custom_quantizer
from preprocess.dialects import STANDARD, refuse_dialects, rename_standard_nodes
from preprocess.function_operators import expand_functions
from preprocess.leftovers import is_leftover, write_leftovers
from preprocess.passlog import PassLog
from preprocess.sparse import write_dense

MIN_OPSET = 13
MIN_OPSET_16_BIT = 21
_QUANTIZERS = ("QuantizeLinear", "DequantizeLinear")
_16_BIT = (onnx.TensorProto.INT16, onnx.TensorProto.UINT16)


def open_graph(model: onnx.ModelProto, log: PassLog) -> gs.Graph:
    """Make the graph.

    Args:
        model: loaded model with static input shapes; not changed.
        log: receives a note of each conversion.
    Raises: ModelError: another dialect, an opset that cannot be converted.
    """
    log.running = "open_graph"
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    own = onnx.ModelProto()
    own.CopyFrom(model)
    claim_custom_quantizers(own)
    write_leftovers(own, opset_of(own), log)
    refuse_dialects(own, opset_of(own))
    write_dense(own)
    _keep_plain_inputs(own)
    # Before nodes are renamed: the converter passes other domains by, and knows all operators of the standard one.
    own = _at_least_opset(own, MIN_OPSET_16_BIT if _has_16_bit_grids(own) else MIN_OPSET, log)
    rename_standard_nodes(own, log)
    return gs.import_onnx(expand_functions(own))


def needs_translation(model: onnx.ModelProto) -> bool:
    """True if onnxruntime cannot run `model` as it is, but can run what `open_graph` makes of it."""
    opset = opset_of(model)
    return (_has_16_bit_grids(model) and opset < MIN_OPSET_16_BIT) or any(
        is_leftover(node, opset) or is_custom_quantizer(node) for node in model.graph.node
    )


def _has_16_bit_grids(model: onnx.ModelProto) -> bool:
    """True if a QuantizeLinear or DequantizeLinear reads a 16-bit constant."""
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Constant" and node.attribute and node.attribute[0].HasField("t"):
            types[node.output[0]] = node.attribute[0].t.data_type
    quantizers = (node for node in model.graph.node if node.op_type in _QUANTIZERS)
    return any(types.get(name) in _16_BIT for node in quantizers for name in node.input)


def allow_16_bit_grids(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Raise the opset to 21 if a pass made a 16-bit grid, which is standard only from there."""
    if graph.opset >= MIN_OPSET_16_BIT or not any(
        node.op in _QUANTIZERS and any(one.dtype in (np.int16, np.uint16) for one in node.inputs[2:])
        for node in graph.nodes
    ):
        return graph
    return with_16_bit_opset(graph, log)


def with_16_bit_opset(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Raise the opset to the one from which on 16-bit grids are standard, if it is older.

    Raises: ModelError: an operator can't be converted.
    """
    if graph.opset >= MIN_OPSET_16_BIT:
        return graph
    raised = gs.import_onnx(_at_least_opset(gs.export_onnx(graph), MIN_OPSET_16_BIT, log))
    return evaluate_constants(raised, log)  # axes that were attributes come as Constant nodes


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set.

    Raises: ModelError: the file imports none.
    """
    for opset in model.opset_import:
        if opset.domain in STANDARD:
            return int(opset.version)
    raise ModelError("the file imports no standard ONNX operator set; export it again")


def _keep_plain_inputs(model: onnx.ModelProto) -> None:
    """Drop initializers from the list of inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    if len(inputs) < len(model.graph.input):
        del model.graph.input[:]
        model.graph.input.extend(inputs)


def _at_least_opset(model: onnx.ModelProto, wanted: int, log: PassLog) -> onnx.ModelProto:
    """Convert to opset `wanted` if older."""
    version = opset_of(model)
    if version >= wanted:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, wanted)
    except Exception as error:  # the converter raises RuntimeError and subclasses that it does not export
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"can't convert opset {version} to {wanted}: {reason}; export with opset {wanted}") from error
    log.note("model", f"converted from opset {version} to {wanted}")
    return converted
