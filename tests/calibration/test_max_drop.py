"""Layers given 16 bits, or left in float, until the outputs are near enough."""

import json

import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

import drpai_qat
import preprocess
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.insertion import insert_grids, quantize_biases, quantize_weights
from drpai_qat.calibration.kinds import kinds_of_tensors
from drpai_qat.calibration.max_drop import fewest
from drpai_qat.calibration.placement import sites_between_kernels
from drpai_qat.calibration.ranges import grid_of_range
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.sixteen_bits import MOST_GROWTH, largest_values, sum_of_weights, wide_grids
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Silent
from drpai_qat.options import CompileOptions
from preprocess.opening import with_16_bit_opset
from preprocess.passlog import PassLog
from tests.calibration.float_models import attention, frames, make, residual
from tests.lowering.running import execute, lowered
from tests.reference import reference
from tests.small_models import qdq_model


def drop_of(model, source, data):
    """As docs/calibration.md defines it."""
    found, wanted = (np.stack([reference(one, frame)[0] for frame in data]) for one in (model, source))
    return 100 * np.linalg.norm(found - wanted) / np.linalg.norm(wanted)


def kept(source, limit):
    data = frames(source)
    folded = preprocess.preprocess(source, may_be_float=True).model
    found = quantize_float(folded, data, Recipe(max_drop=limit), Silent())
    preprocess.validate(found.model)
    assert found.kept is not None
    assert found.kept.drop == pytest.approx(drop_of(found.model, source, data), rel=1e-3)
    assert found.kept.drop <= limit
    return found.model, found.kept


def kinds_of_layers(model):
    """By name: float32, or the type of the integers that the layer multiplies, and of its weights."""
    makers = {output: node for node in model.graph.node for output in node.output}
    types = {
        tensor.name: onnx.TensorProto.DataType.Name(tensor.data_type).lower() for tensor in model.graph.initializer
    }

    def kind(name):
        if name not in makers or types.get(name) == "float":
            return "float32"
        maker = makers[name]
        if maker.op_type == "DequantizeLinear":
            return types[maker.input[2]]
        return kind(maker.input[0]) if maker.op_type in ("Flatten", "MaxPool", "Concat") else "float32"

    layers = [node for node in model.graph.node if node.op_type in ("Conv", "Gemm")]
    return {node.name: tuple(map(kind, node.input[:2])) for node in layers}


def test_the_worst_layers_get_16_bits_and_then_float():
    source = residual()
    _, whole = kept(source, 5)
    assert not whole.wide
    assert not whole.floating
    assert whole.drop == whole.before
    model, told = kept(source, whole.before * 0.1)
    assert model.opset_import[0].version == 21
    assert told.before == whole.before
    assert told.of == 7
    for layers in (told.wide, told.floating):
        drops = [layer.drop for layer in layers]
        assert drops == sorted(drops, reverse=True)
    kinds = kinds_of_layers(model)
    assert {name for name, (kind, _) in kinds.items() if kind == "int16"} == {layer.name for layer in told.wide}
    assert {name for name, (kind, _) in kinds.items() if kind == "float32"} == {layer.name for layer in told.floating}
    assert [layer.name for layer in told.floating] == ["Conv_c3"]  # depthwise: no kernel takes finer weights
    fine = {layer.name for layer in told.wide if layer.weight_bits == 16}
    assert fine == {name for name, (_, weights) in kinds.items() if weights == "int16"}
    assert fine
    worst = min(layer.wide_drop for layer in told.wide if layer.name in fine)
    assert all(layer.wide_drop <= worst for layer in told.wide if layer.name not in fine)
    assert 0 < told.wide_macs < told.wide_macs + told.float_macs <= 1 + 1e-9
    network = lowered(model)
    assert {n.node: n.compute for n in network.coverage if n.macs} == {
        name: {"uint8": "int8", "int8": "int8"}.get(kind, kind) for name, (kind, _) in kinds.items()
    }


def test_products_of_two_activations_get_16_bits():
    """As many as int32 leaves: 8 products of 14 bits each."""
    model, told = kept(attention(), 0.4)
    assert {layer.name for layer in told.wide} >= {"MatMul_scores", "MatMul_mixed"}
    assert not told.floating
    network = lowered(model)
    assert {node.compute for node in network.coverage if node.macs} == {"int16"}


def test_layers_of_many_inputs_get_as_many_steps_as_their_accumulators_hold(tmp_path):
    """And what lies beyond the range that data showed is clipped: the accumulators are safe whatever is read."""
    source = make(
        """<ir_version: 8, opset_import: ["" : 13]> net (float[1,3072] x) => (float[1,8] y) {
            a = Gemm<transB=1>(x, w1, b1) r = Relu(a) y = Gemm<transB=1>(r, w2, b2) }""",
        w1=(16, 3072), b1=(16,), w2=(8, 16), b2=(8,),
    )  # fmt: skip
    folded = preprocess.preprocess(source, may_be_float=True).model
    data = frames(source)
    graph = gs.import_onnx(folded)
    quantize_weights(graph)
    sites = sites_between_kernels(graph)
    grids = {site.name: grid_of_range(-1, 1) for site in sites}
    wide = wide_grids(graph, sites, grids, {"Gemm_a", "Gemm_y"}, largest_values(folded, list(grids), data))
    weights = {node.name: sum_of_weights(node) for node in graph.nodes if node.op == "Gemm"}
    assert 1023 < wide["x"].qmax < 32767 == wide["r"].qmax
    assert 0.6 * 2**31 < weights["Gemm_a"] * wide["x"].qmax < 0.8 * 2**31 / MOST_GROWTH
    insert_grids(graph, sites, wide)
    quantize_biases(graph)
    model = gs.export_onnx(with_16_bit_opset(graph, PassLog()))
    preprocess.validate(model)
    assert kinds_of_tensors(model, set(grids))["calibrated"] == ["x", "r"]
    network = lowered(model)
    assert [node.compute for node in network.coverage if node.macs] == ["int16", "int16"]
    # The largest accumulator that there is, and inputs far outside the range: the same clipped.
    signs = np.sign(graph.tensors()["w1_quantized"].values[3].astype(np.float32))
    far = execute(network, {"x": 1e6 * signs[None]})[0]
    assert np.array_equal(far, execute(network, {"x": np.float32(wide["x"].real_range()[1]) * signs[None]})[0])
    assert np.allclose(far, reference(model, {"x": 1e6 * signs[None]})[0], rtol=1e-4, atol=1e-3)


def test_where_no_layer_could_be_in_integers():
    with pytest.raises(OptionError, match="all 7 layers would have to stay in float"):
        kept(residual(), 1e-4)


@pytest.mark.parametrize("guess", [0, 1, 5, 99])
@pytest.mark.parametrize("least", [1, 2, 6, 9, 10])
def test_the_fewest_that_pass(least, guess):
    tried: list[int] = []

    def passes(count):
        tried.append(count)
        return count >= least

    assert fewest(passes, guess, 10) == least
    assert len(tried) == len(set(tried))
    assert all(0 < count < 10 for count in tried)
    assert fewest(lambda count: False, guess, 1) == 1


def test_through_the_command(tmp_path, capsys):
    onnx.save(residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in frames(residual())]))
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--calibration", str(tmp_path / "data.npz"), "--check", "layers", "--max-drop", "0.5"]
    assert compile_main([str(tmp_path / "net.onnx"), *arguments]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "1 of 7 layers with 16-bit activations, 0.0% of the MACs: Gemm_y" in shown
    told = json.loads((out / "report.json").read_text())["calibration"]["max_drop"]
    assert told["drop"] <= told["limit"] == 0.5 < told["drop_all_int8"]
    assert [one["name"] for one in told["int16_layers"]] == ["Gemm_y"]
    assert told["float_layers"] == []
    assert told["int16_layers"][0]["weight_bits"] == 8
    assert told["int16_layers"][0]["drop_alone_int16"] < told["int16_layers"][0]["drop_alone"]


@pytest.mark.parametrize(
    ("others", "says"),
    [
        ({"qat_type": "pytorch"}, "--max-drop: for models without QAT: drop it, or -a"),
        ({"target": "tflite"}, "--target tflite can't have single layers in float"),
        ({"drp_compiler_dir": "there"}, "the DRP-AI SDK's tools can't have single layers in float"),
    ],
)
def test_where_it_is_refused(others, says):
    with pytest.raises(OptionError, match=says):
        CompileOptions("m.onnx", max_drop=1.0, **others)


def test_a_quantized_file_is_refused(tmp_path):
    onnx.save(qdq_model(), tmp_path / "net.onnx")
    with pytest.raises(OptionError, match="layers are quantized already: drop it"):
        drpai_qat.compile(tmp_path / "net.onnx", output_dir=tmp_path / "out", max_drop=1.0)
    assert not (tmp_path / "out").exists()
