"""What the exports do without their frameworks, and with files: needs neither PyTorch nor TensorFlow."""

from __future__ import annotations

import importlib.util
import subprocess
import sys

import numpy as np
import onnx
import pytest

from drpai_qat import export
from drpai_qat.core.errors import DeploymentError, MissingExtraError, ModelError
from drpai_qat.core.quiet import quiet
from drpai_qat.export.comparison import Exported, compare
from drpai_qat.export.writing import staged

PAIR = """
<ir_version: 8, opset_import: ["" : 13]>
g (float[1,4] x) => (float[4,1] y)
<float scale = {0.5}, uint8 zero_point = {8}>
{
  q = QuantizeLinear (x, scale, zero_point)
  d = DequantizeLinear (q, scale, zero_point)
  y = Transpose <perm = [1, 0]> (d)
}
"""


@pytest.mark.parametrize("missing", ["tensorflow", "tf_keras", "tensorflow_model_optimization", "tf2onnx"])
def test_a_missing_tensorflow_package_names_the_extra(missing, monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == missing else object())
    with pytest.raises(MissingExtraError, match=rf"needs {missing}, .*drpai-qat\[tensorflow\]"):
        export.tensorflow(object(), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


def test_a_missing_pytorch_names_the_extra(monkeypatch, tmp_path):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"drpai-qat\[pytorch\]"):
        export.pytorch(object(), None, tmp_path / "net.onnx")


def test_importing_the_package_imports_no_framework():
    check = "import sys, drpai_qat, drpai_qat.export; print([m for m in ('torch', 'tensorflow') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", check], capture_output=True, text=True).stdout.strip() == "[]"


def test_the_difference_is_said_in_steps_of_the_outputs_grid(tmp_path):
    path = tmp_path / "pair.onnx"
    onnx.save(onnx.parser.parse_model(PAIR), path)
    x = np.array([[1.0, 2.0, 3.0, 30.0]], np.float32)

    same = compare(path, [x], [x.T])
    off = compare(path, [x], [x.T + np.array([[0], [0.75], [0], [0]], np.float32)])

    assert (same.max_error, same.sqnr_db, same.max_steps) == (0.0, np.inf, 0.0)
    assert (off.max_error, off.max_steps) == (0.75, 1.5)
    assert "0.75, 1.5 steps of the output's grid" in str(Exported(path, "tf2onnx", 0.75, 32.0, (), off.max_steps))


def test_an_output_without_a_grid_has_no_steps(tmp_path):
    path = tmp_path / "relu.onnx"
    onnx.save(
        onnx.parser.parse_model(
            '<ir_version: 8, opset_import: ["" : 13]> g (float[2] x) => (float[2] y) {y = Relu (x)}'
        ),
        path,
    )
    x = np.ones(2, np.float32)
    assert compare(path, [x], [x]).max_steps is None
    assert "steps" not in str(Exported(path, "tf2onnx", 0.0, np.inf))
    with pytest.raises(ModelError, match="not the model"):
        compare(path, [x], [-x])


def test_a_file_appears_whole_or_not_at_all(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(RuntimeError), staged(path) as written:
        written.write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []

    path.write_text("old")
    with staged(path) as written:
        written.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


def test_a_path_that_cannot_be_written_is_refused_before_the_work(tmp_path, monkeypatch):
    with pytest.raises(DeploymentError, match="make it before the export"), staged(tmp_path / "missing" / "net.onnx"):
        pytest.fail("the body must not run")
    with pytest.raises(DeploymentError, match="is a folder"), staged(tmp_path):
        pytest.fail("the body must not run")

    def refuse(**_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.TemporaryDirectory", refuse)  # tests may run as root, whom no folder refuses
    with pytest.raises(DeploymentError, match="can't be written to: Permission denied"), staged(tmp_path / "net.onnx"):
        pytest.fail("the body must not run")


def test_quiet_silences_both_streams_and_gives_them_back(capfd):
    with quiet():
        print("python")
        subprocess.run(["sh", "-c", "echo shell; echo shell >&2"], check=True)
    print("after")
    assert capfd.readouterr() == ("after\n", "")
