"""Files that appear whole or not at all."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path

from drpai_qat.core.errors import DeploymentError


@contextlib.contextmanager
def staged(path: Path) -> Iterator[Path]:
    """A file to write in place of `path`, which takes that name once the body is through without an exception.

    Raises: DeploymentError: the folder is missing or can't be written to, or `path` is a folder.
    """
    if not path.parent.is_dir():
        raise DeploymentError(f"{path.parent} is no folder: make it before the export")
    if path.is_dir():
        raise DeploymentError(f"{path} is a folder: give the name of a file")
    try:
        folder = tempfile.TemporaryDirectory(dir=path.parent)
    except OSError as error:
        raise DeploymentError(f"{path.parent} can't be written to: {error.strerror}") from error
    with folder:
        written = Path(folder.name, path.name)
        yield written
        try:
            written.replace(path)
        except OSError as error:
            raise DeploymentError(f"{path} can't be written: {error.strerror}") from error
