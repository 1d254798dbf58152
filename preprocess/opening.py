"""From a loaded ONNX model to the graph that the passes work on.

In order: custom dialects are refused by name, local functions are inlined (the dynamo exporter writes them),
initializers stop being inputs (IR version 3 listed both), files older than opset 13 are converted
(QuantizeLinear has its channel axis only from there).
"""

from __future__ import annotations

import onnx
import onnx.inliner
import onnx.version_converter
import onnx_graphsurgeon as gs

from drpai_qat.errors import ModelError
from preprocess.passlog import PassLog

MIN_OPSET = 13
STANDARD_DOMAINS = ("", "ai.onnx")


def open_graph(model: onnx.ModelProto, log: PassLog) -> gs.Graph:
    """Make the graph.

    Args:
        model: loaded model with static input shapes; not changed.
        log: receives what was converted.
    Raises: ModelError: another dialect, an opset that can't be converted, a graph that is not valid.
    """
    log.running = "open_graph"
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    model = _with_plain_inputs(model)
    model = _with_recent_opset(model, log)
    return gs.import_onnx(model)


def opset_of(model: onnx.ModelProto) -> int:
    """Version of the standard operator set.

    Raises: ModelError: the file imports none.
    """
    for opset in model.opset_import:
        if opset.domain in STANDARD_DOMAINS:
            return int(opset.version)
    raise ModelError("the file imports no standard ONNX operator set; export it again")


def _with_plain_inputs(model: onnx.ModelProto) -> onnx.ModelProto:
    """Drop initializers from the list of inputs."""
    constants = {tensor.name for tensor in model.graph.initializer}
    inputs = [one for one in model.graph.input if one.name not in constants]
    if len(inputs) == len(model.graph.input):
        return model
    plain = onnx.ModelProto()
    plain.CopyFrom(model)
    del plain.graph.input[:]
    plain.graph.input.extend(inputs)
    return plain


def _with_recent_opset(model: onnx.ModelProto, log: PassLog) -> onnx.ModelProto:
    """Convert to opset 13 if older."""
    version = opset_of(model)
    if version >= MIN_OPSET:
        return model
    try:
        converted = onnx.version_converter.convert_version(model, MIN_OPSET)
    except Exception as error:  # the converter raises RuntimeError and subclasses that it does not export
        reason = str(error).strip().splitlines()[0]
        raise ModelError(f"can't convert opset {version} to {MIN_OPSET}: {reason}; export with opset 13 or later") from error
    log.note("model", f"converted from opset {version} to {MIN_OPSET}")
    return converted
