"""What is being done, how far it is, and for how long; `console_progress.py` shows it. Boards load this one alone."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol, TypeVar, runtime_checkable

from drpai_qat.core.text import seconds as in_words

_Item = TypeVar("_Item")

_GUESSED_FROM = 2.0
"""Seconds of a stage after which its speed says when it will end."""


class Stages(Protocol):
    """Receives the names of stages as they begin; `seconds` holds what each finished one took."""

    seconds: dict[str, float]

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Enter a stage; leaving it, also by an exception, ends it."""


@runtime_checkable
class Counting(Stages, Protocol):
    """Stages that are also told how far the one at hand is: whoever receives stages need not be."""

    def step(self, done: int, total: int) -> None:
        """So many of so many steps of the stage are done."""


def step(stages: Stages, done: int, total: int) -> None:
    """Tell how far a stage is, if `stages` wants to know."""
    if total > 0 and isinstance(stages, Counting):
        stages.step(done, total)


def counted(items: Iterable[_Item], total: int | None, stages: Stages) -> Iterator[_Item]:
    """The items; each is a step of the stage at hand, done when the next one is asked for.

    Args:
        total: how many there are, or fewer; None: nobody knows, so nothing is told.
    """
    for done, item in enumerate(items):
        yield item
        if total is not None:
            step(stages, done + 1, max(total, done + 1))


@dataclass(frozen=True)
class Tally:
    """Steps that several processes do, counted in a file: whoever did one adds a byte, which waits for nobody.

    Attributes:
        path: of the file; the folder is there, and goes when all is done.
    """

    path: Path

    def begin(self, total: int) -> None:
        """So many steps follow."""
        with contextlib.suppress(OSError):  # a count is nothing to fail for
            self.path.write_bytes(b"%d\n" % total)

    def add(self) -> None:
        """One is done."""
        with contextlib.suppress(OSError), self.path.open("ab") as file:
            file.write(b".")

    def told(self, stages: Stages) -> Callable[[], None]:
        """What tells `stages` how many are done by now, as often as it is called."""

        def tell() -> None:
            with contextlib.suppress(OSError):
                total, _, done = self.path.read_bytes().partition(b"\n")
                if done:
                    step(stages, len(done), int(total))

        return tell


class Pace:
    """How far a stage is, and how long it will take at the speed so far."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    def text(self, done: int, total: int) -> str:
        """ "12 of 57, 8 s left"; without the time where it is too early to tell."""
        elapsed = time.perf_counter() - self._start
        if elapsed < _GUESSED_FROM or not 0 < done < total:
            return f"{done} of {total}"
        return f"{done} of {total}, {in_words(max(1, round(elapsed / done * (total - done))))} left".replace(
            ".0 s", " s"
        )


@dataclass
class Silent:
    """Measures, prints nothing: the default in Python, and --quiet."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Stages."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - start
