"""Runs a divided network here: CPU parts as compiled, accelerator parts as the Quantizer left them, in onnxruntime."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from numpy.typing import NDArray

RunOnce = Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]]


@dataclass(frozen=True)
class Step:
    """A part: which tensors it takes and returns, and what runs it."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    run: RunOnce


@dataclass(frozen=True)
class MixedNetwork:
    """The parts in their order."""

    steps: Sequence[Step]
    outputs: tuple[str, ...]

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs of the network by name."""
        values = dict(feeds)
        for step in self.steps:
            found = step.run({name: values[name] for name in step.inputs})
            values |= {name: found[name] for name in step.outputs}
        return {name: values[name] for name in self.outputs}
