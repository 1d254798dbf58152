"""What a user sees whose machine can't link: TVM itself says a TypeError, or pages of compiler output."""

import os
import sys

import pytest

import drpai_qat
from drpai_qat.core.errors import DeploymentError
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
