from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import pytest

from drpai_qat.backends.cpu.cache import DEFAULT_MEGABYTES, NO_CACHE, KernelCache


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "kernels"


@pytest.fixture
def cache(folder: Path) -> KernelCache:
    return KernelCache(folder)


def test_gives_back_what_was_kept(cache: KernelCache, folder: Path) -> None:
    assert cache.get("a") is None
    cache.put("a", b"machine code")
    cache.put("b", b"")
    assert cache.get("a") == b"machine code"
    assert cache.get("b") == b""
    assert cache.get("c") is None
    assert sorted(os.listdir(folder)) == ["a.o", "b.o"]


def test_is_its_owners_alone(cache: KernelCache, folder: Path) -> None:
    cache.put("a", b"machine code")
    assert folder.stat().st_mode & 0o077 == 0
    assert (folder / "a.o").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("kept", [0, 9, 40])
@pytest.mark.parametrize("added", [b"", b"X"])
def test_a_damaged_entry_is_removed(cache: KernelCache, folder: Path, kept: int, added: bytes) -> None:
    cache.put("a", b"machine code, at some length")
    path = folder / "a.o"
    path.write_bytes(path.read_bytes()[:kept] + added)
    assert cache.get("a") is None
    assert not path.exists()
    cache.put("a", b"machine code")
    assert cache.get("a") == b"machine code"


def test_drops_what_was_not_used_for_longest(tmp_path: Path) -> None:
    cache = KernelCache(tmp_path, limit=3 * (32 + 100))
    for age, key in enumerate("abcde"):
        cache.put(key, key.encode() * 100)
        os.utime(tmp_path / f"{key}.o", (1000 + age, 1000 + age))
    assert cache.get("a") is not None  # used now
    (tmp_path / "mine.txt").write_text("not the cache's")
    cache.trim()
    assert sorted(os.listdir(tmp_path)) == ["a.o", "d.o", "e.o", "mine.txt"]


def test_removes_what_killed_writers_left(cache: KernelCache, folder: Path) -> None:
    cache.put("a", b"x")
    old, new = folder / "old.partial", folder / "new.partial"
    for path in (old, new):
        path.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    cache.trim()
    assert sorted(os.listdir(folder)) == ["a.o", "new.partial"]


def test_many_writers_of_one_entry(cache: KernelCache, folder: Path) -> None:
    content = os.urandom(1 << 16)
    seen: list[bytes | None] = []

    def work() -> None:
        for _ in range(20):
            cache.put("a", content)
            seen.append(cache.get("a"))
            cache.trim()

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(seen) == {content}
    assert os.listdir(folder) == ["a.o"]


def test_a_folder_that_cannot_be_made_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = KernelCache(tmp_path / "file" / "kernels")
    cache.put("a", b"x")
    cache.trim()
    assert cache.get("a") is None


@pytest.mark.parametrize("function", ["mkstemp", "replace", "fdopen"])
def test_a_full_disk_is_no_error(
    cache: KernelCache, folder: Path, monkeypatch: pytest.MonkeyPatch, function: str
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.mkstemp" if function == "mkstemp" else f"os.{function}", full)
    cache.put("a", b"x")
    assert cache.get("a") is None
    assert list(folder.glob("*")) == []


def test_a_read_only_cache_is_used(cache: KernelCache, monkeypatch: pytest.MonkeyPatch) -> None:
    cache.put("a", b"x")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "utime", refuse)
    assert cache.get("a") == b"x"


@pytest.mark.parametrize(
    ("environment", "folder"),
    [
        ({"HOME": "/home/me"}, "/home/me/.cache/drpai-qat/kernels"),
        ({"HOME": "/home/me", "XDG_CACHE_HOME": "/big"}, "/big/drpai-qat/kernels"),
        ({"DRPAI_QAT_CACHE_DIR": "/fast", "XDG_CACHE_HOME": "/big"}, "/fast/kernels"),
    ],
)
def test_where_it_lies(environment: dict[str, str], folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DRPAI_QAT_CACHE_DIR", "DRPAI_QAT_CACHE_MB", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert KernelCache.of_user() == KernelCache(Path(folder), DEFAULT_MEGABYTES << 20)


def test_how_large_it_grows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DRPAI_QAT_CACHE_MB", "10")
    assert KernelCache.of_user().limit == 10 << 20
    monkeypatch.setenv("DRPAI_QAT_CACHE_MB", "0")
    assert KernelCache.of_user().folder is None
    assert NO_CACHE.get("a") is None
