"""Writes the output folder whole or not at all.

Everything is written to a temporary sibling folder, which takes the output's name in the end. An earlier output of
ours stays in place until then; anything else that is not empty is refused, so nothing of the user's is lost.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.text import INSTALL_LINKER, listed, one_line
from drpai_qat.deployment import manifest

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
    check_replaceable(final)
    created = _make_parents(final.parent, output_dir)
    try:
        with named_os_errors(output_dir):
            staging = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".partial", dir=final.parent))
        try:
            with named_os_errors(output_dir):
                yield staging
                os.chmod(staging, 0o777 & ~_umask())  # mkdtemp's 0700 would hide the result from others
                check_replaceable(final)  # another compile may have finished meanwhile
                _swap(staging, final)
        finally:
            with _undisturbed():
                shutil.rmtree(staging, ignore_errors=True)
    except BaseException:
        for folder in created:
            with contextlib.suppress(OSError):
                folder.rmdir()
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
        present = {path.relative_to(final).as_posix() for path in final.rglob("*") if not path.is_dir()}
    except OSError as error:
        raise DeploymentError(f"{final} can't be read: {error.strerror}: choose another folder with -o") from None
    if not present:
        return
    if not manifest.is_ours(final):
        raise DeploymentError(f"{final} exists and is not an earlier output: choose another folder with -o")
    foreign = sorted(present - set(manifest.read(final).files) - {manifest.FILE, PROFILE})
    if foreign:
        raise DeploymentError(
            f"{final} holds other files too ({listed(foreign)}): move them, or choose another folder with -o"
        )


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
        return output_dir.expanduser().resolve()
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


def _swap(staging: Path, final: Path) -> None:
    """Give `staging` the name `final`; what was there is removed only then."""
    with _undisturbed():
        if not final.exists():
            staging.rename(final)
            return
        old = Path(tempfile.mkdtemp(prefix=f".{final.name}.", suffix=".old", dir=final.parent))
        try:
            final.rename(old)
            try:
                staging.rename(final)
            except OSError:
                old.rename(final)
                raise
        finally:
            shutil.rmtree(old, ignore_errors=True)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """Hold Ctrl-C and kill back for the few moments in which folders change names."""
    held = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
    before = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask
