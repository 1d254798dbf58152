"""Accuracy of a deployed network on the user's data, beside that of another one."""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import takes
from drpai_qat.core.text import one_line
from drpai_qat.data.image_files import Skipped, skipped_text
from drpai_qat.evaluation.answers import BEST, Answer, Contest, answers, open_contest
from drpai_qat.evaluation.evaluate_options import EvaluateOptions
from drpai_qat.evaluation.feeding import Feeding
from drpai_qat.evaluation.metric import Figures
from drpai_qat.evaluation.networks import OpenedNetwork
from drpai_qat.evaluation.shards import run_shards

SCHEMA_VERSION = 1

Advance = Callable[[int], None]


@dataclass(frozen=True)
class Score:
    """How one network did.

    Attributes:
        name, kind, runs_in: of the network; see OpenedNetwork.
        correct: number of right answers; None where a metric was asked for.
        correct_in_5: number of examples whose class is among the best five; None where that says nothing.
        figures: of the metric, by name.
        latency_ms: median time of a run, milliseconds.
        preprocessing: how pixels became its input, in words; "" where the data holds none, or it is the first one's.
        guessed: why that may be wrong; "" if it is known.
    """

    name: str
    kind: str
    runs_in: str
    correct: int | None
    correct_in_5: int | None
    figures: dict[str, float]
    latency_ms: float
    preprocessing: str
    guessed: str


@dataclass(frozen=True)
class Change:
    """An example to which two networks give different answers."""

    name: str
    label: int
    answer: int
    other: int


@dataclass(frozen=True)
class Evaluation:
    """What an evaluation found.

    Attributes:
        data: what was given.
        count: number of examples that were answered.
        skipped: files that were left out.
        scores: of the network, and of the other one.
        changed: where their answers differ, in the order of the data.
        classes: names of the classes; empty: there are only numbers.
    """

    data: str
    count: int
    skipped: tuple[Skipped, ...]
    scores: tuple[Score, ...]
    changed: tuple[Change, ...]
    classes: tuple[str, ...]

    def accuracy(self, number: int = 0) -> float | None:
        """Share of right answers of network `number`; None where a metric was asked for."""
        correct = self.scores[number].correct
        return None if correct is None else correct / self.count

    @property
    def agreement(self) -> float | None:
        """Share of examples with the same answer of both; None without another network, or with a metric."""
        if len(self.scores) < 2 or self.scores[0].correct is None:
            return None
        return 1 - len(self.changed) / self.count

    @property
    def warnings(self) -> tuple[str, ...]:
        """Files that were left out, and what was guessed."""
        found = (skipped_text(self.skipped), *(score.guessed for score in self.scores))
        return tuple(dict.fromkeys(text for text in found if text))

    def to_json(self) -> dict[str, Any]:
        """What --json prints."""
        return {
            "schema_version": SCHEMA_VERSION,
            "data": self.data,
            "count": self.count,
            "warnings": list(self.warnings),
            "skipped": [{"file": one.name, "why": one.why} for one in self.skipped],
            "networks": [
                {
                    "name": one.name,
                    "kind": one.kind,
                    "runs_in": one.runs_in,
                    "top1": self.accuracy(number),
                    "top5": None if one.correct_in_5 is None else one.correct_in_5 / self.count,
                    "metric": one.figures,
                    "latency_ms": round(one.latency_ms, 4),
                    "preprocessing": one.preprocessing,
                }
                for number, one in enumerate(self.scores)
            ],
            "agreement": self.agreement,
            "changed": [vars(one) for one in self.changed],
        }

    def __str__(self) -> str:
        return json.dumps(self.to_json(), indent=2)


@dataclass(frozen=True, kw_only=True)
class _Call(EvaluateOptions):
    """What `evaluate` takes: the options, and who is told of each example."""

    progress: Advance | None = None


@takes(_Call)
def evaluate(call: _Call) -> Evaluation:
    """Evaluate a network on data with answers, as `drpai-qat evaluate` does.

    Args: the options of the command under their long names; besides,
        network: an output folder, a .tflite or an .onnx file.
        data: what --data takes, or a function that yields pairs of an input and its answer.
        metric: what --metric takes, or the function or class itself.
        progress: told how many more examples are done.
    Raises: DrpaiQatError: see drpai_qat.core.errors.
    """
    return run(open_contest(call), call, call.progress or (lambda _: None))


def run(contest: Contest, options: EvaluateOptions, advance: Advance) -> Evaluation:
    """Evaluate what is open already.

    Raises: DrpaiQatError: an example does not fit a network, or there is none.
    """
    found: Iterable[Answer | Skipped]
    if options.sharing.leaves_the_process:
        found = run_shards(options, contest.data.count, advance)
    else:
        found = _told(answers(options, contest), advance)
    tallies = [_Tally(network, options) for network in contest.networks]
    skipped: list[Skipped] = []
    changed: list[Change] = []
    count = 0
    for one in found:
        if isinstance(one, Skipped):
            skipped.append(one)
            continue
        count += 1
        for number, tally in enumerate(tallies):
            tally.add(one, number)
        if len(one.best) == 2 and one.best[0][0] != one.best[1][0]:
            changed.append(Change(one.name, one.label, one.best[0][0], one.best[1][0]))
    if not count:
        why = skipped_text(skipped) or "no example in it"
        raise OptionError(f"--data {one_line(contest.data.name)}: {why}: nothing to go on with")
    scores = tuple(tally.score(feeding) for tally, feeding in zip(tallies, contest.feedings, strict=True))
    return Evaluation(contest.data.name, count, tuple(skipped), scores, tuple(changed), tuple(contest.data.classes))


def _told(found: Iterator[Answer | Skipped], advance: Advance) -> Iterator[Answer | Skipped]:
    for one in found:
        yield one
        advance(1)


class _Tally:
    """Counts one network's answers."""

    def __init__(self, network: OpenedNetwork, options: EvaluateOptions) -> None:
        self._network = network
        self._figures = None if options.metric is None else Figures(options.metric)
        self._correct = 0
        self._in_5 = 0
        self._widest = 0
        self._seconds: list[float] = []

    def add(self, answer: Answer, number: int) -> None:
        self._seconds.append(answer.seconds[number])
        if self._figures is not None:
            self._figures.update(answer.outputs[number], answer.label)
            return
        best = answer.best[number]
        self._widest = max(self._widest, len(best))
        self._correct += best[0] == answer.label
        self._in_5 += answer.label in best

    def score(self, feeding: Feeding) -> Score:
        scored = self._figures is None
        return Score(
            name=self._network.name,
            kind=self._network.kind,
            runs_in=self._network.runs_in,
            correct=self._correct if scored else None,
            correct_in_5=self._in_5 if scored and self._widest == BEST else None,
            figures={} if self._figures is None else self._figures.result(),
            latency_ms=1000 * statistics.median(self._seconds),
            preprocessing=feeding.told,
            guessed=feeding.guessed,
        )
