"""Nodes are named after the layers of the framework, in errors and in the report."""

from pathlib import Path

import onnx
import pytest

from drpai_qat.core.errors import ModelError
from drpai_qat.source.framework_names import name_layers
from drpai_qat.source.loading import load

TEXT = """
<ir_version: 10, opset_import: ["" : 18]>
g (float[1, 4] x) => (float[1, 4] z) {
    [node_relu_3] y = Relu (x)
    [node_add] z = Add (y, x)
}
"""


def exported(*scopes: str | None) -> onnx.ModelProto:
    """What torch's exporter writes, for each node."""
    model = onnx.parser.parse_model(TEXT)
    for node, text in zip(model.graph.node, scopes, strict=True):
        if text is not None:
            node.metadata_props.add(key="namespace", value=": Net/relu: torch.nn.ReLU")
            node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value=text)
    return model


@pytest.mark.parametrize(
    ("scopes", "name"),
    [
        ("['', 'layer1', 'layer1.0', 'layer1.0.act', 'relu_3']", "layer1.0.act (node_relu_3)"),
        ('["", "it\'s.act", "relu_3"]', "it's.act (node_relu_3)"),
        ("['', 'relu_3']", "node_relu_3"),  # the network itself
        ("['relu_3']", "node_relu_3"),
        ("[[[[", "node_relu_3"),
        ("", "node_relu_3"),
        (None, "node_relu_3"),
    ],
)
def test_names(scopes: str | None, name: str) -> None:
    graph = exported(scopes, None).graph
    for _ in range(2):  # the second time changes nothing
        name_layers(graph)
        assert [node.name for node in graph.node] == [name, "node_add"]
        assert [*graph.node[0].output, *graph.node[1].input] == ["y", "y", "x"]


@pytest.mark.parametrize("parameter", ["model.layer1.0.act.bias", "layer1.0.act.bias"])
def test_flat_networks_are_named_by_their_parameters(parameter: str) -> None:
    graph = exported(None, "['', 'add']").graph
    graph.initializer.append(onnx.helper.make_tensor(parameter, onnx.TensorProto.FLOAT, [1], [1.0]))
    graph.node[1].input[1] = parameter
    name_layers(graph)
    assert [node.name for node in graph.node] == ["node_relu_3", "layer1.0.act (node_add)"]


def test_errors_name_the_layer(tmp_path: Path) -> None:
    model = exported("['', 'layer1', 'layer1.0', 'layer1.0.act', 'relu_3']", None)
    model.graph.node[0].input[0] = "lost"
    onnx.save(model, tmp_path / "m.onnx")
    with pytest.raises(ModelError, match=r"Relu 'layer1.0.act \(node_relu_3\)' reads 'lost', which nothing makes"):
        load(tmp_path / "m.onnx")
