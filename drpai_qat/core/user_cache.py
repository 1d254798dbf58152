"""The folder where things are kept between runs: kernels, and runtime libraries for boards.

What lies there goes into networks. So it is used only where nobody else can have put it: folders and files that belong
to this user, and that no other may write.
"""

from __future__ import annotations

import contextlib
import errno
import grp
import os
import pwd
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

import platformdirs

PARTIAL = ".partial"
_MOST_LINKS = 40  # as Linux follows


def user_cache() -> Path | None:
    """$DRPAI_QAT_CACHE_DIR, else the system's place (~/.cache/drpai-qat, or below $XDG_CACHE_HOME); None: no home."""
    named = os.environ.get("DRPAI_QAT_CACHE_DIR")
    folder = Path(named) if named else platformdirs.user_cache_path("drpai-qat")
    return folder if named or folder.is_absolute() else None


def why_not_trusted(folder: Path) -> str:
    """Why what lies in a folder of the cache may be somebody else's; "" if it is this user's alone, or not there yet.

    Whoever may write a folder on the way to it could put another one in its place. So those, and links among them, have
    to be this user's or root's, and nobody else's to write, but for folders like /tmp, where names stay their owner's.

    Args:
        folder: the cache, or one below it.
    """
    cache = user_cache() or folder
    own = {os.path.realpath(one) for one in (folder, *folder.parents) if one == folder or one.is_relative_to(cache)}
    user = os.geteuid()
    try:
        for place, about in _way(folder):
            ours = str(place) in own
            if about.st_uid != user and (ours or about.st_uid != 0):
                return f"{place} belongs to another user"
            if stat.S_ISLNK(about.st_mode) or (about.st_mode & stat.S_ISVTX and not ours):
                continue
            group = about.st_mode & stat.S_IWGRP and (ours or not _is_alone_in(about.st_gid))
            if group or about.st_mode & stat.S_IWOTH:
                return f"others may write into {place}"
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{folder} can't be looked at ({error.strerror})"
    return ""


def _way(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Each folder and each link on the way to a path, the root first.

    Raises: OSError: there is no further.
    """
    ahead = list(reversed(path.absolute().parts))
    here, links = Path(ahead.pop()), 0
    yield here, here.lstat()
    while ahead:
        name = ahead.pop()
        if name == "..":
            here = here.parent
            continue
        place = here / name
        about = place.lstat()
        yield place, about
        if not stat.S_ISLNK(about.st_mode):
            here = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
        target = Path(os.readlink(place))
        ahead += reversed(target.parts)
        if target.is_absolute():
            here = Path(ahead.pop())


def _is_alone_in(group: int) -> bool:
    """True for the group that many systems make for each user, and let write what he makes."""
    try:
        user, found = pwd.getpwuid(os.geteuid()), grp.getgrgid(group)
    except KeyError:
        return False
    return found.gr_gid == user.pw_gid and found.gr_name == user.pw_name and not set(found.gr_mem) - {user.pw_name}


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
