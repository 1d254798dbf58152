"""Runs a network on inputs of the user's, and tells what came out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.text import one_line
from drpai_qat.runtimes.sample_run import Runs, in_memory, write_outputs
from drpai_qat.runtimes.timing import Timing, measure

_SHOWN = 5


@dataclass(frozen=True, eq=False)
class GivenRun:
    """What came out.

    Attributes:
        names: of the inputs, from their files.
        outputs: by name, for each input.
        timing: of runs on the first input.
    """

    names: tuple[str, ...]
    outputs: tuple[dict[str, NDArray], ...]
    timing: Timing

    def write(self, path: Path) -> None:
        """See write_outputs."""
        write_outputs(path, self.outputs)

    def to_json(self) -> list[dict[str, Any]]:
        """For --json: shape, range and best classes of each output."""
        return [
            {
                "input": name,
                "outputs": {
                    output: {"shape": list(array.shape), "min": float(array.min()), "max": float(array.max()),
                             "best": [[place, float(value)] for place, value in _best(array)]}
                    for output, array in found.items()
                },
            }
            for name, found in zip(self.names, self.outputs, strict=True)
        ]  # fmt: skip

    def __str__(self) -> str:
        return "\n".join((*self.lines(), str(self.timing)))

    def lines(self, labels: Sequence[str] = ()) -> list[str]:
        """For people.

        Args:
            labels: names of the classes.
        """
        return [
            f"{one_line(name)}: {one_line(output)} {list(array.shape)}: {_told(array, labels)}"
            for name, found in zip(self.names, self.outputs, strict=True)
            for output, array in found.items()
        ]


def run(network: Runs, given: Sequence[tuple[str, dict[str, NDArray]]], loops: int, warm_up: int) -> GivenRun:
    """Run each input once, and the first one for the clock.

    Raises: DeploymentError: the network does not run.
    """
    outputs = []
    for _, feeds in given:
        found = network.run(feeds)
        outputs.append({info.name: found[info.name] for info in network.outputs})
    timing = measure(in_memory(network), given[0][1], network.inputs, loops, warm_up, getattr(network, "times", None))
    return GivenRun(tuple(name for name, _ in given), tuple(outputs), timing)


def _best(array: NDArray) -> list[tuple[int, float]]:
    """Places and values of the largest; empty where the output is more than one row of scores."""
    if array.size < 2 or array.size != max(array.shape):
        return []
    flat = array.reshape(-1).astype(np.float64)
    return [(int(place), float(flat[place])) for place in np.argsort(-flat, kind="stable")[:_SHOWN]]


def _told(array: NDArray, labels: Sequence[str]) -> str:
    best = _best(array)
    if best:
        named = [f"{one_line(labels[place]) if place < len(labels) else place} ({value:.4g})" for place, value in best]
        return "largest " + ", ".join(named)
    if array.size == 1:
        return f"{float(array.reshape(-1)[0]):.6g}"
    return f"{float(array.min()):.4g} to {float(array.max()):.4g}" if array.size else "empty"
