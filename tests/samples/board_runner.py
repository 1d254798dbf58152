"""The board's C++ runner, built with the sanitizers for addresses and undefined behaviour, and how it may end."""

from __future__ import annotations

import importlib.util
import os
import subprocess
from pathlib import Path

from drpai_qat.backends.cpu import bundle

BOARD = Path(__file__).resolve().parents[2] / "samples" / "board"
OUTCOMES = (0, 1, 3)
FLAGS = (*bundle.FLAGS, "-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fsanitize=address,undefined")


def build_runner(folder: Path) -> Path:
    """The C++ runner, with sanitizers; all warnings are errors."""
    program = folder / "run_inference"
    packages = {name: Path(str(importlib.util.find_spec(name).origin)).parent for name in ("tvm", "tvm_ffi")}  # type: ignore[union-attr]
    libraries = [packages["tvm"] / "lib/libtvm_runtime.so", packages["tvm_ffi"] / "lib/libtvm_ffi.so"]
    words = ["g++", *FLAGS, "-fno-sanitize-recover=all", "-isystem", packages["tvm_ffi"] / "include"]
    words += [*(BOARD / name for name in bundle.COMPILED), "-o", program, "-Wl,--no-as-needed", *libraries]
    words += [f"-Wl,-rpath,{path.parent}" for path in libraries]
    done = subprocess.run(list(map(str, words)), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def outcome(*words: Path | str) -> tuple[int, str]:
    environment = os.environ | {"TVM_NUM_THREADS": "1", "ASAN_OPTIONS": "exitcode=99"}
    done = subprocess.run(
        [*map(str, words), "-n", "1"], capture_output=True, text=True, timeout=60, env=environment, check=False
    )
    assert done.returncode in OUTCOMES, (done.returncode, done.stderr)
    assert done.stderr.count("\n") == (done.returncode == 1), done.stderr
    assert done.returncode != 1 or done.stderr.startswith("error: ")
    return done.returncode, done.stderr
