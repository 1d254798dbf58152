"""What a user sees whose machine can't link: TVM itself says a TypeError, or pages of compiler output."""

import os
import shutil
import sys

import pytest

import drpai_qat
from drpai_qat.core.errors import DeploymentError, OptionError
from tests.small_models import qdq_model


@pytest.fixture
def small(tmp_path):
    (tmp_path / "m").mkdir()
    path = tmp_path / "m" / "small.onnx"
    path.write_bytes(qdq_model().SerializeToString())
    return path


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch):
    for name in ("CC", "CXX"):
        monkeypatch.delenv(name, raising=False)


def test_no_compiler(small, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", os.path.dirname(sys.executable))
    with pytest.raises(DeploymentError, match=r"no C compiler.*apt-get install gcc"):
        drpai_qat.compile(small, output_dir=tmp_path / "out")
    assert os.listdir(tmp_path) == ["m"]


def test_broken_compiler(small, tmp_path, monkeypatch):
    compiler = small.parent / "g++"
    compiler.write_text("#!/bin/sh\necho 'ld: cannot find crti.o' >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("PATH", str(compiler.parent), prepend=os.pathsep)
    with pytest.raises(DeploymentError, match=r"can't be linked: ld: cannot find crti\.o") as caught:
        drpai_qat.compile(small, output_dir=tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize(("name", "words"), [("CC", "{gcc} -m64"), ("CXX", "'{launcher}' {gcc}")])
def test_compilers_of_several_words(small, tmp_path, monkeypatch, name, words):
    """A launcher, as ccache is one, stands in front of the compiler, in a folder with a blank in its name."""
    launcher = small.parent / "with blank" / "ccache"
    launcher.parent.mkdir()
    launcher.write_text('#!/bin/sh\necho "$1" > "${0%/*}/called"\nexec "$@"\n')
    launcher.chmod(0o755)
    gcc = shutil.which("gcc") or shutil.which("cc")
    monkeypatch.setenv(name, words.format(gcc=gcc, launcher=launcher))
    assert drpai_qat.compile(small, output_dir=tmp_path / "out").passed
    assert (launcher.parent / "called").exists() == (name == "CXX")


def test_a_variable_that_names_no_compiler(small, tmp_path, monkeypatch):
    for text, says in (("no-such-cc -m64", "no such program: unset CC"), ('gcc "', "not a command")):
        monkeypatch.setenv("CC", text)
        with pytest.raises(OptionError, match=says):
            drpai_qat.compile(small, output_dir=tmp_path / "out")
