"""Ctrl-C while a float model is calibrated: one line, status 130, and nothing half done."""

import signal
import tempfile

import onnx
import pytest

from drpai_qat.calibration import calibrate
from drpai_qat.cli.main import compile_main
from tests.calibration.float_models import residual

DATA = """
import signal
import numpy as np

STOP = {stop}
passes = 0

def frames():
    global passes
    for index in range(6):
        if index == 3:
            passes += 1  # who looks at the first frame alone does not come here
            if passes == STOP:
                signal.raise_signal(signal.SIGINT)
        yield [np.full((1, 3, 16, 16), index, np.float32)]
"""


def interrupted(where, tmp_path, monkeypatch, capsys):
    """Compile, with a Ctrl-C in the n-th pass over the data, or at the first bias; what -r's folder then has."""
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr(tempfile, "tempdir", None)
    onnx.save(residual(), tmp_path / "net.onnx")
    (tmp_path / "data.py").write_text(DATA.format(stop=where if where != "bias" else None))
    if where == "bias":
        monkeypatch.setattr(calibrate, "correct_bias", lambda step: signal.raise_signal(signal.SIGINT))
    data, out, ranges = f"{tmp_path / 'data.py'}:frames", tmp_path / "out", tmp_path / "ranges"
    status = compile_main([str(tmp_path / "net.onnx"), "-o", str(out), "--calibration", data, "-r", str(ranges)])
    assert (status, capsys.readouterr().err.splitlines()[-1]) == (130, "interrupted")
    assert not out.exists()
    assert not list(tmp_path.glob("*.partial"))
    assert not list(temporary.iterdir())
    return [one.name for one in ranges.glob("*")]


@pytest.mark.parametrize("where", [1, 2, 3])
def test_in_a_pass_over_the_data(where, tmp_path, monkeypatch, capsys):
    assert interrupted(where, tmp_path, monkeypatch, capsys) == []


def test_while_biases_are_corrected(tmp_path, monkeypatch, capsys):
    """The ranges are recorded by then, whole: the next run takes them."""
    assert interrupted("bias", tmp_path, monkeypatch, capsys) == ["ranges.json"]
