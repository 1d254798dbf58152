"""Names of targets are known without loading what serves them."""

from __future__ import annotations

import subprocess
import sys

import pytest

from drpai_qat.backends import table
from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.backend import CpuBackend
from drpai_qat.backends.cpu.target_names import BOARDS, MACHINES
from drpai_qat.backends.drpai_sdk.backend import DrpaiSdkBackend
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.core.errors import OptionError


def test_every_cpu_target_has_its_name_and_machine() -> None:
    assert {name: target.machine for name, target in targets.TARGETS.items()} == dict(MACHINES)
    assert [target.name for target in targets.BOARDS] == list(BOARDS)
    assert set(table.BACKENDS) == {"host", "native", "tflite", *targets.TARGETS}
    assert all(isinstance(table.backend(name), CpuBackend) for name in table.BACKENDS if name != "tflite")


def test_an_unknown_name_lists_those_there_are() -> None:
    with pytest.raises(OptionError, match=r"--target 'avx3' is unknown: give host, x86-64-v2, .*, rzv2h, rzv2n"):
        table.backend("avx3")


def test_a_backend_serves_one_compilation() -> None:
    assert table.backend("host") is not table.backend("host")


def test_the_sdk_serves_with_the_targets_own_backend_for_the_cpu() -> None:
    tools = SdkOptions(drp_compiler_dir="T")
    assert isinstance(table.backend("host", tools), DrpaiSdkBackend)
    assert isinstance(table.backend("host", SdkOptions(drp_compiler_version="091")), CpuBackend)


def test_an_unknown_target_is_wrong_usage_before_anything_is_loaded() -> None:
    code = (
        "import sys; from drpai_qat.cli.main import compile_main;"
        "status = compile_main(['m.onnx', '--target', 'avx3']);"
        "print(status, sorted({'tvm', 'onnx', 'onnxruntime', 'numpy'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout == "2 []\n"
    assert "--target 'avx3' is unknown" in result.stderr


def test_a_missing_compiler_is_named_before_the_model_is_read(tmp_path, monkeypatch) -> None:
    import drpai_qat

    monkeypatch.setenv("SDK", str(tmp_path))
    with pytest.raises(OptionError, match="is not the cross compilation SDK"):
        drpai_qat.compile(tmp_path / "no_such_file.onnx", target="rzv2h", output_dir=tmp_path / "out")
