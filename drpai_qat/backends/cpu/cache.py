"""Compiled kernels kept between runs: one file each, named by the hash of everything it was made from.

The cache never fails a compilation: where it can't be read or written (no home, read-only, disk full), the compiler
goes on without. Any number of processes may share a folder: files appear whole under their name, and one that does not
hold what was written (its first 32 bytes are the SHA-256 of the rest) is removed and made again.

Folder: $DRPAI_QAT_CACHE_DIR, else $XDG_CACHE_HOME/drpai-qat, else ~/.cache/drpai-qat; kernels lie in kernels/ below it.
Size: $DRPAI_QAT_CACHE_MB, default 256; 0 keeps nothing. Beyond it, the least recently used go first.
Whoever may write there can put code into your networks: the folder is made for its owner alone, and one that is not, or
a file in it, is not used (core/user_cache.py).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from dataclasses import dataclass
from pathlib import Path

from drpai_qat.core.user_cache import PARTIAL, make_private, read_own, user_cache, why_not_trusted, write_whole

KERNELS = "kernels"
DEFAULT_MEGABYTES = 256
_ENDING = ".o"
_DIGITS = 10  # of a number of megabytes that means one
_DIGEST = hashlib.sha256().digest_size
_ABANDONED = 3600  # seconds after which a partial file's writer is taken to be dead


@dataclass(frozen=True)
class KernelCache:
    """A folder of compiled kernels.

    Attributes:
        folder: where they lie; it need not exist. None: nothing is kept.
        limit: bytes that `trim` leaves at most.
        refused: why the folder that the environment names is not used; "": it is, or none is wanted.
    """

    folder: Path | None
    limit: int = DEFAULT_MEGABYTES << 20
    refused: str = ""

    @classmethod
    def of_user(cls) -> KernelCache:
        """The cache that the environment names; see the head of this file."""
        size = os.environ.get("DRPAI_QAT_CACHE_MB", "")
        limit = (int(size) if size.isdecimal() and len(size) < _DIGITS else DEFAULT_MEGABYTES) << 20
        folder = user_cache()
        if folder is None or not limit:
            return cls(None, limit)
        reason = why_not_trusted(folder / KERNELS)
        return cls(None if reason else folder / KERNELS, limit, reason)

    def get(self, key: str) -> bytes | None:
        """The content kept under this key; None if there is none, or it is damaged."""
        path = self._path(key)
        if path is None:
            return None
        try:
            stored = read_own(path)
        except OSError:
            return None
        content = stored[_DIGEST:]
        whole = hashlib.sha256(content).digest() == stored[:_DIGEST]
        with contextlib.suppress(OSError):
            if whole:
                os.utime(path)  # used now
            else:
                path.unlink()
        return content if whole else None

    def put(self, key: str, content: bytes) -> None:
        """Keep this content; where that is not possible, do nothing."""
        path = self._path(key)
        if path is None:
            return
        with contextlib.suppress(OSError):
            make_private(path.parent)
            write_whole(path, hashlib.sha256(content).digest() + content)

    def trim(self) -> None:
        """Remove the least recently used files until the limit holds, and leftovers of killed writers."""
        if self.folder is None:
            return
        kept: list[tuple[float, int, str]] = []
        with contextlib.suppress(OSError), os.scandir(self.folder) as entries:
            for entry in entries:
                with contextlib.suppress(OSError):  # another process removed it
                    found = entry.stat()
                    if entry.name.endswith(_ENDING):
                        kept.append((found.st_mtime, found.st_size, entry.path))
                    elif entry.name.endswith(PARTIAL) and found.st_mtime < time.time() - _ABANDONED:
                        os.unlink(entry.path)
        excess = sum(size for _, size, _ in kept) - self.limit
        for _, size, path in sorted(kept):
            if excess <= 0:
                break
            with contextlib.suppress(OSError):
                os.unlink(path)
            excess -= size

    def _path(self, key: str) -> Path | None:
        return None if self.folder is None else self.folder / (key + _ENDING)


NO_CACHE = KernelCache(None)
