"""Progress on the console: a live line in a terminal, plain lines elsewhere."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator

from rich.console import Console, RenderableType
from rich.progress import BarColumn, SpinnerColumn, Task, TextColumn, TimeElapsedColumn
from rich.progress import Progress as RichProgress
from rich.text import Text

from drpai_qat.core.progress import Pace, Silent, Stages

_LINE_EVERY = 10.0
"""Seconds between two lines of one stage, where they are not written over each other."""


class Plain(Silent):
    """One line when a stage begins, with the time since the first: for files, pipes and CI."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._start = time.perf_counter()
        self._stage = ""
        self._pace = Pace()
        self._printed = self._start

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Stages."""
        self._stage, self._pace = name, Pace()
        self._print(name)
        with super().stage(name):
            yield

    def step(self, done: int, total: int) -> None:
        """See Counting."""
        if done < total and time.perf_counter() - self._printed >= _LINE_EVERY:
            self._print(f"{self._stage}: {self._pace.text(done, total)}")

    def _print(self, text: str) -> None:
        self._printed = time.perf_counter()
        elapsed = self._printed - self._start
        self._console.print(f"[{elapsed:6.1f} s] {text}", markup=False, highlight=False, soft_wrap=True)


class Live(Silent):
    """One line per stage, with a running clock, and a bar where the number of steps is known."""

    def __init__(self, console: Console) -> None:
        super().__init__()
        self._console = console
        self._tell: Callable[[int, int], None] | None = None

    @contextlib.contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See Stages."""
        columns = (
            SpinnerColumn(finished_text="✓"),
            TextColumn("{task.description}", markup=False),
            _Bar(bar_width=16),
            TextColumn("{task.fields[steps]}", markup=False),
            TimeElapsedColumn(),
        )
        pace = Pace()
        with RichProgress(*columns, console=self._console) as progress:
            task = progress.add_task(name, total=1, steps="")

            def tell(done: int, total: int) -> None:
                # one step short of the end: the clock stops when the stage ends, which is not with its last step
                progress.update(task, completed=min(done, total - 0.01), total=total, steps=pace.text(done, total))

            self._tell = tell
            try:
                with super().stage(name):
                    yield
            finally:
                self._tell = None
            progress.update(task, completed=1, total=1, steps="")

    def step(self, done: int, total: int) -> None:
        """See Counting."""
        if self._tell is not None:
            self._tell(done, total)


class _Bar(BarColumn):
    """A bar for stages that told a number of steps."""

    def render(self, task: Task) -> RenderableType:  # type: ignore[override]  # rich says ProgressBar, and takes any
        return super().render(task) if task.fields["steps"] else Text("")


def for_console(console: Console) -> Stages:
    """The kind that suits where the text goes."""
    return Live(console) if console.is_terminal else Plain(console)
