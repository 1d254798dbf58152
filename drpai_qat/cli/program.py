"""What a process does around its command: signals from the first import to the last line, streams, missing packages.

It imports nothing but Python's own modules, and what Python below 3.11 reads as well: it is there before all else.
"""

from __future__ import annotations

import errno
import io
import os
import signal
import sys
from pathlib import Path
from typing import Any, NoReturn

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_OLDEST = (3, 11)


def drpai_qat() -> NoReturn:
    """The command drpai-qat."""
    _run("main")


def compile_onnx_model_quant() -> NoReturn:
    """The command compile_onnx_model_quant.py."""
    _run("compile_main")


def _run(name: str) -> NoReturn:
    for number in _SIGNALS:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup
            signal.signal(number, _leave)
    printed = _replace_streams()
    status = _status(name)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_IGN)  # it has happened: only Python's own end is left
    sys.stdout.flush()
    failure = printed.failure
    if failure is not None and failure.errno != errno.EPIPE:  # who reads no further has read enough
        sys.stderr.write(f"error: not all could be printed: {failure.strerror}\n")
        status = status or 1
    sys.exit(status)


def _status(name: str) -> int:
    if sys.version_info[:2] < _OLDEST:
        found, wanted = (".".join(map(str, version)) for version in (sys.version_info[:2], _OLDEST))
        sys.stderr.write(f"error: this is Python {found}: {wanted} or newer is needed\n")
        return 1
    try:
        from drpai_qat.cli import main
    except ModuleNotFoundError as error:
        sys.stderr.write(f"error: {not_installed(error)}\n")
        return 1
    return int(getattr(main, name)())


def not_installed(error: ModuleNotFoundError) -> str:
    """What to do where a package of the core is missing: this is a clone that nobody installed."""
    root = Path(__file__).resolve().parents[2]
    what = str(root) if (root / "setup.cfg").is_file() else "drpai-qat"
    return f"the package {error.name} is not installed: {sys.executable} -m pip install {what}"


def _leave(number: int, _frame: object) -> NoReturn:
    """Before the work: there is nothing to clean up, and an exception could end in a library's hands."""
    os.write(2, b"interrupted\n")
    os._exit(128 + number)


_leave.until_work = True  # type: ignore[attr-defined]  # see drpai_qat.core.interrupts


class _Stream(io.RawIOBase):
    """A standard stream that remembers what went wrong instead of raising: the work goes on where nobody reads."""

    def __init__(self, number: int) -> None:
        self._number = number
        self.failure: OSError | None = None

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def isatty(self) -> bool:
        return os.isatty(self._number)

    def write(self, data: Any) -> int:
        if self.failure is None:
            try:
                return os.write(self._number, data)
            except BlockingIOError:
                return 0
            except OSError as error:
                self.failure = error
        return len(data)


def _replace_streams() -> _Stream:
    """Put such streams in the place of Python's, and /dev/null in that of closed ones; returns stdout's."""
    for number in (0, 1, 2):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number, which no file of ours may have
    streams = []
    for number, before in ((1, sys.stdout), (2, sys.stderr)):
        streams.append(_Stream(number))
        text = io.TextIOWrapper(
            io.BufferedWriter(streams[-1]),
            encoding=getattr(before, "encoding", None) or "utf-8",
            errors="backslashreplace",  # names of files need not be text
            line_buffering=number == 2 or os.isatty(number),
        )
        setattr(sys, "stdout" if number == 1 else "stderr", text)
    return streams[0]
