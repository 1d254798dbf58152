"""What a file says of itself, its float variants and its edges, and what the writer says of it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from ai_edge_litert.interpreter import Interpreter

from drpai_qat.backends.tflite.running import WrittenNetwork
from drpai_qat.backends.tflite.writer import Form, write_tflite
from drpai_qat.core.errors import LoweringError
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.runtimes.tflite import LiteNetwork
from tests.backends.tflite.running import (
    canonical,
    dequantized,
    feeds_of,
    grid,
    model,
    normal,
    qdq,
    weights,
    written,
)

NAMES = ["pt_fuse_mbv2", "pt_stub_vit", "tf_resnet_op13", "mo_unet", "pt_up_yolo", "nncf_mbv3"]


def without_rounding(source: onnx.ModelProto) -> onnx.ModelProto:
    """The model with every QuantizeLinear -> DequantizeLinear of activations taken out."""
    plain = onnx.ModelProto()
    plain.CopyFrom(source)
    quantized = {node.output[0]: node.input[0] for node in plain.graph.node if node.op_type == "QuantizeLinear"}
    for node in plain.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in quantized:
            real = quantized[node.input[0]]
            del node.input[:], node.attribute[:]
            node.op_type, node.input[:] = "Identity", [real]
    kept = [node for node in plain.graph.node if node.op_type != "QuantizeLinear"]
    del plain.graph.node[:]
    plain.graph.node.extend(kept)
    return plain


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize(("form", "error"), [("float32", 2e-6), ("float16", 5e-3)])
def test_float_files_compute_the_network_without_rounding(name: str, form: Form, error: float) -> None:
    source = canonical(name)
    made = write_tflite(source, form=form)
    assert {info.dtype for info in (*made.inputs, *made.outputs)} == {"float32"}
    network, reference = LiteNetwork(made.content), Reference(without_rounding(source), name)
    for one in feeds_of(name, 2):
        wanted, found = reference.run(one), network.run(one)
        for output, expected in wanted.items():
            assert np.abs(found[output] - expected).max() <= error * np.abs(expected).max()


def test_sizes() -> None:
    source = canonical("tf_fcsm_op13")
    forms: tuple[Form, ...] = ("int8", "float16", "float32")
    sizes = [len(write_tflite(source, form=form).content) for form in forms]
    assert sizes[0] < 0.6 * sizes[1] < 0.4 * sizes[2]


def test_float_edges_are_the_source_types() -> None:
    source = canonical("tf_resnet_op13")
    floats, integers = written(source, edges="float32"), written(source)
    assert [info.dtype for info in (*floats.inputs, *floats.outputs)] == ["float32", "float32"]
    assert [info.dtype for info in (*integers.inputs, *integers.outputs)] == ["int8", "int8"]
    (one,) = feeds_of("tf_resnet_op13", 1)
    name = source.graph.output[0].name
    found = [WrittenNetwork(made).run(one)[name] for made in (floats, integers)]
    assert (found[0] == found[1]).all()


def test_names_and_signature() -> None:
    source = canonical("pt_up_yolo")
    made = written(source, ranges={"input": (-3.0, 3.0)})
    interpreter = Interpreter(model_content=made.content)
    signature = interpreter.get_signature_list()["serving_default"]
    assert signature == {"inputs": ["input"], "outputs": [one.name for one in source.graph.output]}
    run = interpreter.get_signature_runner("serving_default")
    details = run.get_output_details()
    for info in made.outputs:
        assert details[info.name]["name"] == info.name
        assert tuple(details[info.name]["shape"]) == info.shape
        assert info.quantization is not None
        assert details[info.name]["quantization"] == (info.quantization.scale, info.quantization.zero_point)


def test_coverage_names_every_node_once() -> None:
    source = canonical("pt_conv_resnet")
    made = written(source)
    nodes = [one.node for one in made.coverage]
    assert len(nodes) == len(set(nodes))
    assert made.int8_mac_fraction == 1.0
    assert sum(one.macs for one in made.coverage) > 0


def test_every_refusal_is_counted() -> None:
    with pytest.raises(LoweringError, match=r"node '.*' \(LayerNormalization\).*no layer normalization.*4 more nodes"):
        written(canonical("pt_stub_vit"))


def test_an_operator_without_a_writer_is_named() -> None:
    net = model("(float[1,4] x) => (float[1,4] y)", f"{qdq('x', 'a', 'x')} y = Hardmax (a)", **grid("x", 0.1, 128))
    with pytest.raises(LoweringError, match=r"'Hardmax_2' \(Hardmax\).*: there is no writer for it$"):
        written(net)


def test_a_number_beyond_32_bits_is_named() -> None:
    net = model(
        "(float[1,1,4,4] x) => (float[1,1,1,4] y)",
        f"{qdq('x', 'a', 'x')} y = MaxPool <kernel_shape=[1,1], strides=[4294967296,1]> (a)",
        **grid("x", 0.1, 128),
    )
    with pytest.raises(LoweringError, match=r"its strideH 4294967296 does not fit a TFLite file"):
        written(net)


def test_an_output_that_is_an_input_too() -> None:
    net = model("(float[1,4] x) => (float[1,4] y)", qdq("x", "y", "x"), **grid("x", 0.1, 128))
    x = normal(1, 4)
    made = WrittenNetwork(written(net)).run({"x": x})["y"]
    assert np.abs(made - x).max() <= 0.051


def test_data_gives_room_to_what_it_did_not_show() -> None:
    """An int16 grid holds twice what data showed; never more than can occur."""
    net = model(
        "(float[1,8,6,6] x) => (float[1,8,6,6] y)",
        f"{qdq('x', 'a', 'x')} {dequantized('w')} c = Conv <pads=[1,1,1,1]> (a, w) s = Sigmoid (c) t = Mul (c, s) "
        f"{qdq('t', 'y', 'y')}",
        **(grid("x", 0.02, 128) | grid("y", 0.05, 10) | weights("w", 8, 8, 3, 3)),
    )
    bounds = {one.tensor: one.grid.bounds[1] for one in written(net).derived}
    shown = {one.tensor: one.grid.bounds[1] for one in written(net, ranges={"c": (-3.0, 5.0)}).derived}
    assert shown["c"] == pytest.approx(10.0, rel=1e-3)
    assert bounds["c"] > 10.0


def test_a_large_file_is_not_packed_twice(tmp_path: Path) -> None:
    """Equal constants are stored once."""
    net = model(
        "(float[1,64] x) => (float[1,64] y)",
        f"{qdq('x', 'a', 'x')} {dequantized('w', 1)} m = MatMul (a, w) {qdq('m', 'b', 'y')} n = MatMul (b, w) "
        f"{qdq('n', 'y', 'y')}",
        **(grid("x", 0.02, 128) | grid("y", 0.1, 128) | weights("w", 64, 64, axis=1)),
    )
    path = tmp_path / "net.tflite"
    path.write_bytes(written(net).content)
    assert 64 * 64 < path.stat().st_size < 2 * 64 * 64
    assert LiteNetwork(path).outputs[0].shape == (1, 64)
