"""Nodes named after the layer that they come from, where the file says which: "layer1.0.conv1 (node_conv2d_3)".

torch's exporter of today (`dynamo=True`) numbers its nodes and writes the modules around each into its metadata, the
outermost first and the node itself last; the one of TorchScript makes a path of them, which is a name already.

    pkg.torch.onnx.name_scopes  ['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_3']

A network from export-based quantization (PT2E) is one flat module, but its parameters have their names still:
model.layer1.0.conv1.bias, where `model` is what `drpai_qat.export` puts around a network.
"""

from __future__ import annotations

import re

import onnx

_SCOPES = "pkg.torch.onnx.name_scopes"
_PARAMETER = re.compile(r"(?:model\.)?(.+)\.(?:weight|bias)")


def name_layers(graph: onnx.GraphProto) -> None:
    """Put the module's name in front of each node's; tensors keep theirs.

    Args:
        graph: changed in place. What no metadata says stays; so does a name that begins with its module already.
    """
    parameters = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        module = _module(node, parameters)
        if module and node.name and not node.name.startswith(module):
            node.name = f"{module} ({node.name})"


def _module(node: onnx.NodeProto, parameters: set[str]) -> str:
    """The module that computes a node, as `named_modules` calls it; "" if it is not known, or the whole network."""
    scopes = next((one.value for one in node.metadata_props if one.key == _SCOPES), "")
    names = [double or single for double, single in re.findall(r'"([^"]*)"|\'([^\']*)\'', scopes)]
    if len(names) > 1 and names[-2]:
        return names[-2]
    own = (_PARAMETER.fullmatch(name) for name in node.input if name in parameters)
    return next((found[1] for found in own if found), "") if names else ""
