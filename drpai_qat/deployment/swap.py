"""Gives a finished folder the name of the output: at any moment that name is the old folder or the new one.

Beside the output lie, while a compilation runs and never longer than until the next one, folders of its own:

    .out.xxxxxxxx.partial    being written; whoever writes holds a lock on it, so a dead writer's is known
    .out.xxxxxxxx.old        the earlier output, for the moment between two renames where names can't be exchanged

One process at a time makes, exchanges or removes them: it holds a lock on the folder that they lie in.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import re
import shutil
import signal
import stat
import tempfile
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

from drpai_qat.core.errors import DeploymentError
from drpai_qat.deployment import manifest

_PATIENCE = 60  # seconds that another process may hold the lock: it renames and removes a few folders
_AT_FDCWD, _EXCHANGE = -100, 2  # <fcntl.h>, <linux/fs.h>
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_NO_EXCHANGE = (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def turn(parent: Path) -> Iterator[None]:
    """Hold the lock of the folder that outputs lie in; file systems without locks do without.

    Raises: DeploymentError: another process holds it all the time. OSError: the folder can't be opened.
    """
    number = os.open(parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        deadline = time.monotonic() + _PATIENCE
        while not _locked(number):
            if time.monotonic() > deadline:
                raise DeploymentError(f"{parent} is locked by another program: waited {_PATIENCE} s; try again later")
            time.sleep(0.02)
        yield
    finally:
        os.close(number)


@contextlib.contextmanager
def staging(final: Path) -> Iterator[Path]:
    """An empty folder beside `final` that is gone afterwards, whatever is in it then; what killed ones left goes first.

    Raises: as `turn`.
    """
    with turn(final.parent), undisturbed():
        recover(final)
        folder = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        _locked(number)
    try:
        yield folder
    finally:
        with undisturbed():
            shutil.rmtree(folder, ignore_errors=True)
            os.close(number)


def recover(final: Path) -> None:
    """Remove what killed processes left beside `final`, and give it back its name if one died in between."""
    ours = re.compile(rf"\.{re.escape(final.name)}\.[a-z0-9_]{{8}}\.(partial|old)")
    with os.scandir(final.parent) as entries:
        found = [Path(one.path) for one in entries if ours.fullmatch(one.name)]
    for path in found:
        about = path.lstat()
        if not stat.S_ISDIR(about.st_mode) or about.st_uid != os.geteuid():
            continue
        if path.suffix == ".partial":
            if _abandoned(path):
                shutil.rmtree(path, ignore_errors=True)
        elif not os.path.lexists(final) and manifest.is_ours(path):
            path.rename(final)
        elif manifest.is_ours(path) or not any(path.iterdir()):
            _remove(path)


@contextlib.contextmanager
def undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and kill back for the few moments in which folders change names."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def swap(new: Path, final: Path) -> None:
    """Give `new` the name `final`; what was there is `new` afterwards, or gone. The caller has the turn."""
    if not os.path.lexists(final):
        new.rename(final)
    elif not exchange(new, final):
        old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".old", dir=final.parent))
        final.rename(old)
        try:
            new.rename(final)
        except OSError:
            old.rename(final)
            raise
        _remove(old)


def _remove(old: Path) -> None:
    """Under the name of what may go half removed, so that what has the other name is whole."""
    going = old.with_suffix(".partial")
    old.rename(going)
    shutil.rmtree(going, ignore_errors=True)


def exchange(one: Path, other: Path) -> bool:
    """Let two folders exchange names in one step; False where the system or the file system has no such step."""
    rename = _renameat2()
    if rename is None:
        return False
    if rename(_AT_FDCWD, os.fsencode(one), _AT_FDCWD, os.fsencode(other), _EXCHANGE) == 0:
        return True
    number = ctypes.get_errno()
    if number in _NO_EXCHANGE:
        return False
    raise OSError(number, os.strerror(number), str(other))


@cache
def _renameat2() -> Any:
    function = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None)
    if function is not None:
        function.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_char_p, ctypes.c_uint]
    return function


def _abandoned(folder: Path) -> bool:
    """True if nobody holds the lock of a folder that is being written."""
    try:
        number = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(number)
    return True


def _locked(number: int) -> bool:
    try:
        fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise
    return True
