from __future__ import annotations

from pathlib import Path

import pytest

from drpai_qat.backends.cpu import bundle
from drpai_qat.core.user_cache import user_cache


def test_the_override_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    monkeypatch.delenv("DRPAI_QAT_CACHE_DIR", raising=False)
    assert user_cache() == Path("/big/drpai-qat")
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", "/fast")
    assert user_cache() == Path("/fast")


def test_libraries_for_boards_are_kept_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", str(tmp_path))
    kept = tmp_path / "runtime/aarch64/apache-tvm-1/libtvm_runtime.so"
    kept.parent.mkdir(parents=True)
    kept.touch()
    assert bundle._from_wheel("apache-tvm", {"apache-tvm": "1"}, "aarch64") == kept
