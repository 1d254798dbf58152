"""Runs a deployed folder on the sample input that lies in it, compares with the sample output, and times it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.tensor_info import TensorInfo, as_fed
from drpai_qat.core.text import one_line
from drpai_qat.deployment.files import opened
from drpai_qat.deployment.folder import INTERPRETER_OUT, named_os_errors, write_float32
from drpai_qat.runtimes.timing import Timing, measure

ABSOLUTE, RELATIVE = 0.01, 0.001
"""Tolerance of the DRP-AI SDK's comparison tool: |y - reference| <= ABSOLUTE + RELATIVE * |reference|."""


class Runs(Protocol):
    """A network, here or elsewhere."""

    @property
    def inputs(self) -> tuple[TensorInfo, ...]:
        """In the order of the sample files."""

    @property
    def outputs(self) -> tuple[TensorInfo, ...]:
        """In the order of the sample files."""

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name."""


def in_memory(network: Runs) -> Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]]:
    """What is to be timed: the run that leaves integer outputs as they are."""
    return getattr(network, "run_integers", network.run)


@dataclass(frozen=True)
class Compared:
    """One output beside its reference.

    Attributes:
        largest: largest absolute difference.
        inside, identical: shares of values, 0..1, within tolerance and equal bit for bit.
    """

    name: str
    largest: float
    inside: float
    identical: float

    def __str__(self) -> str:
        shares = f"{self.inside:.2%} within tolerance, {self.identical:.2%} identical"
        return f"output {one_line(self.name)}: max difference {self.largest:g}, {shares}"


@dataclass(frozen=True, eq=False)
class SampleRun:
    """What a run gave.

    Attributes:
        arrays: the outputs, float32.
        outputs: compared with the reference.
        timing: of its runs.
    """

    arrays: tuple[NDArray, ...]
    outputs: tuple[Compared, ...]
    timing: Timing

    @property
    def same(self) -> bool:
        """All values of all outputs are within tolerance."""
        return all(output.inside == 1.0 for output in self.outputs)

    def write(self, path: Path) -> None:
        """See write_outputs."""
        write_outputs(path, [{one.name: array for one, array in zip(self.outputs, self.arrays, strict=True)}])

    def __str__(self) -> str:
        return "\n".join(map(str, (*self.outputs, self.timing)))


def write_outputs(path: Path, outputs: Sequence[Mapping[str, NDArray]]) -> None:
    """Write a .npz file with the outputs along the first axis; or in a folder raw float32, output_<i>.bin.

    Of several inputs, those of input k go into output_<i>_<k>.bin.
    """
    with named_os_errors(path):
        if path.suffix == ".npz":
            path.parent.mkdir(parents=True, exist_ok=True)
            together = {name: [found[name] for found in outputs] for name in outputs[0]}
            arrays = {name: np.concatenate(all_) if all_[0].ndim else np.stack(all_) for name, all_ in together.items()}
            with path.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
            return
        path.mkdir(parents=True, exist_ok=True)
        for k, found in enumerate(outputs):
            for i, array in enumerate(found.values()):
                write_float32(path / (f"output_{i}.bin" if len(outputs) == 1 else f"output_{i}_{k}.bin"), array)


def run(network: Runs, folder: Path, loops: int, inputs: Path | None = None, warm_up: int = 0) -> SampleRun:
    """Run the sample input once for the comparison, then `warm_up` times, and `loops` times for the clock.

    Args:
        inputs: folder of other input_<i>.bin than those that gave the reference.
    Raises: DeploymentError: the sample files are missing or don't fit.
    """
    samples = folder / INTERPRETER_OUT
    feeds = sample_of(network, inputs or samples)
    outputs = network.run(feeds)
    arrays = tuple(np.asarray(outputs[info.name], np.float32) for info in network.outputs)
    compared = tuple(
        _compare(info.name, array, _read(samples / f"ref_result_{i}.bin", info))
        for i, (info, array) in enumerate(zip(network.outputs, arrays, strict=True))
    )
    timing = measure(in_memory(network), feeds, network.inputs, loops, warm_up, getattr(network, "times", None))
    return SampleRun(arrays, compared, timing)


def sample_of(network: Runs, folder: Path) -> dict[str, NDArray]:
    """The sample input whose files lie in a folder, by name.

    Raises: DeploymentError: one is missing or does not fit.
    """
    return {info.name: _fed(_read(folder / f"input_{i}.bin", info), info) for i, info in enumerate(network.inputs)}


def _fed(array: NDArray, info: TensorInfo) -> NDArray:
    """As the network takes it: files hold float32."""
    return as_fed(array, info).astype(info.dtype, copy=False)


def _read(path: Path, info: TensorInfo) -> NDArray:
    size = 4 * math.prod(info.shape)
    with opened(path) as file:
        content = file.read(size + 1)
    if len(content) != size:
        raise DeploymentError(f"{path} does not hold {list(info.shape)} float32 values: copy it again")
    return np.frombuffer(content, "<f4").reshape(info.shape)


def _compare(name: str, got: NDArray, want: NDArray) -> Compared:
    error = np.abs(got.astype(np.float64) - want)
    inside = error <= ABSOLUTE + RELATIVE * np.abs(want)
    same = np.ascontiguousarray(got).view(np.uint32) == np.ascontiguousarray(want).view(np.uint32)
    shares = [float(each.mean()) if each.size else 1.0 for each in (inside, same)]
    return Compared(name, float(error.max(initial=0)), *shares)
