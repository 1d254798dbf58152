"""What networks answer to examples: one Answer each, in the order of the data."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import one_line
from drpai_qat.data.examples import Data, Example
from drpai_qat.data.image_files import Skipped
from drpai_qat.data.labelled import open_data
from drpai_qat.evaluation.evaluate_options import EvaluateOptions
from drpai_qat.evaluation.feeding import Feeding
from drpai_qat.evaluation.networks import OpenedNetwork, open_network

BEST = 5
"""Classes that an answer keeps, best first."""

Outputs: TypeAlias = Mapping[str, NDArray]


@dataclass(frozen=True, eq=False)
class Answer:
    """What the networks say to one example.

    Attributes:
        index, name: of the example.
        label: number of its class; where a metric is asked for, whatever the data holds.
        best: for each network its best classes, at most BEST; empty where a metric is asked for.
        outputs: for each network its outputs; empty unless a metric is asked for.
        seconds: for each network, of the run that this example was part of.
    """

    index: int
    name: str
    label: Any
    best: tuple[tuple[int, ...], ...]
    outputs: tuple[Outputs, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True, eq=False)
class Contest:
    """Networks, data, and how the one is made of the other.

    Attributes:
        networks: the one under evaluation, and the other one if there is one.
        data: what they answer to.
        feedings: for each network.
    """

    networks: tuple[OpenedNetwork, ...]
    data: Data
    feedings: tuple[Feeding, ...]


def open_contest(options: EvaluateOptions, threads: int = 0) -> Contest:
    """Open all that the options name.

    Raises: DrpaiQatError: a file is missing or damaged, or does not fit the others.
    """
    assert options.data is not None
    data = open_data(options.data, options.labels, options.num)
    networks = [open_network(Path(options.network), "OUT", threads=threads)]
    feedings = [Feeding(networks[0], data, options.preprocess)]
    if options.against is not None:
        networks.append(open_network(Path(options.against), "--against", networks[0].inputs, threads))
        first = feedings[0].image
        feedings.append(Feeding(networks[1], data, options.preprocess, None if first is None else first.preprocessing))
    return Contest(tuple(networks), data, tuple(feedings))


def answers(options: EvaluateOptions, contest: Contest, shard: int = 0, shards: int = 1) -> Iterator[Answer | Skipped]:
    """Answers to every `shards`-th example, beginning with number `shard`.

    Raises: OptionError: an example does not fit a network, or its label is none.
    """
    waiting: list[Example] = []
    scoring = _Scoring(options, contest)
    size = max(feeding.batch for feeding in contest.feedings)
    for read in contest.data.part(shard, shards):
        if isinstance(read, Skipped):
            yield read
            continue
        waiting.append(read)
        if len(waiting) == size:
            yield from scoring.answers(waiting)
            waiting = []
    if waiting:
        yield from scoring.answers(waiting)


class _Scoring:
    """Runs the networks on batches of examples, and finds the classes in what comes out."""

    def __init__(self, options: EvaluateOptions, contest: Contest) -> None:
        self._options = options
        self._contest = contest
        self._output: list[str | None] = [options.output, None]

    def answers(self, examples: Sequence[Example]) -> Iterator[Answer]:
        each = [self._run(number, examples) for number in range(len(self._contest.networks))]
        for position, example in enumerate(examples):
            found = [outputs[position] for outputs, _ in each]
            seconds = tuple(times[position] for _, times in each)
            if self._options.metric is not None:
                yield Answer(example.index, example.name, example.label, (), tuple(found), seconds)
                continue
            scores = [self._scores(number, outputs) for number, outputs in enumerate(found)]
            label = self._class_number(example, scores[0])
            best = tuple(_best(one) for one in scores)
            yield Answer(example.index, example.name, label, best, (), seconds)

    def _run(self, number: int, examples: Sequence[Example]) -> tuple[list[Outputs], list[float]]:
        """Outputs and time of each example."""
        network, feeding = self._contest.networks[number], self._contest.feedings[number]
        found: list[Outputs] = []
        times: list[float] = []
        for start in range(0, len(examples), feeding.batch):
            batch = examples[start : start + feeding.batch]
            feeds = feeding.feeds(batch)
            begin = time.perf_counter()
            outputs = network.run(feeds)
            times += [time.perf_counter() - begin] * len(batch)
            found += [
                {name: _row(array, position, feeding.batch) for name, array in outputs.items()}
                for position in range(len(batch))
            ]
        return found, times

    def _scores(self, number: int, outputs: Outputs) -> NDArray:
        """One score a class, or the class itself as a whole number."""
        name = self._output[number] or _class_output(outputs, self._contest.networks[number])
        self._output[number] = name
        if name not in outputs:
            raise OptionError(f"--output {one_line(name)}: the network's outputs are {one_line(', '.join(outputs))}")
        return outputs[name].reshape(-1)

    def _class_number(self, example: Example, scores: NDArray) -> int:
        where = f"--data {self._contest.data.name}: {one_line(example.name)}"
        label, classes = np.asarray(example.label), len(scores)
        if label.size == classes > 1 and label.ndim:  # one-hot
            label = np.asarray(label.argmax())
        if label.size != 1 or label.dtype.kind not in "iufb" or label.reshape(-1)[0] != int(label.reshape(-1)[0]):
            raise OptionError(f"{where}: its answer {one_line(example.label, 60)} is no class: score it with --metric")
        number, names = int(label.reshape(-1)[0]), self._contest.data.classes
        if classes > 1 and names and len(names) != classes and self._options.labels is None:
            if not all(name.isdigit() for name in names):
                raise OptionError(
                    f"--data {self._contest.data.name} has {len(names)} classes, the network {classes}: name them in "
                    "the network's order with --labels FILE"
                )
            number = int(names[number])
        if number < 0 or (classes > 1 and number >= classes):
            raise OptionError(f"{where}: its answer is class {number}, the network has {classes} classes, 0 and up")
        return number


def _row(array: NDArray, position: int, batch: int) -> NDArray:
    """One example's share of an output, the axis of the batch kept."""
    if batch == 1 or not array.ndim or array.shape[0] % batch:
        return array
    length = array.shape[0] // batch
    return array[position * length : (position + 1) * length]


def _class_output(outputs: Outputs, network: OpenedNetwork) -> str:
    """The output that holds one score a class, or the class itself."""
    found = [name for name in network.outputs if name in outputs and _may_be_classes(outputs[name])]
    shapes = ", ".join(f"{one_line(name)} {list(array.shape)}" for name, array in outputs.items())
    if not found:
        raise OptionError(f"{network.name} has no output with one score a class ({shapes}): score it with --metric")
    if len(found) > 1:
        raise OptionError(f"{network.name} has several outputs ({shapes}): say with --output which are the classes'")
    return found[0]


def _may_be_classes(array: NDArray) -> bool:
    if array.size == 1:
        value = array.reshape(-1)[0]
        return array.dtype.kind in "iu" or bool(value == np.floor(value))
    return array.size == max(array.shape)


def _best(scores: NDArray) -> tuple[int, ...]:
    """The best classes; of equal ones the first, as argmax has it."""
    if scores.size == 1:
        return (int(scores[0]),)
    return tuple(int(one) for one in np.argsort(-scores.astype(np.float64), kind="stable")[:BEST])
