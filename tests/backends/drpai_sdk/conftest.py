"""An SDK made of doubles: tools that hold what they are given to the public contract, and play failures on demand."""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DOUBLES = Path(__file__).parent / "doubles"


@dataclass(frozen=True)
class FakeSdk:
    """Folders of the tools, and what they were asked."""

    root: Path

    @property
    def translator(self) -> Path:
        return self.root / "translator"

    @property
    def quantizer(self) -> Path:
        return self.root / "drpAI_Quantizer"

    def set(self, name: str, value: str) -> None:
        """Make the doubles play something."""
        (self.root / name).write_text(value)

    def calls(self, tool: str = "") -> list[dict[str, Any]]:
        """The calls so far, in order."""
        path = self.root / "calls"
        found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
        return [one for one in found if tool in ("", one["tool"])]


@pytest.fixture
def sdk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeSdk:
    """An SDK for RZ/V2H; python3 on PATH is the tests' own."""
    root = tmp_path / "sdk"
    places = {
        "translator/DRP-AI_Translator/run.py": "run_translator.py",
        "translator/DRP-AI_Translator/onnx_optimizer/run_onnx_optimizer.py": "run_onnx_optimizer.py",
        "drpAI_Quantizer/drpai_quantizer/cli_interface.py": "cli_interface.py",
    }
    for place, double in places.items():
        (root / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(DOUBLES / double, root / place)
    (root / "translator/output").mkdir()
    (root / "drpAI_Quantizer/drpai_quantizer/__init__.py").touch()
    python = root / "bin/python3"
    python.parent.mkdir()
    python.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    python.chmod(0o755)
    monkeypatch.setenv("PATH", f"{python.parent}:/usr/local/bin:/usr/bin:/bin")
    linker = root / "bin/aarch64-linux-gnu-gcc"  # a real one need not be installed; nothing here runs Arm64 code
    linker.write_text('#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo code > "$2"; shift; done\n')
    linker.chmod(0o755)
    (root / "tmp").mkdir()  # logs of failures stay there
    monkeypatch.setenv("TMPDIR", str(root / "tmp"))
    monkeypatch.setattr(tempfile, "tempdir", None)
    monkeypatch.setenv("PRODUCT", "V2H")
    for name in ("TRANSLATOR", "QUANTIZER", "SDK", "OPTIMIZER_ENABLE", "SPARSE_ENABLE", "PYTHONPATH"):
        monkeypatch.delenv(name, raising=False)
    return FakeSdk(root)
