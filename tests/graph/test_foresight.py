"""What is told of a network before it is compiled, against what lowering does."""

import onnx
import onnx.parser
import pytest
from tvm.relax.frontend.onnx import onnx_frontend

from drpai_qat.core.coverage import int8_mac_fraction
from drpai_qat.graph import operators
from drpai_qat.graph.canonical import Node
from drpai_qat.graph.foresight import by_importer, foresee_layers, integer_share, unsupported
from drpai_qat.graph.network import find_storage, read_network
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI
from drpai_qat.lowering import lower
from drpai_qat.lowering.elementwise import RULES
from drpai_qat.lowering.registry import LOWERINGS
from drpai_qat.source.static_shapes import specialize
from preprocess import preprocess
from tests.small_models import qdq_model

MIXED = ["mo_unet", "nncf_mbv3", "pt_partial_resnet", "pt_stub_vit", "pt_up_yolo", "tf_partdense_op13"]


def test_the_lists_of_operators_are_those_of_the_registries():
    assert RULES.keys() == operators.ELEMENTWISE
    assert LOWERINGS.keys() == operators.KERNELS
    assert onnx_frontend._get_convert_map().keys() == operators.IMPORTED


def agrees(path):
    """Layer by layer as on a CPU with VNNI; the share on one without lies between the two that are told."""
    canonical = preprocess(specialize(path.name, onnx.load(path), ())).model
    graph = read_network(canonical)
    layers = foresee_layers(graph, find_storage(graph, "uint8"))
    coverage = lower(canonical, AVX512_VNNI).coverage
    compiled = {node.node: (node.compute, node.macs, node.reason) for node in coverage if node.macs}
    assert {one.node.node: (one.node.compute, one.node.macs, one.node.reason) for one in layers} == compiled
    assert len(by_importer(graph)) == sum(node.compute == "tvm" and not node.macs for node in coverage)
    assert not unsupported(graph)
    least, most = integer_share(layers)
    assert most == int8_mac_fraction(coverage)
    assert least <= int8_mac_fraction(lower(canonical, AVX2).coverage) <= most
    return least, most


@pytest.mark.parametrize("name", MIXED)
def test_layers_are_foreseen_as_they_are_lowered(models, name):
    least, most = agrees(models / f"{name}.onnx")
    assert least < 1
    assert most > 0


@pytest.mark.slow
def test_every_export_is_foreseen_as_it_is_lowered(models):
    for path in sorted(models.glob("*.onnx")):
        agrees(path)


def test_an_einsum_without_a_kernel_counts():
    """Element by element: 2 * 5 * 4 products, in float32."""
    text = """<ir_version: 8, opset_import: ["" : 17]>
    net (float[2,5,4] x) => (float[2,5,4] y) <float s = {0.02}, uint8 z = {100}>
    { q = QuantizeLinear (x, s, z) d = DequantizeLinear (q, s, z) y = Einsum <equation = "blk,blk->blk"> (d, d) }"""
    canonical = preprocess(onnx.parser.parse_model(text)).model
    graph = read_network(canonical)
    (layer,) = foresee_layers(graph, find_storage(graph, "uint8"))
    assert [layer.node] == [one for one in lower(canonical, AVX512_VNNI).coverage if one.macs]
    assert (layer.node.compute, layer.node.macs) == ("tvm", 40)


@pytest.mark.parametrize("op", ["StringNormalizer", "NonZero"])
def test_what_ends_a_compilation_is_named(op):
    graph = read_network(preprocess(qdq_model()).model)
    odd = Node("odd", op, (graph.outputs[0],), ("other",))
    ((node, why),) = unsupported(graph.with_nodes((*graph.nodes, odd)))
    assert node is odd
    assert why
