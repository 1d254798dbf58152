"""What a bundle takes from a folder, and what it refuses. The runner and RPC are in tests/arm and tests/samples."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from drpai_qat.backends.cpu import bundle as module
from drpai_qat.backends.cpu.toolchain import Linker
from drpai_qat.cli.main import main
from drpai_qat.deployment import manifest

SECRET = "the user's own\n"


@pytest.fixture
def out(small_output: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A compiled folder beside a file of the user's; no C++ compiler is needed."""
    monkeypatch.setattr(module, "_cxx", lambda linker: Linker("c++", (), "test"))
    monkeypatch.setattr(module, "_compile_runner", lambda staging, linker: (staging / module.RUNNER).touch())
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".profile").write_text(SECRET)
    shutil.copytree(small_output, tmp_path / "out")
    return Path("out")


def change(out: Path, **fields: Any) -> None:
    path = out / "deploy.json"
    content = json.loads(path.read_text())
    for name, value in fields.items():
        content[name] = (content[name] or {}) | value
    path.write_text(json.dumps(content))


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["bundle", "out", "-o", "board", *arguments]) == 1
    assert not os.path.lexists("board")
    assert Path(".profile").read_text() == SECRET
    text = capsys.readouterr().err
    assert text.count("\n") == 1
    return text


def test_takes_what_was_compiled(out: Path) -> None:
    assert main(["bundle", "out", "-o", "board"]) == 0
    found = manifest.read(Path("board"))
    assert {"deploy.so", "input_0.bin", "lib/libtvm_runtime.so", "run_inference"} <= set(found.files)
    assert not {"model_int8.onnx", "report.json"} & set(found.files)
    assert Path("board/deploy.so").read_bytes() == Path("out/deploy.so").read_bytes()


@pytest.mark.parametrize("name", ["../.profile", "a/../../.profile", "/etc/hostname", "deploy.json", "./x", ""])
def test_names_that_lead_elsewhere(out: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    change(out, files={name: manifest.sha256(Path(".profile"))})
    assert f'files["{name}"] is not the path of another file inside' in refused(capsys)


def test_links_are_not_followed(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "notes.txt").symlink_to("../.profile")
    change(out, files={"notes.txt": manifest.sha256(Path(".profile"))})
    assert "out/notes.txt is a link: put the file itself there" in refused(capsys)
    (out / "notes.txt").unlink()
    (out / "notes").symlink_to("..")
    content = json.loads((out / "deploy.json").read_text())
    del content["files"]["notes.txt"]
    (out / "deploy.json").write_text(json.dumps(content))
    change(out, files={"notes/.profile": manifest.sha256(Path(".profile"))})
    assert "out/notes/.profile is a link" in refused(capsys)


def test_changed_missing_and_strange_files(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    library = out / "deploy.so"
    library.write_bytes(b"\x7fELF another")
    assert "out/deploy.so is not the file that was compiled" in refused(capsys)
    library.unlink()
    assert "out/deploy.so is missing" in refused(capsys)
    os.mkfifo(library)
    assert "out/deploy.so is not a regular file" in refused(capsys)
    library.unlink()
    library.touch()
    os.truncate(library, 1 << 40)
    assert "out/deploy.so has more than 8 GiB" in refused(capsys)


def test_a_name_of_another_machine(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    machine = json.loads((out / "deploy.json").read_text())["target"]["machine"]
    change(out, target={"name": "avx2" if machine == "aarch64" else "rzv2h"})
    assert "deploy.json is damaged: target.name is" in refused(capsys)


def test_a_bundle_is_not_bundled(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (out / "lib").mkdir()
    (out / "lib" / "libevil.so").write_text("")
    change(out, files={"lib/libevil.so": manifest.sha256(out / "lib" / "libevil.so")})
    assert "holds lib, as a bundle does" in refused(capsys)


def test_only_force_passes_over_the_check_and_the_target(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    change(out, check={"passed": False})
    assert "fell short of its check (report.json says where)" in refused(capsys)
    assert "not for rzv2h: compile it with --target rzv2h, or add --force" in refused(capsys, "--target", "rzv2h")
    assert main(["bundle", "out", "-o", "board", "--force", "--target", "rzv2h"]) == 0
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert all(line.startswith("warning: out ") and line.endswith("(--force)") for line in lines)
    assert manifest.read(Path("board")).check == manifest.read(out).check
