"""The CPU as a backend. TVM is loaded when there is a model to compile: bad input is refused before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import onnx

from drpai_qat.backends.cpu.cache import NO_CACHE, KernelCache
from drpai_qat.backends.cpu.target_names import MACHINES
from drpai_qat.backends.cpu.toolchain import Linker, find_linker
from drpai_qat.backends.protocol import Artifact
from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.core import cpu_features as cpu
from drpai_qat.core.io_types import FLOAT32
from drpai_qat.core.progress import Stages
from drpai_qat.graph.edges import ElemTypes, with_edges
from drpai_qat.runtimes.apart import NetworkApart
from preprocess.passlog import Note


class CpuBackend:
    """Integer kernels for x86-64 and Arm64, by TVM; see drpai_qat.backends.protocol.Backend."""

    integer_operators = False

    def __init__(self) -> None:
        self._options = TargetOptions()
        self._linker: Linker | None = None

    def prepare(self, options: TargetOptions) -> None:
        """Find what links for the target.

        Raises:
            OptionError: no such CPU, or a compiler that is named, or needed, is not there.
            DeploymentError: this machine has no compiler of its own.
        """
        folder = None if options.toolchain_dir is None else str(options.toolchain_dir)
        self._options, self._linker = options, find_linker(_machine(options), folder, options.cross_compiler)

    def compile(
        self, canonical: onnx.ModelProto, folder: Path, progress: Stages, source: ElemTypes | None = None
    ) -> Artifact:
        """Write deploy.so and deploy.params.

        Raises:
            LoweringError: an operator has no implementation here nor in TVM's importer.
            OptionError: there are no kernels for this machine's CPU.
        """
        apart = NetworkApart()  # starts while the compiler is loaded
        with progress.stage("starting the compiler"):
            from drpai_qat.backends.cpu import compilation, targets

            target = targets.by_name(self._options.target, self._options.mcpu)
        cache = KernelCache.of_user() if self._options.cache else NO_CACHE
        exact_sums = self._options.sums == "exact"
        edged, notes = with_edges(canonical, self._options.io or FLOAT32, source or {})
        made = compilation.compile_network(edged, target, self._linker, cache, exact_sums, folder, apart, progress)
        return replace(made, notes=(*made.notes, *notes, *_unused(cache)))


def _unused(cache: KernelCache) -> tuple[Note, ...]:
    if not cache.refused:
        return ()
    text = f"not used, {cache.refused}: every kernel is compiled anew; set DRPAI_QAT_CACHE_DIR to a folder of your own"
    return (Note("warning", "cache", "cache", text),)


def _machine(options: TargetOptions) -> str:
    if options.mcpu is not None:  # it may name another machine's CPU; LLVM knows them
        from drpai_qat.backends.cpu import targets

        return targets.by_name(options.target, options.mcpu).machine
    return MACHINES.get(options.target, cpu.machine())
