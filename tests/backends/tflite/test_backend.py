"""--target tflite, as the command and from Python."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import drpai_qat
from drpai_qat.backends.tflite.observed import observed_ranges
from drpai_qat.backends.tflite.writer import write_tflite
from drpai_qat.check.layers import cut_at_quantizers
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import DeploymentError, LoweringError, OptionError
from drpai_qat.runtimes.tflite import LiteNetwork
from tests.backends.tflite.running import MODELS, canonical, feeds_of


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("lite") / "out"
    drpai_qat.compile(MODELS / "tf_resnet_op13.onnx", target="tflite", tflite_float=True, output_dir=out)
    return out


def test_the_folder_holds_all_three_files(folder: Path) -> None:
    names = {path.name for path in folder.glob("*.tflite")}
    assert names == {f"tf_resnet_op13_{form}.tflite" for form in ("int8", "float32", "float16")}
    manifest = json.loads((folder / "deploy.json").read_text())
    assert names <= set(manifest["files"])
    (softmax,) = manifest["target"].pop("derived")  # its grid is the kernel's own
    assert (softmax["tensor"], softmax["scale"], softmax["zero_point"]) == ("quant_dense_1", 1 / 256, -128)
    assert manifest["target"] == {"name": "tflite", "file": "tf_resnet_op13_int8.tflite"}
    assert manifest["check"]["passed"]
    network = LiteNetwork(folder / "tf_resnet_op13_int8.tflite")
    for stated, info in zip(manifest["inputs"] + manifest["outputs"], (*network.inputs, *network.outputs), strict=True):
        assert info.quantization is not None
        assert (stated["name"], stated["dtype"]) == (info.name, "int8")
        assert stated["quantization"]["scale"] == float(info.quantization.scale)
        assert stated["quantization"]["zero_point"] == int(info.quantization.zero_point)


def test_a_loaded_folder_computes_the_sample_run(folder: Path) -> None:
    network = drpai_qat.load(folder)
    (given,), (result,) = network.inputs, network.outputs
    x = np.fromfile(folder / "input_0.bin", "<f4").reshape(given.shape)
    wanted = np.fromfile(folder / "interpreter_out" / "ref_result_0.bin", "<f4").reshape(result.shape)
    batch = network.run({given.name: np.concatenate([x, -x, x])})[result.name]
    assert batch.shape == (3, *result.shape[1:])
    assert (batch[[0, 2]] == wanted).all()
    assert (batch[1] != wanted).any()
    command = [sys.executable, "-m", "drpai_qat", "run", str(folder), "-n", "1"]
    assert "100.00% identical" in subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_a_damaged_file_is_refused(folder: Path, tmp_path: Path) -> None:
    name = "tf_resnet_op13_int8.tflite"
    for path in (folder / "deploy.json", folder / name):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DeploymentError, match=r"sha256 differs"):
        drpai_qat.load(tmp_path)


def test_an_export_without_stubs_needs_samples_and_then_passes(tmp_path: Path) -> None:
    source = MODELS / "pt_up_resnet.onnx"
    with pytest.raises(LoweringError, match=r"pt_up_resnet.onnx: input 'input' has no trained range.*--samples"):
        drpai_qat.compile(source, target="tflite", output_dir=tmp_path / "out")
    samples = {"input": np.load(MODELS / "pt_up_resnet.npz")["x"]}
    for io, dtype in (("int8", "int8"), ("float32", "float32")):
        report = drpai_qat.compile(
            source, target="tflite", samples=samples, io=io, check="layers", output_dir=tmp_path / "out"
        )
        assert report.passed
        assert report.check is not None
        assert report.check.layers is not None
        assert not report.check.uncertified
        assert sum(layer.unequal for layer in report.check.layers) > 0  # fixed point: some ties are to be seen
        manifest = json.loads((tmp_path / "out/deploy.json").read_text())
        assert {one["dtype"] for one in manifest["inputs"] + manifest["outputs"]} == {dtype}
        derived = {one["tensor"]: one["source"] for one in manifest["target"]["derived"]}
        assert derived["input"] == "data"
        noted = {note["where"] for note in json.loads((tmp_path / "out/report.json").read_text())["notes"]}
        assert set(derived) <= noted


def test_what_tflite_lacks_is_refused_or_computed_in_float32(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(MODELS / "pt_stub_vit.onnx"), "--target", "tflite", "-o", str(tmp_path / "out")]
    assert compile_main(command) == 1
    assert "(LayerNormalization) can't be written as INT8 TFLite" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
    assert compile_main([*command, "--allow-float"]) == 0
    report = json.loads((tmp_path / "out/report.json").read_text())
    floats = {(one["op"], one["reason"]) for one in report["coverage"] if one["compute"] == "float32"}
    assert floats == {("LayerNormalization", "TFLite has no layer normalization in integers")}


def test_outputs_below_the_threshold_pass_where_every_layer_is_certified(tmp_path: Path) -> None:
    """A step of fixed point in a small network costs it the 30 dB; the layers are what decides."""
    x = np.load(MODELS / "tf_lite_deconv.npz")["x"]
    name = canonical("tf_lite_deconv").graph.input[0].name
    report = drpai_qat.compile(
        MODELS / "tf_lite_deconv.onnx", target="tflite", samples={name: x[:8]}, output_dir=tmp_path / "out"
    )
    assert report.passed
    assert report.check is not None
    assert report.check.shortfalls
    assert "every layer and the fold are certified" in report.check.amplified


def test_a_layer_that_is_a_tenth_of_a_step_off_is_not_certified(tmp_path: Path, monkeypatch) -> None:
    from drpai_qat.backends.tflite.ops import layers

    right = layers.bias_of

    def wrong(*args, **kwargs):
        bias = right(*args, **kwargs)
        return None if bias is None else np.asarray(bias, np.float64) + 0.01

    monkeypatch.setattr(layers, "bias_of", wrong)
    report = drpai_qat.compile(
        MODELS / "tf_resnet_op13.onnx", target="tflite", check="layers", output_dir=tmp_path / "out"
    )
    assert report.check is not None
    assert "not certified, first at" in report.check.uncertified


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tflite_float": True, "allow_float": True}, "--tflite_float, --allow_float: .* drop them"),
        ({"target": "tflite", "mcpu": "znver3"}, "--mcpu: a TFLite file runs on any CPU"),
        ({"target": "tflite", "io": "int4"}, "--io 'int4' is unknown"),
    ],
)
def test_options_that_would_be_ignored_are_refused(options: dict[str, object], words: str) -> None:
    with pytest.raises(OptionError, match=words):
        drpai_qat.compile(MODELS / "tf_cnn_op13.onnx", **options)  # type: ignore[arg-type]


def test_a_missing_extra_is_named_before_the_model_is_read() -> None:
    code = (
        "import sys; sys.modules['ai_edge_litert'] = None;"
        "from drpai_qat.cli.main import compile_main;"
        "print(compile_main(['no_such_file.onnx', '--target', 'tflite']))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "1\n"
    assert "pip install 'drpai-qat[tflite]'" in result.stderr


def test_a_part_of_a_network_has_the_grids_of_the_whole() -> None:
    """The layer check compiles the network cut at its roundings; grids of sums follow from what is fed there."""
    network = canonical("pt_up_resnet")
    ranges = observed_ranges(network, feeds_of("pt_up_resnet", 1))
    whole, cut = (write_tflite(one, ranges=ranges) for one in (network, cut_at_quantizers(network).model))
    assert {one.tensor: one.grid for one in cut.derived} == {one.tensor: one.grid for one in whole.derived}
