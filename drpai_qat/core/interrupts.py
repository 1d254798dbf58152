"""Ctrl-C, kill and a closed terminal end the command in order: temporary files go, and the status says why."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import NoReturn

from drpai_qat.core.progress import Stages

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupts:
    """While entered, the signals raise KeyboardInterrupt and are remembered.

    An exception that a signal raises is lost where Python is inside a finalizer or a callback from C++; so the
    stages look whether a signal came, too.

    Attributes:
        received: signal numbers, in order.
    """

    def __init__(self) -> None:
        self.received: list[int] = []

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
            signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> NoReturn:
        self.received.append(number)
        raise KeyboardInterrupt


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
