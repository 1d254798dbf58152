"""Real QAT exports all the way: command, folder, figures."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from PIL import Image

import drpai_qat
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.cli.main import compile_main
from drpai_qat.core.errors import DeploymentError, ModelError, OptionError
from drpai_qat.runtimes.onnxruntime import Reference
from tests.small_models import QDQ, qdq_model

SCRIPT = Path(__file__).parent.parent / "compile_onnx_model_quant.py"


def files(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def small(tmp_path):
    path = tmp_path / "small.onnx"
    path.write_bytes(qdq_model().SerializeToString())
    return path


def test_images_are_samples_and_their_preprocessing_is_recorded(small, tmp_path, capsys):
    photos = tmp_path / "photos"
    photos.mkdir()
    for index in range(3):
        Image.new("RGB", (20, 12), (80 * index, 10, 200)).save(photos / f"{index}.png")
    (photos / "list.txt").write_text("0.png")
    arguments = [str(small), "-a", "-m", "pytorch", "-o", str(tmp_path / "out"), "--images", str(photos)]
    assert compile_main([*arguments, "--preprocess", "tf", "--check-samples", "9"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "warning: data: 1 file skipped: list.txt (no image)" in printed
    assert (
        "warning: data: the preprocessing gives -1 to 1, and the network's input has a range of -2.56 to 2.54"
        in printed
    )
    assert "3 samples of photos" in printed
    deployed = json.loads((tmp_path / "out/deploy.json").read_text())
    assert deployed["samples"]["used"] == 3
    assert deployed["preprocessing"]["resize"] == "stretch"
    first = np.fromfile(tmp_path / "out/input_0.bin", "<f4").reshape(3, 64)
    np.testing.assert_allclose(first[:, 0], [-1, 10 / 127.5 - 1, 200 / 127.5 - 1], rtol=1e-6)


def test_command_on_a_real_export(models, tmp_path, capsys):
    """Two outputs, dynamic ranges of the DRP-AI recipe, SiLU, Concat, Resize: everything in one file."""
    out = tmp_path / "out"
    arguments = [str(models / "pt_up_yolo.onnx"), "-a", "-m", "pytorch", "-o", str(out), "--check", "layers"]
    assert compile_main(arguments) == 0
    printed = capsys.readouterr()
    assert "passed against onnxruntime" in printed.out
    assert "compiling" in printed.err
    assert files(out) == [
        "deploy.json",
        "deploy.params",
        "deploy.so",
        "input_0.bin",
        "interpreter_out/input_0.bin",
        "interpreter_out/ref_result_0.bin",
        "interpreter_out/ref_result_0_fp32.bin",
        "interpreter_out/ref_result_1.bin",
        "interpreter_out/ref_result_1_fp32.bin",
        "model_int8.onnx",
        "report.html",
        "report.json",
    ]
    assert os.listdir(tmp_path) == ["out"]


def test_written_files_agree_with_each_other(models, tmp_path):
    """The sample run that is written is what the network computes, and what onnxruntime makes of the source."""
    source = models / "pt_fuse_mbv2.onnx"
    report = drpai_qat.compile(source, qat_type="pytorch", output_dir=tmp_path / "out")
    assert report.passed
    network = drpai_qat.load(tmp_path / "out")
    (info,) = network.inputs
    sample = np.fromfile(tmp_path / "out/input_0.bin", "<f4").reshape(info.shape)
    stored = np.fromfile(tmp_path / "out/interpreter_out/ref_result_0.bin", "<f4")
    found = network.run({info.name: sample})
    np.testing.assert_array_equal(stored, np.concatenate([value.ravel() for value in found.values()]))
    for model in (source, tmp_path / "out/model_int8.onnx"):
        wanted = Reference(model, "reference").run({info.name: sample})
        grid = network.outputs[0].quantization
        assert grid is not None
        scale = float(grid.scale)
        np.testing.assert_allclose(found["output"], wanted["output"], atol=scale * 1.01)


def test_deploy_json(models, tmp_path):
    source = models / "tf_cnn_op13.onnx"
    drpai_qat.compile(source, qat_type="tensorflow", output_dir=tmp_path / "out", samples=2)
    content = json.loads((tmp_path / "out/deploy.json").read_text())
    assert content["model"] == {
        "name": "tf_cnn_op13.onnx",
        "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
        "qat_type": "tensorflow",
    }
    assert [one["name"] for one in content["inputs"]] == ["input"]
    assert content["inputs"][0]["shape"] == [1, 28, 28]
    assert content["outputs"][0]["dtype"] == "float32"
    assert content["int8_mac_fraction"] == 1.0
    assert content["check"]["passed"] is True
    assert content["check"]["samples"] == 2
    assert content["versions"]["onnxruntime"] == onnxruntime.__version__
    listed = content["files"]
    assert sorted([*listed, "deploy.json"]) == files(tmp_path / "out")
    for name, digest in listed.items():
        assert hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() == digest
    text = (tmp_path / "out/deploy.json").read_text() + (tmp_path / "out/report.json").read_text()
    assert str(tmp_path) not in text
    assert str(models) not in text


def test_same_input_same_output(small, tmp_path):
    """Two compilations differ in nothing but the times in the reports."""
    for name in ("a", "b"):
        drpai_qat.compile(small, qat_type="pytorch", output_dir=tmp_path / name)
    for name in set(files(tmp_path / "a")) - {"report.json", "report.html", "deploy.json"}:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes(), name


def test_dynamic_batch_and_shape_option(models, tmp_path):
    source = models / "pt_dynbatch_resnet.onnx"
    assert drpai_qat.compile(source, output_dir=tmp_path / "one").passed
    assert drpai_qat.load(tmp_path / "one").inputs[0].shape == (1, 3, 32, 32)
    assert drpai_qat.compile(source, output_dir=tmp_path / "two", input_shape="2,3,32,32").passed
    assert drpai_qat.load(tmp_path / "two").inputs[0].shape == (2, 3, 32, 32)
    with pytest.raises(OptionError, match="fixed to 32"):
        drpai_qat.compile(source, output_dir=tmp_path / "three", input_shape="1,3,64,64")


def test_seed_and_samples(small, tmp_path):
    reports = [
        drpai_qat.compile(small, output_dir=tmp_path / str(seed), seed=seed, samples=2, check="layers")
        for seed in (0, 1)
    ]
    assert reports[0].check is not None
    assert reports[0].check.samples == 2
    for one in reports:
        assert one.check is not None
        assert one.check.layers
        assert one.check.uncertified == ""
    first, second = ((tmp_path / str(seed) / "input_0.bin").read_bytes() for seed in (0, 1))
    assert first != second


def test_given_samples_are_run_and_recorded(small, tmp_path):
    """The file's first sample is the sample run; the check sees all of them."""
    x = np.random.default_rng(1).normal(size=(3, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "real.npz", x=x)
    arguments = [
        str(small),
        "-a",
        "-m",
        "pytorch",
        "-o",
        str(tmp_path / "out"),
        "--samples",
        str(tmp_path / "real.npz"),
    ]
    assert compile_main(arguments) == 0
    content = json.loads((tmp_path / "out/deploy.json").read_text())
    digest = hashlib.sha256((tmp_path / "real.npz").read_bytes()).hexdigest()
    assert content["samples"] == {"name": "real.npz", "sha256": digest, "used": 3}
    assert content["check"]["samples"] == 3
    np.testing.assert_array_equal(np.fromfile(tmp_path / "out/input_0.bin", "<f4"), x[0].ravel())
    wanted = Reference(small, "r").run({"x": x[:1]})["y"]
    found = np.fromfile(tmp_path / "out/interpreter_out/ref_result_0.bin", "<f4")
    np.testing.assert_allclose(found, wanted.ravel(), atol=0.101)
    report = drpai_qat.compile(small, output_dir=tmp_path / "arrays", samples={"x": x}, check_samples=2)
    assert report.check is not None
    assert report.check.samples == 2
    assert drpai_qat.load(tmp_path / "arrays").inputs[0].name == "x"


def test_samples_that_do_not_fit_leave_nothing(small, tmp_path, capsys):
    np.savez(tmp_path / "real.npz", image=np.zeros((1, 3, 8, 8)))
    arguments = ["--samples", str(tmp_path / "real.npz"), "-o", str(tmp_path / "out"), "--quiet"]
    assert compile_main([str(small), *arguments]) == 1
    assert capsys.readouterr().err == "error: --samples real.npz: unknown array 'image': the network's input is x\n"
    assert sorted(os.listdir(tmp_path)) == ["real.npz", "small.onnx"]


def test_no_check(small, tmp_path):
    report = drpai_qat.compile(small, output_dir=tmp_path / "out", check="none")
    assert report.check is None
    assert report.passed
    assert json.loads((tmp_path / "out/deploy.json").read_text())["check"] is None
    assert (tmp_path / "out/interpreter_out/ref_result_0.bin").exists()


def test_check_that_falls_short_is_status_3_and_names_the_layer(small, tmp_path, monkeypatch, capsys):
    """One kernel's weights are falsified after lowering: everything is written, and the layer is named."""
    from drpai_qat import lowering
    from drpai_qat.backends.cpu import compilation

    lower = lowering.lower

    def falsified(model, isa, exact_sums):
        wrong = onnx.ModelProto()
        wrong.CopyFrom(model)
        for tensor in wrong.graph.initializer:
            if len(tensor.dims) == 4:
                tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
        return lower(wrong, isa, exact_sums)

    monkeypatch.setattr(compilation, "lower", falsified)
    assert compile_main([str(small), "-a", "-m", "pytorch", "-o", str(tmp_path / "out")]) == 3
    printed = capsys.readouterr().out
    assert "FAILED" in printed
    assert "SQNR" in printed
    assert "not certified, first at qr" in printed
    assert "Relu" in printed
    content = json.loads((tmp_path / "out/deploy.json").read_text())
    assert content["check"]["passed"] is False
    assert compile_main([str(small), "-a", "-m", "pytorch", "-o", str(tmp_path / "quiet"), "--quiet"]) == 3
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1


def test_thresholds_decide(small, tmp_path):
    strict = Thresholds(min_sqnr_db=500)
    report = drpai_qat.compile(small, output_dir=tmp_path / "out", thresholds=strict, samples=1)
    assert report.check is not None
    exact = report.check.outputs[0].max_error == 0
    assert report.passed is exact


def test_a_share_of_integers_that_is_too_small_has_its_own_status(tmp_path, capsys):
    """The first layer's output has no trained range, so that the second is float."""
    text = (
        QDQ[: QDQ.index("  c = Conv")]
        + """
      c = Conv <kernel_shape=[3,3], pads=[1,1,1,1]> (dx, w)
      p = GlobalAveragePool (c)
      f = Flatten (p)
      m = Constant <value = float[4,4] {1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16}> ()
      y = MatMul (f, m)
    }
    """
    )
    model = qdq_model(text)
    onnx.save(model, tmp_path / "half.onnx")
    arguments = [str(tmp_path / "half.onnx"), "-a", "-m", "pytorch", "-o", str(tmp_path / "out"), "--quiet"]
    share = 6912 / 6928
    assert compile_main([*arguments, "--min-int8", str(share)]) == 0
    assert capsys.readouterr().err == ""
    assert compile_main([*arguments, "--min-int8", "1", "--check", "none"]) == 3
    assert "99.8% of multiply-accumulates run in integers, less than --min-int8 100.0%" in capsys.readouterr().err
    content = json.loads((tmp_path / "out/report.json").read_text())
    assert (content["int8_mac_fraction"], content["min_int8"], content["passed"]) == (share, 1.0, False)
    assert compile_main([*arguments, "--min-int8", "1.1"]) == 2


def test_recompiled_in_one_process(small, models, tmp_path):
    """The loader must not hand out the code that had this path before."""
    out = tmp_path / "out"
    drpai_qat.compile(small, output_dir=out)
    assert drpai_qat.load(out).inputs[0].shape == (1, 3, 8, 8)
    drpai_qat.compile(models / "tf_cnn_op13.onnx", output_dir=out)
    network = drpai_qat.load(out)
    x = np.zeros((1, 28, 28), np.float32)
    wanted = Reference(models / "tf_cnn_op13.onnx", "r").run({"input": x})["quant_dense"]
    np.testing.assert_allclose(network.run({"input": x})["quant_dense"], wanted, atol=1e-4)


def test_errors_name_the_file(models, tmp_path):
    source = onnx.load(models / "brev_qonnx.onnx")
    source.graph.node[0].op_type = "BipolarQuant"
    onnx.save(source, tmp_path / "bipolar.onnx")
    with pytest.raises(ModelError, match=r"bipolar\.onnx: .*QONNX"):
        drpai_qat.compile(tmp_path / "bipolar.onnx", output_dir=tmp_path / "out")
    (tmp_path / "bipolar.onnx").unlink()
    assert os.listdir(tmp_path) == []


def test_no_fake_quant(tmp_path):
    model = qdq_model()
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Conv", ["x", "w0"], ["c"]))
    model.graph.node.append(onnx.helper.make_node("GlobalAveragePool", ["c"], ["g"]))
    model.graph.node.append(onnx.helper.make_node("Flatten", ["g"], ["y"]))
    (tmp_path / "float.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"float\.onnx"):
        drpai_qat.compile(tmp_path / "float.onnx", qat_type="pytorch", output_dir=tmp_path / "out")


def test_unknown_target(small, tmp_path):
    with pytest.raises(OptionError, match="pdp11"):
        drpai_qat.compile(small, output_dir=tmp_path / "out", target="pdp11")
    assert os.listdir(tmp_path) == ["small.onnx"]


def test_other_target_is_checked_with_this_machines_code(small, tmp_path, monkeypatch):
    """Code that can't run here is compiled all the same; the sample run and the check use the host's."""
    from drpai_qat.backends.cpu import targets

    oldest = targets.TARGETS["x86-64-v2"]
    monkeypatch.setattr(targets, "host", lambda: oldest)
    monkeypatch.setattr(targets, "cpu_features", lambda: frozenset(oldest.features))
    report = drpai_qat.compile(small, output_dir=tmp_path / "out", target="avx512-vnni")
    assert report.target == "avx512-vnni"
    assert report.passed
    assert json.loads((tmp_path / "out/deploy.json").read_text())["target"]["name"] == "avx512-vnni"
    assert "input_0.bin" in files(tmp_path / "out")


@pytest.mark.parametrize("stage", ["write_bytes", "save", "write_text"])
def test_disk_full_at_any_write(small, tmp_path, monkeypatch, stage):
    import errno

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    owner = {"write_bytes": Path, "write_text": Path, "save": onnx}[stage]
    monkeypatch.setattr(owner, stage, full)
    with pytest.raises(DeploymentError, match="no space left"):
        drpai_qat.compile(small, output_dir=tmp_path / "deep" / "out")
    assert os.listdir(tmp_path) == ["small.onnx"]


@pytest.mark.parametrize("kilobytes", [1, 8, 20, 40])
def test_writing_fails_for_real(small, tmp_path, kilobytes):
    """`ulimit -f` stops every file at that size, the linker's too."""
    out = tmp_path / "out"
    command = f"ulimit -f {kilobytes}; exec {sys.executable} {SCRIPT} {small} -a -m pytorch --quiet -o {out}"
    result = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=300, check=False)
    assert result.returncode == 1, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stderr.count("\n") == 1
    assert os.listdir(tmp_path) == ["small.onnx"]


@pytest.mark.parametrize("cache", ["/proc/no/such", "/dev/null"])
def test_no_cache_to_be_had(small, tmp_path, monkeypatch, cache):
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", cache)
    assert drpai_qat.compile(small, output_dir=tmp_path / "out").passed


def test_kernels_are_kept_unless_told_otherwise(small, tmp_path, monkeypatch):
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", str(tmp_path / "cache"))
    assert drpai_qat.compile(small, output_dir=tmp_path / "out", cache=False).passed
    assert not (tmp_path / "cache").exists()
    assert drpai_qat.compile(small, output_dir=tmp_path / "out").passed
    assert len(list((tmp_path / "cache/kernels").iterdir())) >= 3


def test_sums_in_16_bits_are_asked_for(models, tmp_path):
    """A residual sum behind a ReLU, without a range: its two operands, or one int16 tensor."""
    computes = {}
    for sums in ("exact", "int16"):
        report = drpai_qat.compile(models / "pt_up_resnet.onnx", output_dir=tmp_path / sums, check="none", sums=sums)
        computes[sums] = {node.compute for node in report.coverage if node.macs}
    assert computes == {"exact": {"int8", "float32"}, "int16": {"int8", "int16", "float32"}}
