"""What a backend is: it takes the canonical model and writes what its target runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import onnx
from numpy.typing import NDArray

from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.check.certificate import AS_FLOAT32, Fineness
from drpai_qat.core.coverage import KernelCall, LoweredNode
from drpai_qat.core.progress import Stages
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.graph.edges import ElemTypes
from drpai_qat.report.size import Size
from preprocess.passlog import Note

RunOnce = Callable[[Mapping[str, NDArray]], Mapping[str, NDArray]]


class Runs(Protocol):
    """A network that runs on this machine."""

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Outputs by name."""


@dataclass(frozen=True)
class Artifact:
    """A compiled network.

    Attributes:
        inputs, outputs: in the order in which the network takes and returns them.
        coverage: what became of each node of the canonical model.
        target: what it was compiled for, as JSON; `name` is what the user calls it.
        size: of its files, and of the memory that a run takes.
        runs_on: the machines that it is for, and where the check ran, in words for people.
        next_command: to type next, with OUT for the folder.
        files: what was written, relative to the folder.
        network: computes here what the target computes; the compiled network itself where this machine can run it.
        notes: what a user should know beside the coverage.
        fineness: how finely the target computes; the check's ties follow from it.
        samples_as_taken: what the network takes of samples, where the file rounds its inputs and training did not.
        compile_here: compiles another model in the same way and returns what runs it; for the check layer by layer.
            None: single layers can't be compiled.
        kernels: the steps of a run, in order, where the network runs as kernels.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    coverage: tuple[LoweredNode, ...]
    target: Mapping[str, Any]
    runs_on: str
    next_command: str
    size: Size
    files: tuple[str, ...]
    network: Runs
    compile_here: Callable[[onnx.ModelProto], RunOnce] | None
    notes: tuple[Note, ...] = ()
    fineness: Fineness = AS_FLOAT32
    samples_as_taken: Callable[[Mapping[str, NDArray]], dict[str, NDArray]] = dict
    kernels: tuple[KernelCall, ...] = ()


class Backend(Protocol):
    """A way to deploy. One object serves one compilation.

    Attributes:
        integer_operators: operators take and give integers one by one, so that each result needs a grid; else what runs
            behind a layer computes on its accumulators.
    """

    integer_operators: bool

    def prepare(self, options: TargetOptions) -> None:
        """Find tools and extras, before the model is read.

        Raises: DrpaiQatError: something is missing, or the options do not fit each other.
        """

    def compile(
        self, canonical: onnx.ModelProto, folder: Path, progress: Stages, source: ElemTypes | None = None
    ) -> Artifact:
        """Compile a canonical QDQ model into files in `folder`.

        Args:
            source: types of the inputs and outputs in the user's file, for `--io source`; None: those of `canonical`.

        Raises: DrpaiQatError: it can't be compiled for the target.
        """
