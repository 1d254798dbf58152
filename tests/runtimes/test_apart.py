"""Networks in a process that has the deployed runtime alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tvm import relax

import drpai_qat
from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.build import compile_module, write_params
from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.deployment import manifest
from drpai_qat.runtimes.apart import NetworkApart


def test_it_computes_what_the_network_does_here(small_output: Path, tmp_path: Path) -> None:
    here, found = drpai_qat.load(small_output), manifest.read_network(small_output)
    library, params = (Path(shutil.copy(small_output / name, tmp_path)) for name in (manifest.LIBRARY, manifest.PARAMS))
    apart = NetworkApart()
    apart.load(library, params, found.inputs, found.outputs)
    shutil.rmtree(tmp_path)
    for seed in range(2):
        x = np.random.default_rng(seed).normal(0, 1, (2, 3, 8, 8)).astype(np.float32)
        np.testing.assert_array_equal(apart.run({"x": x})["y"], here.run({"x": x})["y"])
    with pytest.raises(DeploymentError, match=r"^input 'x' is missing"):
        apart.run({})
    number = apart._process.pid
    del apart
    with pytest.raises(ProcessLookupError):
        os.kill(number, 0)


def test_it_is_found_where_no_folder_of_the_path_holds_the_package(
    small_output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in an editable install, outside the clone."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [one for one in sys.path if not Path(one, "drpai_qat").is_dir()])
    found = manifest.read_network(small_output)
    NetworkApart().load(small_output / manifest.LIBRARY, small_output / manifest.PARAMS, found.inputs, found.outputs)


def test_functions_that_only_the_compiler_has_are_missing(tmp_path: Path) -> None:
    """TVM's sort lies in libtvm_runtime_extra, which boards do not have."""
    builder = relax.BlockBuilder()
    x = relax.Var("x", relax.TensorType((4,), "float32"))
    with builder.function("main", [x]):
        builder.emit_func_output(builder.emit(relax.op.sort(x)))
    library, params = tmp_path / "deploy.so", tmp_path / "deploy.params"
    compile_module(builder.get(), targets.host()).export_library(str(library))
    write_params(params, {})
    info = TensorInfo("x", (4,), "float32", None)
    apart = NetworkApart()
    with pytest.raises(DeploymentError, match=r"tvm\.contrib\.sort\.sort") as raised:
        apart.load(library, params, (info,), (info,))
        apart.run({"x": np.zeros(4, np.float32)})
    assert "\n" not in str(raised.value)


def test_a_crash_is_one_line(tmp_path: Path) -> None:
    source = "#include <stdio.h>\n#include <stdlib.h>\n__attribute__((constructor)) void f() "
    source += '{ fputs("a\\nlast words\\n", stderr); abort(); }\n'
    library, params = tmp_path / "deploy.so", tmp_path / "deploy.params"
    subprocess.run(["cc", "-shared", "-fPIC", "-x", "c", "-", "-o", library], input=source, text=True, check=True)
    write_params(params, {})
    with pytest.raises(DeploymentError, match=r"^[^\n]*ended in load \(SIGABRT, last words\)[^\n]*$"):
        NetworkApart().load(library, params, (), ())
