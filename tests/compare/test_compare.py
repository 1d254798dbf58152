"""drpai-qat compare: faulty copies get the cause that they have, files of all kinds are read, bad input is one line."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import preprocess
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.cli.main import main
from drpai_qat.compare.compare_options import CompareOptions
from drpai_qat.compare.comparison import compare
from drpai_qat.compare.layers import first_divergence
from drpai_qat.compare.text import described
from drpai_qat.core.progress import Silent
from tests.calibration.float_models import frames, residual
from tests.compare import faults

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Holds a.onnx, a trained network."""
    made = tmp_path_factory.mktemp("compare")
    onnx.save(faults.trained(), made / "a.onnx")
    return made


def compared(a, b, **options):
    return compare(CompareOptions(a=a, b=b, **{"check_samples": 2, **options}), Silent())


@pytest.mark.parametrize("fault", faults.FAULTS, ids=lambda fault: fault.__name__)
def test_a_fault_is_named(folder, fault):
    onnx.save(fault(onnx.load(folder / "a.onnx")), folder / "b.onnx")
    found = compared(folder / "a.onnx", folder / "b.onnx")
    assert found.cause is not None
    assert found.cause.name == faults.FAULTS[fault], found.verdict
    assert not found.passed


def test_weights_that_were_quantized_after_training_are_no_others(folder):
    source = faults.float_twin(onnx.load(folder / "a.onnx"))
    generator = np.random.default_rng(3)
    for one in source.graph.initializer:
        values = numpy_helper.to_array(one)
        if values.ndim > 1:
            step = np.abs(values).max(axis=tuple(range(1, values.ndim)), keepdims=True) / 127
            values = values + (generator.uniform(-0.45, 0.45, values.shape) * step).astype(np.float32)
            one.CopyFrom(numpy_helper.from_array(values, one.name))
    onnx.save(source, folder / "float.onnx")
    found = compared(folder / "float.onnx", folder / "a.onnx")
    assert found.cause is not None
    assert found.cause.name == "quantized weights", found.verdict


def test_a_float_network_beside_itself_quantized_after_training(tmp_path):
    source = residual()  # with a batch norm
    folded = preprocess.preprocess(source, may_be_float=True).model
    onnx.save(source, tmp_path / "float.onnx")
    onnx.save(quantize_float(folded, frames(source, 16), Recipe(), Silent()).model, tmp_path / "int8.onnx")
    np.savez(tmp_path / "s.npz", x=np.stack([one["x"] for one in frames(source, 4)]))
    found = compared(tmp_path / "float.onnx", tmp_path / "int8.onnx", samples=tmp_path / "s.npz")
    assert found.cause is not None
    assert found.cause.name == "quantized weights", found.verdict
    pairs = {one.pair.ours: one.pair.theirs.split("_")[0] for one in found.layers}
    assert {"r1", "m2"} <= pairs.keys()
    assert all(ours == theirs for ours, theirs in pairs.items()), pairs
    assert min(one.single.sqnr_db for one in found.layers) > 25


def test_the_first_layer_is_where_the_fault_is(folder):
    onnx.save(faults.rounding_down(onnx.load(folder / "a.onnx")), folder / "b.onnx")
    found = compared(folder / "a.onnx", folder / "b.onnx")
    first = first_divergence(found.layers)
    assert first is not None
    assert first.pair.ours == "d2"
    by_name = {one.pair.ours: one for one in found.layers}
    assert by_name["dc"].single.max_lsb == 0
    assert first.single.max_lsb == 1
    # Fed with A's integers, what follows the fault is right; on its own it is not.
    assert by_name["y"].single.max_lsb == 0
    assert by_name["y"].accumulated.max_lsb > 0


def test_equal_files_and_limits(folder, capsys):
    assert main(["compare", str(folder / "a.onnx"), str(folder / "a.onnx"), "--quiet"]) == 0
    assert capsys.readouterr().out == "no layer diverges: all integers equal\n"
    onnx.save(faults.coarse_bias(onnx.load(folder / "a.onnx")), folder / "b.onnx")
    pair = [str(folder / "a.onnx"), str(folder / "b.onnx"), "--quiet"]
    assert main(["compare", *pair]) == 3
    assert main(["compare", *pair, "--max-lsb", "40"]) == 0  # the outputs alone count where limits are given
    assert main(["compare", *pair, "--max-lsb", "0"]) == 3
    assert main(["compare", *pair, "--atol", "1"]) == 0
    assert main(["compare", *pair, "--atol", "0", "--rtol", "1e-6"]) == 3
    capsys.readouterr()
    assert main(["compare", *pair[:2], "--json", "--fail-fast"]) == 3
    content = json.loads(capsys.readouterr().out)
    assert content["schema_version"] == 1
    assert content["first_divergence"]["cause"] == "bias rounding"
    assert content["outputs"] == []
    assert content["layers"][-1]["diverges"]


@pytest.mark.parametrize(
    ("model", "verdict"),
    [
        ("tf_cnn_op13", "no layer diverges: all integers equal"),
        ("tf_concat_op13", "rounding mode: B rounds twice: to the grid of model_5/quant_average_pooling2d/AvgPool"),
        ("tf_resnet_op13", "no layer diverges"),
        ("tf_cnn_lite", "no layer diverges: all integers equal"),
        ("tf_fcsm_op13", "no layer diverges"),
    ],
)
def test_files_of_tensorflows_converter(model, verdict):
    found = compared(MODELS / f"{model}.onnx", MODELS / f"{model}.tflite")
    assert verdict in found.verdict
    assert not found.matching.unmatched
    assert all(one.same for one in found.parameters.grids if one.kind == "activation" and one.ulp is not None)
    assert all(one.integers == 0 for one in found.parameters.grids if one.kind == "weights")
    back = compared(MODELS / f"{model}.tflite", MODELS / f"{model}.onnx")
    assert len(back.layers) >= len(found.layers) - 1
    assert ("diverges first" in back.verdict) == ("diverges first" in found.verdict)


@pytest.mark.parametrize("model", ["pt_up_yolo", "pt_stub_vit", "pt_fuse_mbv2"])
def test_our_own_tflite_files(tmp_path, model):
    source = MODELS / f"{model}.onnx"
    arguments = ["compile", str(source), "--target", "tflite", "--allow-float", "--check", "none", "--quiet"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    found = compared(source, tmp_path / "out")
    assert found.passed, found.verdict
    assert not found.matching.unmatched
    lines = list(described(found))
    assert lines[0] == found.verdict
    assert max(len(line) for line in lines[1:]) <= 80


def test_a_float_network_goes_on_where_a_grid_ends(folder):
    onnx.save(faults.float_twin(onnx.load(folder / "a.onnx")), folder / "b.onnx")
    found = compared(folder / "a.onnx", folder / "b.onnx")
    assert found.cause is not None
    assert str(found.cause) == "saturation: A's integers end at 0 and 255; B is not quantized here"
    assert any("without a grid on the other side: " in line for line in described(found))
    back = compared(folder / "b.onnx", folder / "a.onnx")  # its samples have the range that the other side's input has
    assert back.outputs[0].sqnr_db > 15


def test_channels_last_at_the_input(tmp_path):
    """onnx2tf's files take images channels last, and have no names of ours."""
    from drpai_qat.source.tflite_file import LiteFile

    source = MODELS / "pt_fuse_mbv2.onnx"
    arguments = ["compile", str(source), "--target", "tflite", "--check", "none", "--quiet"]
    assert main([*arguments, "-o", str(tmp_path / "out")]) == 0
    (path,) = (tmp_path / "out").glob("*.tflite")
    file = LiteFile.read(path)
    transpose = next(one for one in file.operators if one.kind == "TRANSPOSE")
    (tmp_path / "nhwc.tflite").write_bytes(file.cut([transpose.outputs[0]], list(file.outputs.values())))
    found = compared(source, tmp_path / "nhwc.tflite")
    assert found.matching.inputs[0].order == (0, 3, 1, 2)
    assert found.passed, found.verdict
    assert len(found.layers) > 25


def test_a_compiled_folder(tmp_path, folder):
    assert main(["compile", str(folder / "a.onnx"), "--check", "none", "--quiet", "-o", str(tmp_path / "out")]) == 0
    found = compared(folder / "a.onnx", tmp_path / "out")
    assert found.passed
    assert "one piece" in found.notes[0]
    assert found.outputs[0].max_error_lsb <= 1


def test_extract_writes_what_shows_it(folder, tmp_path, capsys):
    onnx.save(faults.with_relu(onnx.load(folder / "a.onnx")), folder / "b.onnx")
    pair = [str(folder / "a.onnx"), str(folder / "b.onnx"), "--quiet"]
    assert main(["compare", *pair, "--extract", "d2", "-o", str(tmp_path / "bug")]) == 3
    import onnxruntime

    out = tmp_path / "bug"
    with np.load(out / "inputs.npz") as stored:
        inputs = dict(stored)
    values = []
    for side in "ab":
        session = onnxruntime.InferenceSession(out / f"{side}.onnx")
        assert len(session.get_inputs()) == len(inputs) == 1
        (found,) = session.run(None, inputs)
        values.append((found.astype(np.float32) - 128) * np.float32(0.011))
        np.testing.assert_allclose(values[-1], np.load(out / f"{side}.npy"), atol=1e-5)
    assert np.abs(values[0] - values[1]).max() > 0.1
    assert len(onnx.load(out / "a.onnx").graph.node) < 6
    assert "computed by Conv" in (out / "README.txt").read_text()
    capsys.readouterr()
    assert main(["compare", *pair, "--extract", "nothing", "-o", str(tmp_path / "none")]) == 1
    assert "no compared tensor has this name" in capsys.readouterr().err
    assert not (tmp_path / "none").exists()
    assert main(["compare", *pair, "--extract", "d2"]) == 2


def test_extract_from_a_tflite_file(tmp_path):
    from drpai_qat.runtimes.tflite import LiteNetwork

    pair = [str(MODELS / "tf_concat_op13.onnx"), str(MODELS / "tf_concat_op13.tflite"), "--quiet"]
    tensor = "model_5/quant_average_pooling2d/MovingAvgQuantize/FakeQuantWithMinMaxVars_DequantizeLinear__1355:0"
    assert main(["compare", *pair, "--extract", tensor, "-o", str(tmp_path / "bug")]) == 3
    network = LiteNetwork(tmp_path / "bug" / "b.tflite")
    assert [info.shape for info in network.inputs] == [(1, 16, 16, 12)]
    assert onnx.load(tmp_path / "bug" / "a.onnx").graph.input[0].type.tensor_type.shape.dim[1].dim_value == 12


class TestBadInput:
    def refused(self, capsys, *arguments):
        status = main(["compare", *map(str, arguments), "--quiet"])
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1, lines
        return status, lines[0]

    def test_not_there(self, folder, capsys):
        assert self.refused(capsys, folder / "no.onnx", folder / "a.onnx") == (
            1,
            f"error: {folder / 'no.onnx'}: no such file or folder",
        )

    def test_other_inputs(self, folder, capsys):
        status, line = self.refused(capsys, folder / "a.onnx", MODELS / "pt_conv_resnet.onnx")
        assert status == 1
        assert "not the same network, or not the same batch" in line

    def test_unrelated(self, capsys):
        status, line = self.refused(capsys, MODELS / "pt_conv_resnet.onnx", MODELS / "pt_fuse_mbv2.onnx")
        assert status == 1
        assert "no layer in common" in line

    def test_a_folder_that_is_none(self, tmp_path, folder, capsys):
        status, line = self.refused(capsys, folder / "a.onnx", tmp_path)
        assert status == 1
        assert "deploy.json" in line

    def test_damaged_tflite(self, tmp_path, capsys):
        whole = (MODELS / "tf_cnn_op13.tflite").read_bytes()
        for length in (6, 40, 3000, len(whole) - 4000):
            (tmp_path / "cut.tflite").write_bytes(whole[:length])
            status, line = self.refused(capsys, MODELS / "tf_cnn_op13.onnx", tmp_path / "cut.tflite")
            assert status == 1
            assert "cut.tflite" in line

    def test_samples_of_another_shape(self, folder, tmp_path, capsys):
        np.savez(tmp_path / "s.npz", x=np.zeros((2, 3, 9, 9), np.float32))
        status, line = self.refused(capsys, folder / "a.onnx", folder / "a.onnx", "--samples", tmp_path / "s.npz")
        assert status == 1
        assert "shape" in line
