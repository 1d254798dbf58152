"""Deployed networks on Arm64 under qemu: the same bits as on the machine that compiled them.

The sample outputs in interpreter_out/ come from this machine's build; run_folders.py compares with them on Arm.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest

import drpai_qat
from drpai_qat.cli.main import main
from tests.arm import networks

pytestmark = pytest.mark.arm

ROOT = Path(__file__).parents[2]
MODELS = sorted((ROOT / "tests" / "models").glob("*.onnx"))
# Cores without and with dot product: code for the first must not hold instructions of the second.
CORES = {"aarch64": "cortex-a53", "rzv2h": "max"}


def on_arm(arm64: Path, core: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    """Run Arm64 Python on this core."""
    environment = {**os.environ, "QEMU_CPU": core, "ARM_PYTHONPATH": str(ROOT), "TVM_NUM_THREADS": "2"}
    command = [str(arm64 / "python"), *map(str, arguments)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=1200, check=False)


@pytest.mark.parametrize("target", CORES)
@pytest.mark.parametrize("model", MODELS, ids=lambda path: path.stem)
def test_same_bits_as_here(model: Path, target: str, arm64: Path, tmp_path: Path) -> None:
    folder = tmp_path / model.stem
    kind = "tensorflow" if model.stem.startswith("tf_") else "pytorch"
    drpai_qat.compile(model, qat_type=kind, output_dir=folder, target=target, check="none", samples=1)
    done = on_arm(arm64, CORES[target], ROOT / "tests" / "arm" / "run_folders.py", folder)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["differing"] == 0, result


@pytest.mark.parametrize("target", CORES)
@pytest.mark.parametrize(
    "network", [networks.mobilenet_v2, networks.resnet18, networks.odd_shapes, networks.sixteen_bits]
)
def test_same_bits_of_made_networks(
    network: Callable[[], onnx.ModelProto], target: str, arm64: Path, tmp_path: Path
) -> None:
    model = tmp_path / f"{network.__name__}.onnx"
    onnx.save(network(), model)
    test_same_bits_as_here(model, target, arm64, tmp_path)
    outputs = np.fromfile(tmp_path / model.stem / "interpreter_out" / "ref_result_0_fp32.bin", "<f4")
    assert len(np.unique(outputs)) > 900  # not a network whose activations have died


@pytest.fixture(scope="module")
def board(arm64: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle for the board."""
    folder = tmp_path_factory.mktemp("bundle")
    model = ROOT / "tests" / "models" / "pt_up_yolo.onnx"  # two outputs
    drpai_qat.compile(model, qat_type="pytorch", output_dir=folder / "out", target="rzv2h", check="none")
    libraries = folder / "libraries"
    libraries.mkdir()
    for name in ("tvm/lib/libtvm_runtime.so", "tvm_ffi/lib/libtvm_ffi.so"):
        (libraries / Path(name).name).symlink_to(arm64 / "site" / name)
    arguments = ["bundle", str(folder / "out"), "--target", "rzv2h", "--runtime", str(libraries)]
    assert main([*arguments, "-o", str(folder / "board")]) == 0
    return folder / "board"


def run_board(board: Path, arm64: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["qemu-aarch64-static", "-L", str(arm64 / "root"), str(board / "run_inference"), str(board), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)


def test_bundle_is_small(board: Path) -> None:
    size = sum(path.stat().st_size for path in board.rglob("*") if path.is_file() and path.name != "deploy.params")
    assert size < 8e6
    assert not list(board.rglob("*.onnx"))  # as large as the weights, and nothing on the board reads it
    assert {path.name for path in (board / "lib").iterdir()} == {"libtvm_runtime.so", "libtvm_ffi.so"}


def test_compiled_runner(board: Path, arm64: Path, tmp_path: Path) -> None:
    done = run_board(board, arm64, "-n", "3", "-o", str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("100.00% identical") == 2
    assert "(3 runs" in done.stdout
    for i in (0, 1):
        reference = board / "interpreter_out" / f"ref_result_{i}.bin"
        assert (tmp_path / f"output_{i}.bin").read_bytes() == reference.read_bytes()


def test_compiled_runner_reports_a_difference(board: Path, arm64: Path, tmp_path: Path) -> None:
    reference = board / "interpreter_out" / "ref_result_0.bin"
    kept = reference.read_bytes()
    try:
        reference.write_bytes(b"\0\0\x80\x3f" * (len(kept) // 4))
        assert run_board(board, arm64, "-n", "1", "-o", str(tmp_path)).returncode == 3
    finally:
        reference.write_bytes(kept)


def test_python_runner(board: Path, arm64: Path, tmp_path: Path) -> None:
    done = on_arm(arm64, "max", board / "run_inference.py", board, "-n", "2", "-o", tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("100.00% identical") == 2


def test_cmake_builds_the_runner(board: Path, arm64: Path, tmp_path: Path) -> None:
    build = tmp_path / "build"
    settings = {
        "CMAKE_TOOLCHAIN_FILE": board / "src" / "aarch64-toolchain.cmake",
        "TVM_LIBRARY_DIR": board / "lib",
        "Python3_EXECUTABLE": sys.executable,
    }
    environment = {name: value for name, value in os.environ.items() if name != "SDK"}
    configure = ["cmake", "-S", board / "src", "-B", build, *(f"-D{name}={value}" for name, value in settings.items())]
    qemu = ["qemu-aarch64-static", "-L", arm64 / "root", "-E", f"LD_LIBRARY_PATH={board}/lib"]
    run = [*qemu, build / "run_inference", board, "-n", "1", "-o", tmp_path]
    for command in (configure, ["cmake", "--build", build], run):
        words = list(map(str, command))
        done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
        assert done.returncode == 0, done.stderr


def test_another_target_is_refused(board: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bundle", str(board), "--target", "rzv2n", "-o", str(tmp_path / "other")]) == 1
    assert "was compiled for rzv2h" in capsys.readouterr().err
