"""Opens files of a folder that may come from anywhere: no pipes or devices, nothing past a bound, each of them once.

What is hashed and what is used are read through one handle, so that nobody can exchange the file in between.
"""

from __future__ import annotations

import errno
import hashlib
import io
import os
import stat
from pathlib import Path

from drpai_qat.core.errors import DeploymentError

MOST_BYTES = 8 << 30
"""Of a file that a network is made of; a sparse one of any size takes no room on the disk, and hours to be read."""

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK  # without it, opening a pipe waits for who writes into it


def opened(path: Path) -> io.BufferedReader:
    """Open a regular file, to be read.

    Raises: DeploymentError: there is none, it can't be read, or it is something else.
    """
    try:
        number = os.open(path, _READ)
    except (OSError, ValueError) as error:
        raise _named(path, error) from None
    return _regular(number, path)


def opened_inside(folder: Path, name: str) -> io.BufferedReader:
    """Open a file that a list names, and follow no link on the way: one could lead anywhere.

    Args:
        name: relative to `folder`, with slashes; see drpai_qat.deployment.schema.inside.
    Raises: DeploymentError: as `opened`, or there is a link.
    """
    *folders, last = name.split("/")
    path = folder / name
    try:
        where = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for one in folders:
                below = os.open(one, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=where)
                os.close(where)
                where = below
            number = os.open(last, _READ | os.O_NOFOLLOW, dir_fd=where)
        finally:
            os.close(where)
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and error.errno in (errno.ELOOP, errno.ENOTDIR):
            raise DeploymentError(f"{path} is a link: put the file itself there") from None
        raise _named(path, error) from None
    return _regular(number, path)


def read_bounded(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises: DeploymentError: as `opened`, or it is larger.
    """
    with opened(path) as file:
        try:
            content = file.read(most + 1)
        except OSError as error:
            raise _named(path, error) from None
    if len(content) > most:
        raise DeploymentError(f"{path} has more than {most} bytes: copy it again")
    return content


def check_hash(file: io.BufferedRandom | io.BufferedReader, expected: str | None, path: Path) -> None:
    """Compare an open file of MOST_BYTES at most with its SHA-256; it stands at its beginning again afterwards.

    Raises: DeploymentError: it is another file than the one that was compiled.
    """
    if os.fstat(file.fileno()).st_size > MOST_BYTES:
        raise DeploymentError(f"{path} has more than {MOST_BYTES >> 30} GiB: copy it again")
    if hashlib.file_digest(file, "sha256").hexdigest() != expected:
        raise DeploymentError(f"{path} is not the file that was compiled (sha256 differs): copy it again")
    file.seek(0)


def _regular(number: int, path: Path) -> io.BufferedReader:
    if not stat.S_ISREG(os.fstat(number).st_mode):
        os.close(number)
        raise DeploymentError(f"{path} is not a regular file: copy it again")
    return os.fdopen(number, "rb")


def _named(path: Path, error: OSError | ValueError) -> DeploymentError:
    if isinstance(error, FileNotFoundError):
        return DeploymentError(f"{path} is missing: copy the whole folder")
    reason = error.strerror if isinstance(error, OSError) else error
    return DeploymentError(f"{path} can't be read ({reason}): copy it again")
