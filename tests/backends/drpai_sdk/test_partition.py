"""What goes to the accelerator, what stays on the CPU, and that the parts in a row are the whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import pytest

import preprocess
from drpai_qat.backends.drpai_sdk.operators import SET_091, SET_100, Operators
from drpai_qat.backends.drpai_sdk.partition import MULTIPLYING, divide, macs
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.backends.drpai_sdk.submodels import borders, canonical_piece
from drpai_qat.data.samples import make_samples
from drpai_qat.graph.canonical import Graph, read_graph
from tests.reference import reference

SETS = {"091": Operators(SET_091, "091"), "100": Operators(SET_100, "100")}
CONSTANTS = """
    float s = {0.5}, uint8 z = {0}, float zero = {0}, float six = {6},
    float[4,4,1,1] w = {1,0,0,0,0,1,0,0,0,0,1,0,0,0,0,1}
"""


def graph_of(body: str) -> Graph:
    text = f"""<ir_version: 8, opset_import: ["" : 13]>
        net (float[1,4,2,2] x) => (float[1,4,2,2] y) <{CONSTANTS}> {{ {body} }}"""
    return read_graph(onnx.shape_inference.infer_shapes(onnx.parser.parse_model(text)))


def parts_of(body: str, operators: str = "091") -> list[str]:
    return [
        ("drpai " if part.accelerated else "cpu ") + " ".join(node.op for node in part.nodes)
        for part in divide(graph_of(body), SETS[operators])
    ]


def test_one_after_the_other() -> None:
    body = "a = Conv (x, w)  b = Erf (a)  y = Conv (b, w)"
    assert parts_of(body) == ["drpai Conv", "cpu Erf", "drpai Conv"]


@pytest.mark.parametrize(("operators", "parts"), [("091", ["drpai Conv Relu", "cpu Neg Relu"]), ("100", None)])
def test_091_takes_an_activation_with_its_layer_only(operators: str, parts: list[str] | None) -> None:
    body = "a = Conv (x, w)  b = Relu (a)  c = Neg (b)  y = Relu (c)"
    assert parts_of(body, operators) == (parts or ["drpai Conv Relu", "cpu Neg Relu"])
    body = "a = Relu (x)  y = Conv (a, w)"
    assert parts_of(body, operators) == (["cpu Relu", "drpai Conv"] if operators == "091" else ["drpai Relu Conv"])


def test_what_multiplies_nothing_stays_on_the_cpu() -> None:
    body = "a = Conv (x, w)  b = Erf (a)  c = Sigmoid (b)  d = Erf (c)  y = Conv (d, w)"
    assert parts_of(body) == ["drpai Conv", "cpu Erf Sigmoid Erf", "drpai Conv"]


def test_trained_ranges_go_along() -> None:
    """At an input, behind a CPU node, with the Clip that narrows it; alone they go nowhere."""
    body = """c = Clip (x, zero, six)  q = QuantizeLinear (c, s, z)  d = DequantizeLinear (q, s, z)  e = Conv (d, w)
        f = Erf (e)  g = QuantizeLinear (f, s, z)  h = DequantizeLinear (g, s, z)  y = Conv (h, w)"""
    assert parts_of(body) == ["drpai Clip FakeQuant Conv", "cpu Erf", "drpai FakeQuant Conv"]
    body = "a = Erf (x)  g = QuantizeLinear (a, s, z)  h = DequantizeLinear (g, s, z)  b = Erf (h)  y = Conv (b, w)"
    assert parts_of(body) == ["cpu Erf FakeQuant Erf", "drpai Conv"]


def test_a_range_whose_reader_waits_for_the_cpu_is_no_part_of_its_own() -> None:
    body = """a = Erf (x)  g = QuantizeLinear (a, s, z)  h = DequantizeLinear (g, s, z)  b = Erf (h)
        c = Conv (b, w)  y = Add (c, h)"""
    for part in divide(graph_of(body), SETS["091"]):
        assert not part.accelerated or any(node.op in MULTIPLYING for node in part.nodes)


def test_branches_do_not_wait_for_each_other() -> None:
    """The CPU's branch reads an accelerated value, and an accelerated layer reads the branch."""
    body = "a = Conv (x, w)  b = Erf (a)  c = Conv (a, w)  d = Conv (b, w)  y = Add (c, d)"
    assert parts_of(body) == ["drpai Conv Conv", "cpu Erf", "drpai Conv Add"]


def test_matrix_products_of_two_activations_need_100() -> None:
    body = "a = Conv (x, w)  y = MatMul (a, a)"
    assert parts_of(body, "091") == ["drpai Conv", "cpu MatMul"]
    assert parts_of(body, "100") == ["drpai Conv MatMul"]


def test_level_0_leaves_concat_to_the_cpu() -> None:
    options = SdkOptions(drp_compiler_dir="T", level=0)
    assert "Concat" not in Operators.chosen(options).conditions
    assert "Concat" in Operators.chosen(SdkOptions(drp_compiler_dir="T")).conditions


def test_macs() -> None:
    graph = graph_of("a = Conv (x, w)  b = MatMul (a, a)  y = Erf (b)")
    assert [macs(graph, node) for node in graph.nodes] == [64, 32, 0]


@pytest.mark.parametrize("operators", sorted(SETS))
@pytest.mark.parametrize(
    "name", ["mo_unet", "nncf_mbv3", "pt_fx_unet", "pt_stub_vit", "pt_up_yolo", "tf_att_op13", "tf_deconv_op13"]
)
def test_the_parts_in_a_row_are_the_whole(models: Path, name: str, operators: str) -> None:
    model = preprocess.preprocess(onnx.load(models / f"{name}.onnx")).model
    graph = read_graph(model)
    values = dict(make_samples(model, 1, 0)[0])
    names = [value.name for value in model.graph.output]
    wanted = dict(zip(names, reference(model, values), strict=True))
    parts = divide(graph, SETS[operators])
    assert sorted(id(node) for part in parts for node in part.nodes) == sorted(map(id, graph.nodes))
    for part in parts:
        inputs, outputs = borders(graph, part.nodes)
        piece = canonical_piece(model, graph, part.nodes, part.name)
        found = reference(piece, {name: values[name] for name in inputs})
        values |= dict(zip(outputs, found, strict=True))
    for output, value in wanted.items():
        np.testing.assert_array_equal(values[output], value)
