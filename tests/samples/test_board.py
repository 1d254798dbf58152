"""The board's runners with folders that were tampered with: an exit status and one line, never a signal or a traceback.

The C++ one is built with the sanitizers for addresses and undefined behaviour.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import drpai_qat
from tests.runtimes.tampering import mutants
from tests.samples.board_runner import BOARD, outcome

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
]


@pytest.fixture
def folder(small_output: Path, tmp_path: Path) -> Path:
    shutil.copytree(small_output, tmp_path / "out")
    return tmp_path / "out"


def rehash(folder: Path) -> None:
    """Make deploy.json say that its files are those that were compiled."""
    path = folder / "deploy.json"
    content = json.loads(path.read_text())
    for name in ("deploy.so", "deploy.params"):
        content["files"][name] = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    path.write_text(json.dumps(content))


def test_whole(runner: Path, folder: Path) -> None:
    assert outcome(runner, folder) == (0, "")


def test_integer_edges(runner: Path, tmp_path: Path) -> None:
    """Sample files hold reals: both runners round them to the grid of the input, and give reals."""
    models = Path(__file__).resolve().parents[1] / "models"
    out, written = tmp_path / "out", tmp_path / "written"
    written.mkdir()
    assert drpai_qat.compile(models / "tf_cnn_op13.onnx", qat_type="tensorflow", output_dir=out, io="int8").passed
    assert json.loads((out / "deploy.json").read_text())["inputs"][0]["dtype"] == "int8"
    assert outcome(runner, out, "-o", written) == (0, "")
    assert (written / "output_0.bin").read_bytes() == (out / "interpreter_out" / "ref_result_0.bin").read_bytes()
    assert outcome(sys.executable, BOARD / "run_inference.py", out) == (0, "")


def test_fields(runner: Path, folder: Path) -> None:
    path = folder / "deploy.json"
    every = list(mutants(json.loads(path.read_text())))
    some = [one for one in every if one[0][0] in ("inputs", "outputs", "format")]
    for _, changed in random.Random(0).sample(some, 120) + random.Random(0).sample(every, 30):
        path.write_text(json.dumps(changed))
        outcome(runner, folder)


def test_texts(runner: Path, folder: Path) -> None:
    path = folder / "deploy.json"
    whole = path.read_bytes()
    texts = [b"", b"{", b"[" * 200_000, b'{"a":' * 100_000, b"null", b"\xff\xfe", b'"' + b"\\" * 99, b" " * (17 << 20)]
    texts += [whole[: len(whole) * part // 7] for part in range(7)] + [whole.replace(b"1", b"1" * 400), whole + b"}"]
    for text in texts:
        path.write_bytes(text)
        assert outcome(runner, folder)[0] == 1


def test_parameters(runner: Path, folder: Path) -> None:
    path = folder / "deploy.params"
    whole, draw = path.read_bytes(), random.Random(0)
    for number in range(30):
        changed = bytearray(whole[: draw.randrange(len(whole))] if number % 4 == 0 else whole)
        for _ in range(draw.randint(1, 3)):
            position = draw.randrange(min(len(changed), 400)) if changed else 0
            changed[position : position + 8] = draw.choice(
                [b"\xff" * 8, b"\0" * 8, draw.randbytes(8), b"\0\0\0\0\0\0\0\x40"]
            )
        path.write_bytes(changed)
        assert "deploy.params is not the file that was compiled" in outcome(runner, folder)[1]
        rehash(folder)
        outcome(runner, folder)


@pytest.mark.parametrize(
    "name", ["deploy.json", "deploy.so", "deploy.params", "input_0.bin", "interpreter_out/ref_result_0.bin"]
)
@pytest.mark.parametrize("how", ["missing", "empty", "half", "pipe", "folder", "huge"])
def test_files(runner: Path, folder: Path, name: str, how: str) -> None:
    path = folder / name
    content = path.read_bytes()
    path.unlink()
    if how == "pipe":
        os.mkfifo(path)
    elif how == "folder":
        path.mkdir()
    elif how != "missing":
        path.write_bytes(content[: len(content) // 2] if how == "half" else b"")
        if how == "huge":
            os.truncate(path, 1 << 40)
    reference = name.startswith("interpreter_out")
    status, _ = outcome(runner, folder)
    assert status == (0 if how == "missing" else 3) if reference else status == 1
    bundled = subprocess.run(
        [sys.executable, BOARD / "run_inference.py", folder, "-n", "1"], capture_output=True, text=True, check=False,
        env=os.environ | {"PYTHONPATH": str(BOARD.parents[1])},
    )  # fmt: skip
    assert bundled.returncode == 1
    assert bundled.stderr.count("\n") == 1, bundled.stderr
