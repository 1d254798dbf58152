"""The folder where things are kept between runs: kernels, and runtime libraries for boards.

What lies there goes into networks. So it is used only where nobody else can have put it: folders and files that belong
to this user, and that no other may write.
"""

from __future__ import annotations

import contextlib
import os
import stat
import tempfile
from pathlib import Path

import platformdirs

PARTIAL = ".partial"


def user_cache() -> Path | None:
    """$DRPAI_QAT_CACHE_DIR, else the system's place (~/.cache/drpai-qat, or below $XDG_CACHE_HOME); None: no home."""
    named = os.environ.get("DRPAI_QAT_CACHE_DIR")
    folder = Path(named) if named else platformdirs.user_cache_path("drpai-qat")
    return folder if named or folder.is_absolute() else None


def why_not_trusted(folder: Path) -> str:
    """Why what lies in a folder may be somebody else's; "" if it is this user's alone, or not there yet."""
    try:
        about = folder.stat()
    except OSError:
        return ""
    if about.st_uid != os.geteuid():
        return f"{folder} belongs to another user"
    return f"others may write into {folder}" if about.st_mode & (stat.S_IWGRP | stat.S_IWOTH) else ""


def make_private(folder: Path) -> None:
    """Make a folder, and those above it that are missing, for this user alone.

    Raises: OSError: that is not possible.
    """
    missing = [one for one in (folder, *folder.parents) if not one.exists()]
    for one in reversed(missing):
        one.mkdir(mode=0o700, exist_ok=True)


def read_own(path: Path) -> bytes:
    """The content of a file of this user, who alone may write it.

    Raises: OSError: there is none, or it is not one.
    """
    number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    with os.fdopen(number, "rb") as file:
        about = os.fstat(number)
        others = about.st_uid != os.geteuid() or about.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
        if others or not stat.S_ISREG(about.st_mode):
            raise PermissionError(f"{path} is not this user's alone")
        return file.read()


def write_whole(path: Path, content: bytes) -> None:
    """Write a file under a name that nobody can foresee, and give it its own when it is whole.

    Raises: OSError: that is not possible; nothing is left.
    """
    number, partial = tempfile.mkstemp(suffix=PARTIAL, dir=path.parent)
    try:
        with os.fdopen(number, "wb") as file:
            file.write(content)
        os.replace(partial, path)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(partial)
        raise
