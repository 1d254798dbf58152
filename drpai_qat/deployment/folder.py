"""Writes the output folder whole or not at all.

Everything is written to a temporary sibling folder, which takes the output's name in the end (swap.py). An earlier
output of ours stays in place until then. Whatever else is there, or was changed since, is refused, so nothing of the
user's is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import NoReturn

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.interrupts import settle
from drpai_qat.core.text import INSTALL_LINKER, listed, one_line
from drpai_qat.deployment import manifest
from drpai_qat.deployment.swap import staging, swap, turn, undisturbed

CANONICAL = "model_int8.onnx"
INTERPRETER_OUT = "interpreter_out"
PROFILE = "profile.json"
"""Written later, by `drpai-qat profile`: of an earlier compilation, it goes with it."""


@contextlib.contextmanager
def staged(output_dir: Path) -> Iterator[Path]:
    """Yield an empty folder that becomes `output_dir` when the block ends without an exception.

    Raises: DeploymentError: the folder can't be written, holds something that is not ours, or the disk is full.
    """
    final = _resolved(output_dir)
    if os.path.lexists(final):
        with named_os_errors(output_dir), turn(final.parent):  # else the contents could be exchanged meanwhile
            check_replaceable(final)
    created = _make_parents(final.parent, output_dir)
    try:
        with named_os_errors(output_dir), staging(final) as folder:
            yield folder
            os.chmod(folder, 0o777 & ~_umask())  # mkdtemp's 0700 would hide the result from others
            with turn(final.parent), undisturbed():
                check_replaceable(final)  # another compilation may have finished meanwhile
                swap(folder, final)
                settle()
    except BaseException:
        for parent in created:
            with contextlib.suppress(OSError):
                parent.rmdir()
        raise


_LINKER_FAILED = "Compilation error:"
"""TVM's words in front of what the linker said."""

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def named_os_errors(output_dir: Path) -> Iterator[None]:
    """Say what an OSError means for the user: full disk, no permission."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # Failures of LLVM and of the linker come as RuntimeErrors that quote them.
        quoted = any(os.strerror(number) in str(error) for number in _FULL)
        if quoted or (isinstance(error, OSError) and error.errno in _FULL):
            why, what_to_do = "no space left", "free some, or choose another disk with -o"
        elif isinstance(error, OSError):
            where = f" ({error.filename})" if error.filename else ""
            why, what_to_do = f"{error.strerror or error}{where}", "choose a folder you may write with -o"
        elif _LINKER_FAILED in str(error):
            why, what_to_do = one_line(str(error).split(_LINKER_FAILED)[-1]), INSTALL_LINKER
            raise DeploymentError(f"deploy.so can't be linked: {why}: try {what_to_do}") from None
        else:
            raise
        raise DeploymentError(f"{output_dir} can't be written: {why}: {what_to_do}") from None


def check_replaceable(final: Path) -> None:
    """Make sure that replacing `final` loses nothing of the user's.

    Raises: DeploymentError: it is a file, a mount point, or holds something that no compile wrote.
    """
    if not os.path.lexists(final):
        return
    if not final.is_dir():
        raise DeploymentError(f"{final} is a file: choose another folder with -o")
    if os.path.ismount(final):
        raise DeploymentError(f"{final} is a mount point: choose a folder inside it with -o")
    try:
        if not any(final.iterdir()):
            return
        if not manifest.is_ours(final):
            raise DeploymentError(f"{final} exists and is not an earlier output: choose another folder with -o")
        _check_contents(final, manifest.read(final).files)
    except OSError as error:
        raise DeploymentError(f"{final} can't be read: {error.strerror}: choose another folder with -o") from None


_ADDED_LATER = re.compile(rf"output_\d+\.bin|{re.escape(manifest.FILE)}|{re.escape(PROFILE)}")  # and never the user's


def _check_contents(final: Path, files: Mapping[str, str]) -> None:
    """Make sure that an earlier output holds what was written, and what runs add; the rest is the user's."""
    folders = {parent.as_posix() for name in files for parent in PurePosixPath(name).parents}
    others, changed, protected = [], [], []
    for place, inner, names in os.walk(final, onerror=_raise):
        for name in (*inner, *names):
            path = Path(place) / name
            relative, mode = path.relative_to(final).as_posix(), path.lstat().st_mode
            if stat.S_ISDIR(mode) and relative in folders:
                pass
            elif stat.S_ISREG(mode) and relative in files:
                if manifest.sha256(path) != files[relative]:
                    changed.append(relative)
            elif not stat.S_ISREG(mode) or not _ADDED_LATER.fullmatch(relative):
                others.append(relative)
            if not stat.S_ISLNK(mode) and not mode & stat.S_IWUSR:
                protected.append(relative)
    for found, what in (
        (others, "holds other files too"),
        (changed, "holds files that were changed"),
        (protected, "holds write-protected files"),
    ):
        if found:
            shown = listed([one_line(name, 60) for name in sorted(found)])
            raise DeploymentError(f"{final} {what} ({shown}): move them, or choose another folder with -o")


def _raise(error: OSError) -> NoReturn:
    raise error


def write_arrays(
    folder: Path,
    inputs: Sequence[NDArray],
    outputs: Sequence[NDArray],
) -> None:
    """Write the sample run as raw little-endian float32: input_<i>.bin twice, ref_result_<i>.bin under both names.

    The board's runtime counts `input_*bin` in the folder to find the number of inputs: nothing else may match.
    """
    results = folder / INTERPRETER_OUT
    results.mkdir(exist_ok=True)
    for index, array in enumerate(inputs):
        for place in (folder, results):
            write_float32(place / f"input_{index}.bin", array)
    for index, array in enumerate(outputs):
        for suffix in ("_fp32", ""):
            write_float32(results / f"ref_result_{index}{suffix}.bin", array)


def write_float32(path: Path, array: NDArray) -> None:
    """Write an array as raw little-endian float32."""
    path.write_bytes(np.ascontiguousarray(array, "<f4").tobytes())


def hashes(folder: Path) -> dict[str, str]:
    """sha256 of every file below `folder` but deploy.json, by relative path."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    names = {path.relative_to(folder).as_posix(): path for path in files}
    return {name: manifest.sha256(path) for name, path in names.items() if name != manifest.FILE}


def _resolved(output_dir: Path) -> Path:
    """Absolute, links followed: a link to the output folder keeps pointing at it."""
    try:
        final = output_dir.expanduser().resolve()
        str(final).encode()
        return final
    except UnicodeEncodeError:
        shown = one_line(output_dir)
        raise DeploymentError(
            f"{shown} is no text in UTF-8, and TVM writes to no other path: choose another with -o"
        ) from None
    except (OSError, RuntimeError) as error:
        raise DeploymentError(f"{output_dir} is not a usable path: {error}: choose another with -o") from None


def _make_parents(parent: Path, output_dir: Path) -> list[Path]:
    """Create missing parents; returns those created, innermost first, so that a failure can take them back."""
    missing = []
    for folder in (parent, *parent.parents):
        if folder.exists():
            break
        missing.append(folder)
    with named_os_errors(output_dir):
        parent.mkdir(parents=True, exist_ok=True)
    return missing


def _umask() -> int:
    """Read without setting it, which would be seen by other threads."""
    with contextlib.suppress(OSError, ValueError, StopIteration), open("/proc/self/status") as lines:
        return int(next(line for line in lines if line.startswith("Umask:")).split()[1], 8)
    return 0o077
