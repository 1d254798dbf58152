"""Where the tools are, who named them, and which release they are of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from drpai_qat.backends.drpai_sdk.installation import Examination
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.core.errors import OptionError
from drpai_qat.core.findings import require


def examined(sdk: Any, **options: Any) -> Examination:
    given = {"drp_compiler_dir": str(sdk.translator), "quantization_tool": str(sdk.quantizer), **options}
    return Examination(SdkOptions(**{name: value for name, value in given.items() if value is not None}))


def test_all_is_there(sdk: Any) -> None:
    found = examined(sdk)
    require(found.findings)
    tools = found.installation
    assert tools is not None
    assert (tools.translator.origin, tools.quantizer.origin, tools.product) == ("-d", "-q", "V2H")
    assert {"--disable_onnxsim", "--check_operator"} <= tools.translator_flags
    assert "--opts" in tools.quantizer_flags
    assert tools.optimizer
    assert tools.sparse
    assert sdk.calls() == []  # --help is no call
    lines = {one.what: one.found for one in found.findings}
    assert lines["DRP-AI Translator"] == "version 1.12; takes --disable_onnxsim, --check_operator"
    assert lines["DRP-AI Quantizer"] == "version 1.4.0; takes --opts"


def test_the_flag_comes_before_the_variable(sdk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSLATOR", "/nowhere")
    monkeypatch.setenv("QUANTIZER", str(sdk.quantizer))
    found = examined(sdk, quantization_tool=None)
    assert found.translator is not None
    assert (str(found.translator.folder), found.translator.origin) == (str(sdk.translator), "-d")
    assert found.quantizer is not None
    assert found.quantizer.origin == "QUANTIZER"
    assert found.installation is not None


def test_one_of_them_is_found_beside_the_other(sdk: Any) -> None:
    for missing in ("drp_compiler_dir", "quantization_tool"):
        tools = examined(sdk, **{missing: None}).installation
        assert tools is not None
        assert "beside" in (tools.translator if missing.startswith("drp") else tools.quantizer).origin


def test_switches(sdk: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTIMIZER_ENABLE", "false")
    monkeypatch.setenv("SPARSE_ENABLE", "0")  # only "false" turns it off
    (sdk.translator / "DRP-AI_Translator/onnx_optimizer/run_onnx_optimizer.py").unlink()
    tools = examined(sdk).installation
    assert tools is not None
    assert (tools.optimizer, tools.sparse) == (False, True)


def broken(sdk: Any, how: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Break one thing; returns options."""
    match how:
        case "no product":
            monkeypatch.delenv("PRODUCT")
        case "other product":
            monkeypatch.setenv("PRODUCT", "V2L")
        case "root":
            return {"drp_compiler_dir": str(sdk.root)}
        case "V2L's translator":
            (sdk.translator / "DRP-AI_Translator/run.py").unlink()
            (sdk.translator / "run_DRP-AI_translator_V2L.sh").touch()
        case "no folder":
            return {"quantization_tool": str(sdk.root / "Q")}
        case "not the quantizer":
            return {"quantization_tool": str(sdk.translator)}
        case "no optimizer":
            (sdk.translator / "DRP-AI_Translator/onnx_optimizer/run_onnx_optimizer.py").unlink()
        case "no python":
            monkeypatch.setenv("PATH", "/nonexistent")
        case "broken tool":
            sdk.set("plays_translator", "broken help")
    return {}


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ("no product", "PRODUCT: not set: export PRODUCT=V2H or PRODUCT=V2N"),
        ("other product", "PRODUCT: V2L is unknown"),
        ("root", r"is the folder above it: give .*/translator"),
        ("V2L's translator", r"is the Translator for V2L: install the one for V2H or V2N"),
        ("no folder", r"Quantizer's folder: .*/Q \(-q\): no such folder"),
        ("not the quantizer", r"holds no drpai_quantizer/cli_interface.py"),
        ("no optimizer", r"ONNX optimizer: .*OPTIMIZER_ENABLE=false"),
        ("no python", "python3 for the tools: none on PATH"),
        (
            "broken tool",
            r"Translator: --help ends with status 1; it says last: ModuleNotFoundError: No module named 'onnx",
        ),
    ],
)
def test_what_is_missing_is_named(sdk: Any, monkeypatch: pytest.MonkeyPatch, how: str, says: str) -> None:
    found = examined(sdk, **broken(sdk, how, monkeypatch))
    assert found.installation is None
    with pytest.raises(OptionError, match=says):
        require(found.findings)


def test_another_program_is_no_translator(sdk: Any) -> None:
    (sdk.translator / "DRP-AI_Translator/run.py").write_text("import argparse; argparse.ArgumentParser().parse_args()")
    with pytest.raises(OptionError, match="--help lists no --onnx, --prepost, --s_addr"):
        require(examined(sdk).findings)


def test_nothing_is_needed_without_the_options(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("QUANTIZER", raising=False)
    monkeypatch.delenv("TRANSLATOR", raising=False)
    (one,) = Examination(SdkOptions()).findings
    assert not one.missing
    monkeypatch.setenv("TRANSLATOR", str(tmp_path))
    findings = Examination(SdkOptions()).findings
    assert any(one.todo for one in findings)
    require(findings)
