"""How a command ends: its exit status, and at most one line on stderr."""

from __future__ import annotations

import errno
import sys
import traceback
import warnings
from collections.abc import Callable

import click

from drpai_qat.cli.program import not_installed
from drpai_qat.core.errors import PAGE, DrpaiQatError
from drpai_qat.core.interrupts import Interrupts
from drpai_qat.core.text import one_line

DONE, NAMED_ERROR, CHECK_FELL_SHORT, INTERRUPTED = 0, 1, 3, 130  # click's usage errors are 2

_OURS = ("drpai_qat", "preprocess")
_ENVIRONMENT = (
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG,
    errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE,
)  # fmt: skip


def guarded(work: Callable[[Interrupts], int], verbose: bool) -> int:
    """Run, and make every outcome an exit status and at most one line on stderr."""
    with Interrupts() as interrupts, warnings.catch_warnings():
        if not (verbose or sys.warnoptions):
            warnings.simplefilter("ignore")  # libraries', numpy's above all: what they mean for the user is said by us
        try:
            status = work(interrupts)
            interrupts.settle()
            return status
        except BaseException as error:
            interrupts.settle()
            if interrupts.received or isinstance(error, KeyboardInterrupt):  # a library may wrap it in its own
                say("interrupted")
                return interrupts.status
            if isinstance(error, DrpaiQatError):
                say(f"error: {one_line(error, 1000)}" + (f" ({PAGE}#{error.see})" if error.see else ""))
            elif isinstance(error, MemoryError):
                say("error: out of memory: close other programs, or compile on a larger machine")
            elif isinstance(error, ModuleNotFoundError) and (error.name or "").split(".")[0] not in _OURS:
                say(f"error: {not_installed(error)}")
            elif isinstance(error, OSError) and error.errno in _ENVIRONMENT:
                where = f"{one_line(error.filename)}: " if error.filename is not None else ""
                say(f"error: {where}{error.strerror}: look at the path, its permissions and limits")
            elif isinstance(error, Exception):
                if verbose:
                    traceback.print_exc()
                what = f"{type(error).__name__}: {one_line(error)}"
                say(f"error: internal: {what}: please report it (--verbose shows where)")
            else:
                raise
            return NAMED_ERROR


def say(text: str) -> None:
    """Print a line on stderr."""
    click.echo(text, err=True)
