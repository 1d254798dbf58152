from __future__ import annotations

import os
from pathlib import Path

import pytest

import drpai_qat
from drpai_qat.backends.cpu import bundle
from drpai_qat.backends.cpu.cache import KernelCache
from drpai_qat.core import user_cache as user_cache_module
from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.user_cache import make_private, user_cache, why_not_trusted, write_whole
from drpai_qat.report.warnings import warnings


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
    for place in (tmp_path / "kernels", tmp_path):
        for mode in (0o770, 0o777, 0o1777, 0o702):
            place.chmod(mode)
            assert KernelCache.of_user() == KernelCache(None, refused=f"others may write into {place}")
        place.chmod(0o700)
    assert KernelCache.of_user().get("a") == b"code"
    assert why_not_trusted(tmp_path / "not there") == ""


@pytest.fixture
def shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder above the cache, and the cache in it."""
    above = tmp_path / "above"
    (above / "cache" / "kernels").mkdir(parents=True, mode=0o700)
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", str(above / "cache"))
    monkeypatch.setattr(user_cache_module, "_is_alone_in", lambda group: False)
    above.chmod(0o700)
    return above


@pytest.mark.parametrize(("mode", "used"), [(0o755, True), (0o777, False), (0o775, False), (0o1777, True)])
def test_who_may_exchange_a_folder_above(shared: Path, mode: int, used: bool) -> None:
    shared.chmod(mode)
    assert why_not_trusted(shared / "cache" / "kernels") == ("" if used else f"others may write into {shared}")


def test_a_group_of_its_own_is_no_other(shared: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(user_cache_module, "_is_alone_in", lambda group: group == os.getegid())
    shared.chmod(0o775)
    assert why_not_trusted(shared / "cache" / "kernels") == ""


def test_links_lead_no_further_than_they_may(shared: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    link = tmp_path / "link"
    link.symlink_to("above/cache")
    monkeypatch.setenv("DRPAI_QAT_CACHE_DIR", str(link))
    assert why_not_trusted(link / "kernels") == ""
    (shared / "cache").chmod(0o777)
    assert why_not_trusted(link / "kernels") == f"others may write into {shared / 'cache'}"
    (shared / "cache").chmod(0o700)
    shared.chmod(0o777)
    assert why_not_trusted(link / "kernels") == f"others may write into {shared}"
    link.unlink()
    link.symlink_to(link)
    assert "can't be looked at (Too many levels" in why_not_trusted(link / "kernels")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives folders away")
@pytest.mark.parametrize("which", ["above", "above/cache", "above/cache/kernels"])
def test_what_belongs_to_another_user(shared: Path, which: str) -> None:
    os.chown(shared.parent / which, 12345, -1)
    kernels = shared / "cache" / "kernels"
    assert why_not_trusted(kernels) == f"{shared.parent / which} belongs to another user"
    if which != "above/cache/kernels":
        with pytest.raises(DeploymentError, match="belongs to another user: set DRPAI_QAT_CACHE_DIR"):
            bundle._from_wheel("apache-tvm", {"apache-tvm": "1"}, "aarch64")


def test_a_compilation_says_that_it_goes_without(models: Path, shared: Path, tmp_path: Path) -> None:
    (shared / "cache").chmod(0o777)
    report = drpai_qat.compile(models / "tf_cnn_op13.onnx", output_dir=tmp_path / "out", check="none")
    assert warnings(report.notes) == [
        f"cache: not used, others may write into {shared / 'cache'}: every kernel is compiled anew; "
        "set DRPAI_QAT_CACHE_DIR to a folder of your own"
    ]
    assert not list((shared / "cache" / "kernels").iterdir())
