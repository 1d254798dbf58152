"""Runs code generation in a child process, because LLVM ends the process it runs in when it can't go on.

A full disk makes LLVM print one line and exit(1): in a child that is an error like any other, and nothing is left
behind. Ctrl-C ends the child at once, in the middle of C++.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import selectors
import signal
import sys
import tempfile
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import BinaryIO, NoReturn

from drpai_qat.core import errors
from drpai_qat.core.text import one_line

_REPORT = b"\0report\0"
"""Stands in the pipe between what libraries printed and the exception that ended the child."""

_PR_SET_PDEATHSIG = 1  # <sys/prctl.h>: a signal for the child when its parent is gone

_SIGNALS: tuple[int, ...] = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)

_LOOK_EVERY = 0.25
"""Seconds between two looks at what a child has done so far."""

_Handler = Callable[[int, FrameType | None], object]
_Handled = Callable[[], contextlib.AbstractContextManager[None]]


def run_isolated(work: Callable[[], None], scratch: Path, meanwhile: Callable[[], None] | None = None) -> None:
    """Run `work` in a forked child and wait for it; only files that it writes come back.

    Args:
        work: uses no threads of this process.
        scratch: folder for its temporary files; whoever made it removes it.
        meanwhile: called in this process several times a second while the child works.
    Raises:
        DrpaiQatError: `work` raised one.
        RuntimeError: it raised something else, or the child ended without a word; what it printed is the message.
    """
    with signals_held() as handled:
        start_isolated(work, scratch).finish(handled, meanwhile)


def start_isolated(work: Callable[[], None], scratch: Path) -> Child:
    """Like `run_isolated`, without waiting; the caller must `finish` the child. It dies with this thread."""
    reading, writing = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    parent = os.getpid()
    child = None
    try:
        with signals_held():
            number = os.fork()
            if number == 0:
                _be_the_child(work, scratch, writing, parent)
            os.close(writing)
            child = Child(number, reading)
    except BaseException:  # a signal that came meanwhile, or no process to be had
        if child is None:
            os.close(writing)
        else:
            child.kill()
        os.close(reading)
        raise
    return child


@dataclass(frozen=True)
class Child:
    """A child process at work.

    Attributes:
        number: its process id.
        pipe: file descriptor that reads what it prints and reports.
    """

    number: int
    pipe: int

    def finish(self, handled: _Handled = contextlib.nullcontext, meanwhile: Callable[[], None] | None = None) -> None:
        """Wait for it.

        Args:
            handled: makes the context in which signals are handled, where they are held outside of it.
            meanwhile: see `run_isolated`.
        Raises: as `run_isolated`.
        """
        try:
            with os.fdopen(self.pipe, "rb") as pipe, handled():
                printed, _, report = (pipe.read() if meanwhile is None else _read(pipe, meanwhile)).partition(_REPORT)
        except BaseException:
            self.kill()
            raise
        with signals_held():  # after the wait, the number may be another process's: nobody may kill it
            _, status = os.waitpid(self.number, 0)
        if status == 0:
            return
        if not report:
            output = printed.decode(errors="replace").strip()
            raise RuntimeError(f"code generation ended with status {os.waitstatus_to_exitcode(status)}: {output}")
        kind, message, trace = json.loads(report)
        known = getattr(errors, kind, None)
        if isinstance(known, type) and issubclass(known, errors.DrpaiQatError):
            raise known(message)
        raise RuntimeError(f"{kind}: {one_line(message, 1000)}") from RuntimeError(trace)

    def kill(self) -> None:
        """End it at once; its pipe stays open."""
        with signals_held():
            os.kill(self.number, signal.SIGKILL)
            os.waitpid(self.number, 0)


def _read(pipe: BinaryIO, meanwhile: Callable[[], None]) -> bytes:
    """All that comes out of the pipe."""
    parts: list[bytes] = []
    with selectors.DefaultSelector() as selector:
        selector.register(pipe, selectors.EVENT_READ)
        while True:
            ready = selector.select(_LOOK_EVERY)
            meanwhile()
            if ready:
                part = os.read(pipe.fileno(), 1 << 16)
                if not part:
                    return b"".join(parts)
                parts.append(part)


@contextlib.contextmanager
def signals_held() -> Iterator[_Handled]:
    """Signals that arrive inside are handled on the way out, in their order, or in the contexts that this one makes.

    Around a fork Python runs hooks of its libraries (logging has some) and discards what they raise: if a signal is
    handled there, its KeyboardInterrupt is lost. Blocking the signals in this thread would not help, because the
    kernel hands them to another one, and Python runs the handlers in this one all the same. And a child that was
    forked has to reach those who end it when KeyboardInterrupt is raised.
    """
    main = threading.current_thread() is threading.main_thread()  # no other thread handles signals
    handlers: dict[int, _Handler] = {
        number: handler for number in _SIGNALS if main and callable(handler := signal.getsignal(number))
    }
    held = True
    arrived: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        if held:
            arrived.append(number)
        else:
            handlers[number](number, frame)

    def handle() -> None:
        with contextlib.ExitStack() as last_first:  # all of them, even behind one that raises
            while arrived:
                number = arrived.pop()
                last_first.callback(handlers[number], number, None)

    @contextlib.contextmanager
    def handled() -> Iterator[None]:
        nonlocal held
        try:
            held = False
            handle()
            yield
        finally:
            held = True

    error = None
    try:
        for number in handlers:
            signal.signal(number, note)
        yield handled
    finally:
        for _ in range(2):  # again where a handler that is back already is called, and raises, before the others are
            try:
                for number, handler in handlers.items():
                    signal.signal(number, handler)
                break
            except BaseException as raised:
                error = raised
        held = False
        handle()
        if error is not None:
            raise error


def _be_the_child(work: Callable[[], None], scratch: Path, pipe: int, parent: int) -> NoReturn:
    """Never returns: the child must not run what the parent has on its stack."""
    try:
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_DFL)
        os.dup2(pipe, 2)
        _end_at_exit()
        tempfile.tempdir = os.environ["TMPDIR"] = str(scratch)
        work()
    except BaseException as error:
        report = [type(error).__name__, str(error), "".join(traceback.format_exception(error))]
        os.write(2, _REPORT + json.dumps(report).encode())
        os._exit(1)
    os._exit(0)


def _end_at_exit() -> None:
    """Make C's exit(), which LLVM calls, end the child: other libraries' exit handlers wait for threads not forked."""
    libc = ctypes.CDLL(None)
    leave = ctypes.cast(libc._exit, ctypes.c_void_p)
    libc.__cxa_atexit(leave, ctypes.c_void_p(1), None)  # registered last, called first: _exit(1)
