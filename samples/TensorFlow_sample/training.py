"""The training loop that train.py and qat_retrain.py share: progress, early stopping, resume, accuracy."""

from __future__ import annotations

import json
import shutil
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from datasets import Data, Part, batches
from framework import keras, tf
from numpy.typing import NDArray

sys.path.append(str(Path(__file__).resolve().parents[1]))
# What the samples of both frameworks share.
from common.schedule import Schedule, console, progress_bar

_loss_of = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def use_device(name: str) -> None:
    """Choose the device to train on; `auto` takes a GPU where there is one. Call it before anything is computed.

    Raises: click.UsageError: no such device.
    """
    kind, _, index = name.partition(":")
    gpus = tf.config.list_physical_devices("GPU")
    if kind == "cpu":
        tf.config.set_visible_devices([], "GPU")
    elif kind == "gpu" and index.isdecimal() and int(index) < len(gpus):
        tf.config.set_visible_devices(gpus[int(index)], "GPU")
    elif name != "auto" and not (name == "gpu" and gpus):
        raise click.UsageError(f"--device {name}: give auto, cpu, gpu or gpu:N; TensorFlow sees {len(gpus)} GPUs")


def fit(
    model: keras.Model,
    data: Data,
    schedule: Schedule,
    state: Path,
    *,
    resume: bool,
    on_epoch: Callable[[int], None] = lambda epoch: None,
) -> float:
    """Train `model` in place and leave it with the weights of its best epoch.

    Args:
        model: network that returns scores (batch, classes).
        data: `data.validation` decides which epoch was best.
        schedule: how long and how fast.
        state: folder written after every epoch, for `resume`; removed at the end.
        resume: go on from `state`.
        on_epoch: called before each epoch with its number, from 0.
    Returns: the best validation accuracy, 0..1.
    """
    optimizer = keras.optimizers.Adam(schedule.learning_rate)
    optimizer.build(model.trainable_variables)
    checkpoint = tf.train.Checkpoint(model=model, optimizer=optimizer)
    progress, best = _load(state, checkpoint) if resume else (_Progress(), model.get_weights())
    step = _step(model, optimizer)
    for epoch in range(progress.epochs, schedule.max_epochs):
        if progress.accuracy >= schedule.target or progress.stale >= schedule.patience:
            break
        start = time.perf_counter()
        on_epoch(epoch)
        optimizer.learning_rate.assign(schedule.learning_rate * schedule.decay**epoch)
        loss = _one_epoch(step, data, schedule, f"epoch {epoch + 1}/{schedule.max_epochs}")
        accuracy = evaluate(model.predict_on_batch, data.validation, schedule.batch_size)
        if progress.record(accuracy):
            best = model.get_weights()
        _save(state, checkpoint, progress, best)
        seconds = time.perf_counter() - start
        console.print(
            f"epoch {epoch + 1}/{schedule.max_epochs}  loss {loss:.4f}  validation {accuracy:.2%}  {seconds:.0f} s"
        )
    model.set_weights(best)
    shutil.rmtree(state, ignore_errors=True)
    return progress.accuracy


def evaluate(predict: Callable[[NDArray[np.float32]], NDArray[np.float32]], part: Part, batch_size: int = 64) -> float:
    """Share of right answers, 0..1, of a function of images (batch, H, W, C), such as a model's `predict_on_batch`."""
    right = total = 0
    for images, labels in batches(part, batch_size):
        right += int((predict(images.numpy()).argmax(1) == labels.numpy()).sum())
        total += len(labels)
    return right / total


@dataclass
class _Progress:
    """What `fit` knows besides the model: epochs done, best accuracy, epochs since then."""

    epochs: int = 0
    accuracy: float = -1.0
    stale: int = 0

    def record(self, accuracy: float) -> bool:
        """Count an epoch; returns whether it is the best: of equal ones the last, shaken least by the rate."""
        self.epochs += 1
        self.stale = 0 if accuracy > self.accuracy else self.stale + 1
        best = accuracy >= self.accuracy
        self.accuracy = max(accuracy, self.accuracy)
        return best


def _save(state: Path, checkpoint: tf.train.Checkpoint, progress: _Progress, best: list[NDArray[Any]]) -> None:
    """Write a new folder and rename it: an interruption leaves the old one or the new one."""
    unfinished = state.with_name(f"{state.name}.new")
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir()
    checkpoint.write(str(unfinished / "training"))
    np.savez(unfinished / "best.npz", *best)
    (unfinished / "progress.json").write_text(json.dumps(asdict(progress)))
    shutil.rmtree(state, ignore_errors=True)
    unfinished.rename(state)


def _load(state: Path, checkpoint: tf.train.Checkpoint) -> tuple[_Progress, list[NDArray[Any]]]:
    if not (state / "progress.json").exists():
        raise click.UsageError(f"--resume: {state} is missing; nothing was interrupted there")
    checkpoint.read(str(state / "training")).assert_consumed()
    progress = _Progress(**json.loads((state / "progress.json").read_text()))
    with np.load(state / "best.npz") as best:
        weights = [best[f"arr_{index}"] for index in range(len(best.files))]
    console.print(f"resumed after epoch {progress.epochs}")
    return progress, weights


def _step(model: keras.Model, optimizer: keras.optimizers.Optimizer) -> Callable[..., tf.Tensor]:
    @tf.function
    def step(images: tf.Tensor, labels: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            loss = _loss_of(labels, model(images, training=True))
        variables = model.trainable_variables
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return loss

    return step


def _one_epoch(step: Callable[..., tf.Tensor], data: Data, schedule: Schedule, title: str) -> float:
    """One pass over the training set; returns the mean loss."""
    loader = batches(data.train, schedule.batch_size, shuffle=True, workers=schedule.workers)
    total = 0.0
    with progress_bar() as bar:
        for images, labels in bar.track(loader, total=len(loader), description=title):
            total += float(step(images, labels))
    return total / len(loader)
