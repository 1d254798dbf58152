"""Files that broke something once, and mutants that may."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.attack.mutation import KINDS, mutant

SEEDS = Path(__file__).parent / "seeds"
EXPECTED: dict[str, list[str]] = json.loads((SEEDS / "expected.json").read_text())
"""By name of the file: how it ends, and words of the last line."""


def attack(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.attack", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])


def test_the_same_seed_makes_the_same_mutant(models: Path) -> None:
    content = (models / "tf_cnn_op13.onnx").read_bytes()
    made = [mutant(content, seed) for seed in range(200)]
    assert made == [mutant(content, seed) for seed in range(200)]
    assert {one.kind for one in made} == {*KINDS, "bytes"}
    assert sum(one.content == content for one in made) < 10


@pytest.mark.slow
def test_files_that_broke_something() -> None:
    """Each ends as expected.json says."""
    result = attack("--files", str(SEEDS), "--verbose")
    assert result.returncode == 0, result.stdout + result.stderr
    lines = re.findall(r"^(\w[\w ]*) (\S+) \(.*?\): ?(.*)$", result.stdout, re.MULTILINE)
    found = {name: (outcome, told) for outcome, name, told in lines}
    assert found.keys() == EXPECTED.keys()
    for name, (outcome, words) in EXPECTED.items():
        assert found[name][0] == outcome, f"{name}: {found[name]}"
        assert words in found[name][1], f"{name}: {found[name]}"


@pytest.mark.slow
def test_mutants_end_as_documented(tmp_path: Path) -> None:
    """Some minutes of them; `make attack SEEDS=10000` takes hours."""
    result = attack("--seeds", "200", "--keep", str(tmp_path))
    assert result.returncode == 0, result.stdout + result.stderr
