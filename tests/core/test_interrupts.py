"""Ctrl-C and kill at any moment: one line, the right status, nothing left behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import drpai_qat

SCRIPT = Path(__file__).parents[2] / "compile_onnx_model_quant.py"
STAGES = (
    "loading the model",
    "folding the fake-quant",
    "starting the compiler",
    "lowering",
    "compiling for",
    "running the samples",
    "checking against onnxruntime",
    "checking layer by layer",
    "writing the folder",
)


def stopped_at(stage, number, models, tmp_path):
    """Start the command, signal its whole group (as a terminal does) when it names a stage."""
    arguments = [models / "pt_up_resnet.onnx", "-a", "-m", "pytorch", "--check", "layers", "-o", tmp_path / "out"]
    process = subprocess.Popen(
        [sys.executable, SCRIPT, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    lines = []
    assert process.stderr is not None
    for line in process.stderr:
        lines.append(line)
        if stage in line:
            os.killpg(process.pid, number)
            break
    output, rest = process.communicate(timeout=120)
    return process.returncode, output, rest


@pytest.mark.parametrize("stage", STAGES)
def test_ctrl_c(stage, models, tmp_path):
    status, output, rest = stopped_at(stage, signal.SIGINT, models, tmp_path)
    assert "Traceback" not in rest
    if stage == STAGES[-1] and os.listdir(tmp_path) == ["out"]:  # it was in place before the signal came
        assert status == 0
        drpai_qat.load(tmp_path / "out")
        return
    assert status == 130
    assert rest.splitlines()[-1] == "interrupted"
    assert output == ""
    assert os.listdir(tmp_path) == []


def test_kill(models, tmp_path):
    status, _, rest = stopped_at("compiling for", signal.SIGTERM, models, tmp_path)
    assert status == 143
    assert rest.splitlines()[-1] == "interrupted"
    assert os.listdir(tmp_path) == []


def test_an_earlier_output_survives(models, tmp_path, small_output):
    import shutil

    shutil.copytree(small_output, tmp_path / "out")
    before = {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()}
    status, _, _ = stopped_at("checking layer", signal.SIGINT, models, tmp_path)
    assert status == 130
    assert {path.name: path.read_bytes() for path in (tmp_path / "out").iterdir() if path.is_file()} == before
    assert os.listdir(tmp_path) == ["out"]
