"""Which CPU code is for, and that it is refused where it can't run."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import drpai_qat
from drpai_qat.backends.cpu import targets
from drpai_qat.core import cpu_features as cpu
from drpai_qat.core.errors import DeploymentError, OptionError


@pytest.mark.parametrize("machine", cpu.LEVELS)
def test_levels_are_what_the_targets_need(machine: str) -> None:
    for name, features in cpu.LEVELS[machine].items():
        assert targets.TARGETS[name].machine == machine
        assert set(targets.TARGETS[name].features) == set(features)


@pytest.mark.parametrize(
    ("mcpu", "name", "isa"),
    [
        ("nehalem", "x86-64-v2", "x86-64-v2"),
        ("haswell", "avx2", "avx2"),
        ("znver3", "avx2", "avx2"),
        ("skylake-avx512", "avx2", "avx2"),
        ("alderlake", "avx-vnni", "avx-vnni"),
        ("cascadelake", "avx512-vnni", "avx512-vnni"),
        ("cortex-a53", "aarch64", "neon"),
        ("cortex-a55", "aarch64-dotprod", "neon-dotprod"),
    ],
)
def test_a_cpu_gets_the_widest_kernels_it_has(mcpu: str, name: str, isa: str) -> None:
    target = targets.by_name("host", mcpu)
    assert (target.mcpu, target.name, target.isa.name) == (mcpu, name, isa)
    assert set(targets.TARGETS[name].isa.features) <= set(target.features)


def test_a_cpu_beside_a_target() -> None:
    target = targets.by_name("avx2", "cascadelake")
    assert (target.name, target.isa.name) == ("avx2", "avx2")
    assert "avx512_vnni" in target.features  # LLVM may use it
    assert targets.by_name("rzv2h", "cortex-a76").name == "rzv2h"


@pytest.mark.parametrize(
    ("target", "mcpu", "message"),
    [
        ("host", "znver33", "no CPU 'znver33' for .*; perhaps znver3"),
        ("rzv2h", "znver3", "no CPU 'znver3' for aarch64"),
        ("avx512-vnni", "haswell", "CPU haswell lacks .*avx512_vnni.*, which --target avx512-vnni needs"),
        ("host", "core2", "CPU core2 lacks popcnt, sse4_1, sse4_2, which --target x86-64-v2 needs"),
    ],
)
def test_cpus_that_do_not_fit(target: str, mcpu: str, message: str) -> None:
    with pytest.raises(OptionError, match=message):
        targets.by_name(target, mcpu)


def test_this_machine() -> None:
    assert targets.host().runs_here
    assert cpu.why_not_here(cpu.machine(), targets.host().features) == ""
    assert cpu.best_target() == targets.host().name


def test_a_machine_that_does_not_say_is_trusted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cpu, "cpu_features", lambda: frozenset())
    assert cpu.why_not_here(cpu.machine(), ["avx9"]) == ""
    assert cpu.best_target() == "host"


def foreign(small_output: Path, folder: Path, **changed: object) -> Path:
    """A copy of a compiled folder whose manifest says that it needs something else."""
    shutil.copytree(small_output, folder)
    path = folder / "deploy.json"
    manifest = json.loads(path.read_text())
    manifest["target"] |= changed
    path.write_text(json.dumps(manifest))
    return folder


def test_code_for_another_cpu_is_refused(small_output: Path, tmp_path: Path) -> None:
    folder = foreign(small_output, tmp_path / "out", name="avx10", mcpu="novalake", features=["pni", "avx10", "apx"])
    with pytest.raises(DeploymentError) as caught:
        drpai_qat.load(folder)
    assert str(caught.value) == (
        f"{folder} is compiled for avx10 (novalake), and this CPU lacks apx, avx10: "
        f"compile it with --target {targets.host().name} to run it here"
    )


def test_code_for_another_machine_is_refused(small_output: Path, tmp_path: Path) -> None:
    other = next(machine for machine in cpu.LEVELS if machine != cpu.machine())
    folder = foreign(small_output, tmp_path / "out", name="rzv2h", machine=other, features=[])
    with pytest.raises(DeploymentError, match=f"this machine is {cpu.machine()}, not {other}"):
        drpai_qat.load(folder)


def test_the_run_command_says_so_in_one_line(small_output: Path, tmp_path: Path) -> None:
    folder = foreign(small_output, tmp_path / "out", features=["avx10"])
    command = [sys.executable, "-m", "drpai_qat", "run", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "lacks avx10" in done.stderr


def test_the_manifest_names_machine_cpu_and_features(small_output: Path) -> None:
    target = json.loads((small_output / "deploy.json").read_text())["target"]
    assert target == targets.host().to_json()


def test_compile_for_a_cpu(small_output: Path, tmp_path: Path) -> None:
    model = small_output.parent / "small.onnx"
    report = drpai_qat.compile(model, output_dir=tmp_path / "out", mcpu="nehalem")
    assert report.passed
    assert report.target == "x86-64-v2"
    assert json.loads((tmp_path / "out/deploy.json").read_text())["target"]["mcpu"] == "nehalem"
    with pytest.raises(OptionError, match="no CPU 'i9'"):
        drpai_qat.compile(model, output_dir=tmp_path / "out", mcpu="i9")
