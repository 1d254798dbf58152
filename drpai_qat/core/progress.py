"""What the command is doing, and for how long: a live line in a terminal, one plain line per stage elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Protocol

from rich.console import Console
from rich.progress import Progress as RichProgress
from rich.progress import SpinnerColumn, TextColumn, TimeElapsedColumn


class Stages(Protocol):
    """Receives the names of stages as they begin; `seconds` holds what each finished one took."""

    seconds: dict[str, float]

    def stage(self, name: str) -> contextlib.AbstractContextManager[None]:
        """Enter a stage; leaving it, also by an exception, ends it."""


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


class Plain(Silent):
    """One line when a stage begins, with the time since the first: for files, pipes and CI."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._start = time.perf_counter()

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Stages."""
        elapsed = time.perf_counter() - self._start
        self._console.print(f"[{elapsed:6.1f} s] {name}", markup=False, highlight=False, soft_wrap=True)
        with super().stage(name):
            yield


class Live(Silent):
    """One line per stage, with a running clock."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Stages."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            TimeElapsedColumn(),
        )
        with RichProgress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=1)
            with super().stage(name):
                yield
            progress.update(task, completed=1)


def for_console(console: Console) -> Stages:
    """The kind that suits where the text goes."""
    return Live(console) if console.is_terminal else Plain(console)
