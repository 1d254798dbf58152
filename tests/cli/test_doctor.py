"""The check list and its exit status."""

from __future__ import annotations

import json

import pytest

from drpai_qat.cli.doctor import _line
from drpai_qat.cli.main import main
from drpai_qat.core.findings import Finding


def test_this_machine_compiles_for_itself(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("TRANSLATOR", "QUANTIZER", "SDK"):
        monkeypatch.delenv(name, raising=False)
    assert main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "everything needed is there"
    for what in ("Python", "apache-tvm", "CPU, and the target it gives", "C compiler", "qemu", "cache of kernels"):
        assert any(what in line for line in lines), what


def test_what_the_target_needs_is_missing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SDK", str(tmp_path))
    assert main(["doctor"]) == 0
    capsys.readouterr()
    assert main(["doctor", "--target", "rzv2h"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == "1 missing"
    (line,) = [line for line in lines if line.startswith("missing ")]
    assert "Arm64 cross compiler" in line
    assert "unset SDK" in line


def test_the_sdk_is_needed_where_its_tools_are_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.delenv("PRODUCT", raising=False)
    assert main(["doctor", "-d", str(tmp_path), "--quantization-tool", str(tmp_path)]) == 1
    missing = [line for line in capsys.readouterr().out.splitlines() if line.startswith("missing ")]
    assert [line[8:].split("  ")[0] for line in missing] == [
        "PRODUCT", "DRP-AI Translator's folder", "DRP-AI Quantizer's folder",
    ]  # fmt: skip


def test_packages_of_other_targets(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """They need no C compiler, but packages of their own."""
    from drpai_qat.backends.tflite.backend import TfliteBackend
    from drpai_qat.core.errors import MissingExtraError

    def missing(self: object, options: object) -> None:
        raise MissingExtraError("flatbuffers is not installed: pip install 'drpai-qat[tflite]'")

    monkeypatch.setenv("PATH", "/nonexistent")
    for name in ("CC", "CXX", "SDK", "TRANSLATOR", "QUANTIZER"):
        monkeypatch.delenv(name, raising=False)
    assert main(["doctor"]) == 1
    capsys.readouterr()
    monkeypatch.setattr(TfliteBackend, "prepare", lambda self, options: None)
    assert main(["doctor", "--target", "tflite"]) == 0
    monkeypatch.setattr(TfliteBackend, "prepare", missing)
    assert main(["doctor", "--target", "tflite"]) == 1
    assert "flatbuffers is not installed -> pip install 'drpai-qat[tflite]'" in capsys.readouterr().out


def test_wrong_usage(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--target", "pdp11"]) == 2
    assert "--target 'pdp11' is unknown" in capsys.readouterr().err


def test_it_loads_no_compiler() -> None:
    import subprocess
    import sys

    code = (
        "import sys; from drpai_qat.cli.main import main; main(['doctor']);"
        "print(sorted({'tvm', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "[]"


def test_the_list_as_json(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: object
) -> None:
    monkeypatch.setenv("SDK", str(tmp_path))
    assert main(["doctor", "--target", "rzv2h", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert (told["schema_version"], told["missing"]) == (1, 1)
    (one,) = [line for line in told["findings"] if line["state"] == "missing"]
    assert one["what"] == "Arm64 cross compiler"


def test_lines_fit_a_terminal_and_stay_whole_elsewhere() -> None:
    one = Finding("CPU, and the target it gives", "x86_64 with " + "avx512bw " * 9, "")
    wrapped = _line(one, 28, 80).splitlines()
    assert len(wrapped) > 1
    assert max(map(len, wrapped)) <= 80
    assert "\n" not in _line(one, 28, 0)
