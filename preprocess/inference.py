"""Nodes that only training needs: Identity, Dropout, BatchNormalization in training form.

Exporters write Identity for shared parameters, Dropout where the model was exported in training mode, and then also
BatchNormalization with training_mode=1 and up to four unused outputs. Deployment runs the inference form.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog


def remove_identities(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Bypass Identity and Dropout nodes; the names of graph inputs and outputs stay."""
    for node in graph.nodes:
        if node.op in ("Identity", "Dropout") and node.inputs and node.outputs:
            if any(output.outputs for output in node.outputs[1:]):
                log.skipped(node, "its mask is used")
            else:
                bypass(graph, node)
    return graph.cleanup()


def use_inference_batchnorm(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give every BatchNormalization its inference form: running statistics, one output."""
    for node in graph.nodes:
        if node.op != "BatchNormalization":
            continue
        if any(output.outputs for output in node.outputs[1:]):
            log.skipped(node, "its batch statistics are used")
            continue
        if node.attrs.pop("training_mode", 0):
            log.note(node.name, "exported in training mode; runs with its running statistics")
        for unused in node.outputs[1:]:
            unused.inputs.clear()
    return graph


def bypass(graph: gs.Graph, node: gs.Node) -> bool:
    """Connect what reads the first output of `node` to its first input.

    Returns: False if node joins a graph input or a constant to a graph output, where a node must stay.
    """
    source, output = node.inputs[0], node.outputs[0]
    is_graph_output = any(output is one for one in graph.outputs)
    if is_graph_output:
        if not source.inputs or any(source is one for one in graph.outputs):
            return False
        producer = source.inputs[0]
        node.outputs.clear()
        node.inputs.clear()
        replace_input(source, output)
        producer.outputs[_index(producer.outputs, source)] = output
        return True
    node.inputs.clear()
    node.outputs.clear()
    replace_input(output, source)
    return True


def replace_input(old: gs.Tensor, new: gs.Tensor) -> None:
    """Let every consumer of `old` read `new`."""
    for consumer in list(old.outputs):
        for index, tensor in enumerate(consumer.inputs):
            if tensor is old:
                consumer.inputs[index] = new


def _index(tensors: list[gs.Tensor], wanted: gs.Tensor) -> int:
    return next(index for index, tensor in enumerate(tensors) if tensor is wanted)
