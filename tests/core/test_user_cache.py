from __future__ import annotations

import os
from pathlib import Path

import pytest

from drpai_qat.backends.cpu import bundle
from drpai_qat.backends.cpu.cache import KernelCache
from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.user_cache import make_private, user_cache, why_not_trusted, write_whole


def test_the_override_wins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "/big")
    monkeypatch.delenv("DRPAI_QAT_CACHE_DIR", raising=False)
    assert user_cache() == Path("/big/drpai-qat")
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", "/fast")
    assert user_cache() == Path("/fast")


def test_libraries_for_boards_are_kept_there_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", str(tmp_path))
    kept = tmp_path / "runtime/aarch64/apache-tvm-1/libtvm_runtime.so"
    make_private(kept.parent)
    write_whole(kept, b"library")
    assert kept.parent.stat().st_mode & 0o077 == 0
    assert bundle._from_wheel("apache-tvm", {"apache-tvm": "1"}, "aarch64") == b"library"
    kept.chmod(0o666)
    with pytest.raises(DeploymentError, match="not this user's alone: set DRPAI_QAT_CACHE_DIR"):
        bundle._from_wheel("apache-tvm", {"apache-tvm": "1"}, "aarch64")


def test_what_others_may_write_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", str(tmp_path))
    cache = KernelCache.of_user()
    cache.put("a", b"code")
    assert cache.get("a") == b"code"
    (tmp_path / "kernels/a.o").chmod(0o622)
    assert cache.get("a") is None
    (tmp_path / "kernels/a.o").chmod(0o600)
    (tmp_path / "kernels").chmod(0o770)
    assert KernelCache.of_user().folder is None
    (tmp_path / "kernels").chmod(0o700)
    assert KernelCache.of_user().get("a") == b"code"
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert KernelCache.of_user().folder is None
    assert why_not_trusted(tmp_path / "kernels").endswith("belongs to another user")
    assert why_not_trusted(tmp_path / "not there") == ""
