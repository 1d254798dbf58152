"""The training loop that train.py and qat_retrain.py share: progress, early stopping, resume, accuracy."""

from __future__ import annotations

import copy
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from datasets import Data, batches
from torch import Tensor, nn

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common.schedule import Schedule, console, progress_bar


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy and PyTorch."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def device_of(name: str) -> torch.device:
    """The device to train on; `auto` takes a GPU where there is one."""
    return torch.device(("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name)


def fit(
    model: nn.Module,
    data: Data,
    schedule: Schedule,
    state_file: Path,
    *,
    resume: bool,
    on_epoch: Callable[[int], None] = lambda epoch: None,
    training: Callable[[nn.Module, bool], None] = nn.Module.train,
) -> float:
    """Train `model` in place and leave it with the weights of its best epoch.

    Args:
        model: network that returns scores (batch, classes); on the device to train on.
        data: `data.validation` decides which epoch was best.
        schedule: how long and how fast.
        state_file: written after every epoch, for `resume`; removed at the end.
        resume: go on from `state_file`.
        on_epoch: called before each epoch with its number, from 0.
        training: switches a model between training (True) and evaluation (False).
    Returns: the best validation accuracy, 0..1.
    """
    optimizer = torch.optim.Adam(model.parameters(), lr=schedule.learning_rate)
    decay = torch.optim.lr_scheduler.ExponentialLR(optimizer, schedule.decay)
    progress = _Progress()
    if resume:
        progress = _load(state_file, model, optimizer, decay)
    for epoch in range(progress.epochs, schedule.max_epochs):
        if progress.accuracy >= schedule.target or progress.stale >= schedule.patience:
            break
        start = time.perf_counter()
        on_epoch(epoch)
        training(model, True)
        loss = _one_epoch(model, data, schedule, optimizer, f"epoch {epoch + 1}/{schedule.max_epochs}")
        training(model, False)
        accuracy = evaluate(model, data.validation, schedule.batch_size)
        decay.step()
        progress.record(accuracy, model)
        torch.save(
            {
                "model": model.state_dict(),
                "optimizer": optimizer.state_dict(),
                "decay": decay.state_dict(),
                "progress": vars(progress),
            },
            state_file,
        )
        seconds = time.perf_counter() - start
        console.print(
            f"epoch {epoch + 1}/{schedule.max_epochs}  loss {loss:.4f}  validation {accuracy:.2%}  {seconds:.0f} s"
        )
    if progress.best is not None:
        model.load_state_dict(progress.best)
    state_file.unlink(missing_ok=True)
    training(model, False)
    return progress.accuracy


@torch.no_grad()
def evaluate(model: Callable[[Tensor], Tensor], dataset: Any, batch_size: int = 64) -> float:
    """Share of right answers, 0..1; a module must be in evaluation mode."""
    device = next(model.parameters()).device if isinstance(model, nn.Module) else torch.device("cpu")
    right = total = 0
    for images, labels in batches(dataset, batch_size):
        right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        total += len(labels)
    return right / total


@dataclass
class _Progress:
    """What `fit` knows besides the model: epochs done, best accuracy and its weights, epochs since then."""

    epochs: int = 0
    accuracy: float = -1.0
    stale: int = 0
    best: dict[str, Any] | None = None

    def record(self, accuracy: float, model: nn.Module) -> None:
        self.epochs += 1
        self.stale += 1
        if accuracy > self.accuracy:
            self.stale = 0
        if accuracy >= self.accuracy:  # of equal epochs the last, which the learning rate shook least
            self.accuracy = accuracy
            self.best = copy.deepcopy(model.state_dict())


def _load(state_file: Path, model: nn.Module, optimizer: Any, decay: Any) -> _Progress:
    if not state_file.exists():
        raise click.UsageError(f"--resume: {state_file} is missing; nothing was interrupted there")
    state = torch.load(state_file, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    decay.load_state_dict(state["decay"])
    console.print(f"resumed after epoch {state['progress']['epochs']}")
    return _Progress(**state["progress"])


def _one_epoch(model: nn.Module, data: Data, schedule: Schedule, optimizer: Any, title: str) -> float:
    """One pass over the training set; returns the mean loss."""
    device = next(model.parameters()).device
    loader = batches(data.train, schedule.batch_size, shuffle=True, workers=schedule.workers)
    total = 0.0
    with progress_bar() as bar:
        for images, labels in bar.track(loader, description=title):
            optimizer.zero_grad()
            loss = nn.functional.cross_entropy(model(images.to(device)), labels.to(device))
            loss.backward()
            optimizer.step()
            total += float(loss.detach())
    return total / len(loader)
