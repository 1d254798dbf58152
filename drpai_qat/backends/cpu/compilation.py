"""From the canonical model to deploy.so and deploy.params, and to a network that runs here."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TypeVar

import onnx

from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.build import build, write_params
from drpai_qat.backends.cpu.cache import KernelCache
from drpai_qat.backends.cpu.target_names import BOARDS
from drpai_qat.backends.cpu.targets import Target
from drpai_qat.backends.cpu.toolchain import Linker
from drpai_qat.backends.protocol import Artifact, RunOnce
from drpai_qat.core.isolation import run_isolated
from drpai_qat.core.progress import Stages, Tally
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.deployment.manifest import LIBRARY, PARAMS
from drpai_qat.lowering import Lowered, lower
from drpai_qat.report.size import CodeUse, MemoryUse, Size, count_weights
from drpai_qat.runtimes.apart import NetworkApart
from drpai_qat.runtimes.network import Network

_Loaded = TypeVar("_Loaded")


def compile_network(
    canonical: onnx.ModelProto,
    target: Target,
    linker: Linker | None,
    cache: KernelCache,
    exact_sums: bool,
    folder: Path,
    apart: NetworkApart,
    progress: Stages,
) -> Artifact:
    """Compile for the target, and for this machine too where it can't run the target's code.

    Args:
        canonical: canonical QDQ model.
        linker: for another machine than this one; None: the compiler of this one.
        cache: of compiled kernels.
        exact_sums: see drpai_qat.lowering.lower.
        folder: gets deploy.so and deploy.params.
        apart: runs the network.
        progress: told of the stages.
    Raises: LoweringError: an operator has no implementation here nor in TVM's importer.
    """
    with progress.stage("lowering"):
        lowered = lower(canonical, target.isa, exact_sums)
    with progress.stage(f"compiling for {target.name}" + (f" with {linker}" if linker else "")):
        memory, code = _build(lowered, target, folder, cache, progress, linker)
    here = partial(
        _compile_here, target=_twin(target), scratch=folder, cache=cache, exact_sums=exact_sums, progress=progress
    )
    if target.runs_here:
        apart.load(folder / LIBRARY, folder / PARAMS, lowered.inputs, lowered.outputs)
    else:
        with progress.stage(f"compiling for {targets.host().name}, to check here"):
            here(canonical, apart.load)
    library, params = ((folder / name).stat().st_size for name in (LIBRARY, PARAMS))

    def compile_here(model: onnx.ModelProto) -> RunOnce:
        """Its layers run in this process: put together they have to be the network, which runs apart.

        Their edges are the integers of its grids.
        """
        return here(model, Network).run_integers

    return Artifact(
        inputs=lowered.inputs,
        outputs=lowered.outputs,
        coverage=lowered.coverage,
        target=target.to_json(),
        runs_on=_runs_on(target),
        next_command="drpai-qat run OUT"
        if target.runs_here
        else f"drpai-qat bundle OUT --target {target.name} -o board",
        size=Size(library, params, count_weights(canonical), memory, code=code),
        files=(LIBRARY, PARAMS),
        network=apart,
        compile_here=compile_here,
        kernels=lowered.kernels,
    )


def _runs_on(target: Target) -> str:
    if target.runs_here:
        return f"this machine ({target.machine}) and others with the same instructions"
    checked = "the check ran code for this machine that computes the same bits"
    if target.name in BOARDS:
        return f"the board's Arm cores; its DRP-AI is used with -d and -q alone; {checked}"
    return f"{target.machine} machines; {checked}"


def _twin(target: Target) -> Target:
    """A target that this machine runs and that gives the bits of `target`: that one itself, if it runs here."""
    if target.runs_here:
        return target
    host = targets.host()
    return replace(host, isa=replace(host.isa, float_sums=host.isa.float_sums and target.isa.float_sums))


def _compile_here(
    model: onnx.ModelProto,
    load: Callable[[Path, Path, Sequence[TensorInfo], Sequence[TensorInfo]], _Loaded],
    target: Target,
    scratch: Path,
    cache: KernelCache,
    exact_sums: bool,
    progress: Stages,
) -> _Loaded:
    """Compile into a folder that is gone afterwards: the code stays mapped."""
    with tempfile.TemporaryDirectory(dir=scratch) as name:
        folder = Path(name)
        lowered = lower(model, target.isa, exact_sums)
        _build(lowered, target, folder, cache, progress)
        return load(folder / LIBRARY, folder / PARAMS, lowered.inputs, lowered.outputs)


def _build(
    lowered: Lowered,
    target: Target,
    folder: Path,
    cache: KernelCache,
    progress: Stages,
    linker: Linker | None = None,
) -> tuple[MemoryUse, CodeUse]:
    """Generate code in a child process, which LLVM may end, and write both files."""
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        answer, tally = Path(scratch) / "sizes.json", Tally(Path(scratch) / "kernels")

        def work() -> None:
            sizes = build(lowered, target, folder / LIBRARY, linker, cache, tally)
            answer.write_text(json.dumps([asdict(one) for one in sizes]))

        run_isolated(work, Path(scratch), tally.told(progress))
        write_params(folder / PARAMS, lowered.params)
        memory, code = json.loads(answer.read_text())
        steps = tuple(tuple(step) for step in code["steps"])
        return MemoryUse(**{**memory, "by_step": tuple(memory["by_step"])}), CodeUse(code["kernels"], steps)
