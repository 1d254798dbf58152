"""What `pip install` brings is the whole tool: sdist -> wheel -> a fresh environment, used without the source tree."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.slow


def run(*command: str | Path, cwd: Path) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, check=False, timeout=900)
    assert done.returncode == 0, f"{command}: {done.stdout[-2000:]}{done.stderr[-2000:]}"
    return done.stdout


def test_the_installed_package_compiles_runs_and_bundles(tmp_path):
    dist, place = tmp_path / "dist", tmp_path / "elsewhere"
    place.mkdir()
    run(sys.executable, "-m", "build", "--outdir", dist, ROOT, cwd=place)  # the wheel is built from the sdist
    (wheel,) = dist.glob("*.whl")
    assert len(list(dist.glob("*.tar.gz"))) == 1
    venv.create(tmp_path / "fresh", with_pip=True)
    programs = tmp_path / "fresh" / "bin"
    run(programs / "pip", "install", "--quiet", "--disable-pip-version-check", wheel, cwd=place)

    shutil.copy(ROOT / "samples" / "models" / "small_cnn_qat.onnx", place / "model.onnx")
    compile_here = ("model.onnx", "-a", "-m", "pytorch", "-o", "network")
    run(programs / "python", programs / "compile_onnx_model_quant.py", *compile_here, cwd=place)
    run(programs / "drpai-qat", "compile", *compile_here, cwd=place)
    run(programs / "python", "-m", "drpai_qat", "run", "network", cwd=place)
    run(programs / "drpai-qat", "bundle", "network", "-o", "board", cwd=place)
    assert "100.00% identical" in run(place / "board" / "run_inference", place / "board", cwd=place)
    where = run(programs / "python", "-c", "import drpai_qat; print(drpai_qat.__file__)", cwd=place)
    assert Path(where.strip()).is_relative_to(tmp_path / "fresh")
    shutil.rmtree(tmp_path / "fresh")
