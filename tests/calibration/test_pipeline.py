"""Float models, and QAT models with gaps, through the command."""

import json

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantType, quantize_dynamic

import drpai_qat
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import ModelError
from tests.calibration.float_models import frames, residual


@pytest.fixture
def model(tmp_path):
    onnx.save(residual(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.concatenate([one["x"] for one in frames(residual())]))
    return tmp_path / "net.onnx"


def test_a_float_model_becomes_an_int8_network(model, tmp_path, capsys):
    out = tmp_path / "out"
    arguments = ["-o", str(out), "--calibration", str(tmp_path / "data.npz"), "--min-int8", "1", "--check", "layers"]
    assert compile_main([str(model), *arguments]) == 0
    shown = capsys.readouterr().out
    assert "net.onnx (float, quantized after training)" in shown
    assert "8 tensors by mse, 8 frames of data.npz" in shown
    assert "warning" not in shown
    told = json.loads((out / "report.json").read_text())["calibration"]
    assert told["kind"] == "after training"
    tensors = [name.removesuffix("_scaled") for name in told["tensors"]["calibrated"]]
    assert tensors == ["x", "r1", "m2", "r3", "c4", "c5", "c6", "g"]
    assert "r1_scaled" in told["equalized"]
    assert told["against_source"][0]["sqnr_db"] > 25
    assert json.loads((out / "deploy.json").read_text())["model"]["qat_type"] == "float"
    sample = frames(residual(), 1, seed=5)[0]
    wanted = drpai_qat.load(out).run(sample)["y"]
    assert np.isfinite(wanted).all()


def test_random_frames_are_not_to_be_trusted(model, tmp_path):
    report = drpai_qat.compile(model, output_dir=tmp_path / "out", num_frame=3)
    assert report.passed
    assert report.calibration is not None
    assert report.calibration["frames"] == 3
    assert any(note.action == "warning" and "not to be trusted" in note.reason for note in report.notes)
    with pytest.raises(ModelError, match="not to be trusted"):
        drpai_qat.compile(model, output_dir=tmp_path / "strict", strict=True)
    assert not (tmp_path / "strict").exists()


def test_samples_calibrate_where_nothing_else_does(model, tmp_path):
    report = drpai_qat.compile(
        model, output_dir=tmp_path / "out", samples=tmp_path / "data.npz", calibrate_method="MinMax", check="none"
    )
    assert report.calibration is not None
    assert (report.calibration["method"], report.calibration["data"]) == ("minmax", "data.npz")


def test_tflite(model, tmp_path):
    pytest.importorskip("ai_edge_litert")
    report = drpai_qat.compile(
        model, output_dir=tmp_path / "out", target="tflite", calibration=str(tmp_path / "data.npz")
    )
    assert report.passed
    assert report.int8_mac_fraction == 1
    assert not [one for one in report.coverage if one.compute == "int16"]


def test_dynamic_quantization_gets_ranges_from_data(model, tmp_path, capsys):
    source = tmp_path / "dynamic.onnx"
    quantize_dynamic(model, source, weight_type=QuantType.QUInt8)
    out = tmp_path / "out"
    assert compile_main([str(source), "-o", str(out)]) == 1
    assert "quantized dynamically" in (told := capsys.readouterr().err)
    assert "compile with data to take them from: --calibration FILE or --images DIR" in told
    assert not out.exists()
    arguments = ["-o", str(out), "--calibration", str(tmp_path / "data.npz"), "--min-int8", "1", "--check", "layers"]
    assert compile_main([str(source), *arguments]) == 0
    assert "against source" in capsys.readouterr().out
    told = json.loads((out / "report.json").read_text())["calibration"]
    assert told["tensors"]["trained"] == []
    assert told["against_source"][0]["sqnr_db"] > 25
    report = drpai_qat.compile(source, output_dir=tmp_path / "by", samples=tmp_path / "data.npz", check="none")
    assert report.calibration is not None
    assert report.calibration["data"] == "data.npz"
