"""Nodes named after the layer that they come from, where the file says which: "layer1.0.conv1 (node_conv2d_3)".

torch's exporter of today (`dynamo=True`) numbers its nodes and writes the modules around each into its metadata, the
outermost first and the node itself last; the one of TorchScript makes a path of them, which is a name already.

    pkg.torch.onnx.name_scopes  ['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_3']
"""

from __future__ import annotations

import re

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"


def name_layers(graph: onnx.GraphProto) -> None:
    """Put the module's name in front of each node's; tensors keep theirs.

    Args:
        graph: changed in place. What no metadata says stays; so does a name that begins with its module already.
    """
    for node in graph.node:
        module = _module(node)
        if module and node.name and not node.name.startswith(module):
            node.name = f"{module} ({node.name})"


def _module(node: onnx.NodeProto) -> str:
    """The module that computes a node, as `named_modules` calls it; "" if it is not known, or the whole network."""
    scopes = next((one.value for one in node.metadata_props if one.key == _SCOPES), "")
    names = [double or single for double, single in re.findall(r'"([^"]*)"|\'([^\']*)\'', scopes)]
    return names[-2] if len(names) > 1 else ""
