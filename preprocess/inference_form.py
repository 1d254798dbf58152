"""Nodes that only training needs: Identity, Dropout, BatchNormalization in training form.

Exporters write Identity for shared parameters, Dropout where the model was exported in training mode, and then also
BatchNormalization with training_mode=1 and up to four unused outputs. Deployment runs the inference form.
"""

from __future__ import annotations

import onnx_graphsurgeon as gs

from preprocess.passlog import PassLog
from preprocess.surgery import bypass, is_graph_output


def name_nodes(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give every node a name of its own, so that messages and the report can point at it."""
    used: set[str] = set()
    for node in graph.nodes:
        if not node.name or node.name in used:
            base = f"{node.op}_{node.outputs[0].name}" if node.outputs else node.op
            node.name, count = base, 1
            while node.name in used:
                count += 1
                node.name = f"{base}_{count}"
        used.add(node.name)
    return graph


def remove_identities(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Bypass Identity and Dropout nodes; the names of graph inputs and outputs stay."""
    for node in graph.nodes:
        if node.op not in ("Identity", "Dropout") or not node.inputs or not node.outputs:
            continue
        if any(output.outputs or is_graph_output(graph, output) for output in node.outputs[1:]):
            log.skipped(node, "its mask is used")
        elif not bypass(graph, node):
            log.skipped(node, "joins an input or a constant to an output of the network")
    return graph.cleanup()


def use_inference_batchnorm(graph: gs.Graph, log: PassLog) -> gs.Graph:
    """Give every BatchNormalization its inference form: running statistics, one output."""
    for node in graph.nodes:
        if node.op != "BatchNormalization":
            continue
        if any(output.outputs or is_graph_output(graph, output) for output in node.outputs[1:]):
            log.skipped(node, "its batch statistics are used")
            continue
        if node.attrs.pop("training_mode", 0):
            log.note(node.name, "exported in training mode; runs with its running statistics")
        node.attrs.pop("momentum", None)
        while len(node.outputs) > 1:
            node.outputs.pop()
    return graph
