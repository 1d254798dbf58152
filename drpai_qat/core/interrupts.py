"""Ctrl-C, kill and a closed terminal end the command in order: temporary files go, and the status says why."""

from __future__ import annotations

import contextlib
import signal
import sys
from collections.abc import Iterator
from types import FrameType, TracebackType

from drpai_qat.core import progress
from drpai_qat.core.progress import Stages

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, the signals raise KeyboardInterrupt and are remembered.

    An exception that a signal raises is lost where Python is inside a finalizer or a callback from C++; so the
    stages look whether a signal came, too. In an import none is raised.

    Attributes:
        received: signal numbers, in order.
        settled: the result is there, or the reason why there is none: signals change nothing any more.
    """

    def __init__(self) -> None:
        self.received: list[int] = []
        self.settled = False

    @property
    def status(self) -> int:
        """Exit status of a command that a signal ended."""
        return 128 + (self.received or [signal.SIGINT])[0]

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came."""
        if self.received:
            raise KeyboardInterrupt

    def watch(self, stages: Stages) -> Stages:
        """The same stages, which end the work when a signal came."""
        return _Watched(stages, self)

    def __enter__(self) -> Interrupts:
        self._before = {number: signal.signal(number, self._stop) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            # A process that waits for the work alone has nothing left to interrupt.
            signal.signal(number, signal.SIG_IGN if getattr(handler, "until_work", False) else handler)

    def settle(self) -> None:
        """From here on, signals are ignored."""
        self.settled = True

    def _stop(self, number: int, frame: FrameType | None) -> None:
        if self.settled or _unwinding(sys.exception()):  # a second Ctrl-C must not stop what the first one cleans up
            return
        self.received.append(number)
        if not _importing(frame):
            raise KeyboardInterrupt


def settle() -> None:
    """The result is in place: signals no longer end a command, whose status says what happened."""
    for number in _SIGNALS:
        active = getattr(signal.getsignal(number), "__self__", None)
        if isinstance(active, Interrupts):
            active.settle()


def _importing(frame: FrameType | None) -> bool:
    """True in an import: libraries in C++ abort the process if one of theirs raises; the next stage looks."""
    while frame is not None and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _unwinding(error: BaseException | None) -> bool:
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__context__
    return error is not None


class _Watched:
    def __init__(self, stages: Stages, interrupts: Interrupts) -> None:
        self.seconds = stages.seconds
        self._stages = stages
        self._interrupts = interrupts

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        self._interrupts.check()
        with self._stages.stage(name):
            yield
        self._interrupts.check()

    def step(self, done: int, total: int) -> None:
        self._interrupts.check()
        progress.step(self._stages, done, total)
