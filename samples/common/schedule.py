"""How the samples train: one schedule, one progress bar, one way to print."""

from __future__ import annotations

from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

console = Console(highlight=False)


@dataclass(frozen=True)
class Schedule:
    """How long and how fast to train.

    Attributes:
        learning_rate: Adam's, at the start.
        decay: factor on the learning rate after each epoch.
        max_epochs: number of epochs at most.
        batch_size: images a step.
        patience: epochs without improvement after which training stops.
        target: validation accuracy, 0..1, at which it stops.
        workers: processes (PyTorch) or threads (TensorFlow) that load data.
    """

    learning_rate: float
    decay: float
    max_epochs: int
    batch_size: int
    patience: int
    target: float
    workers: int = 0


def progress_bar() -> Progress:
    """A bar for the steps of one epoch, on a terminal only."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
