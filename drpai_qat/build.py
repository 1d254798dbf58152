"""Compile a lowered network into a shared library."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu

from drpai_qat.lowering import Lowered
from drpai_qat.targets import Target


def build(lowered: Lowered, target: Target, library: Path) -> None:
    """Compile the network for a target and write the library.

    Args:
        library: file to write; it loads with libtvm_runtime alone.
    """
    executable = compile_module(lowered.module, target)
    executable.export_library(str(library))


def compile_module(module: tvm.IRModule, target: Target) -> relax.VMExecutable:
    """TVM's CPU pipeline, less what our kernels do not need.

    They are fused already, so operator fusion is left out; reshapes stay views, so they are not legalized to copies.
    """
    tvm_target = target.tvm_target
    reshape = "relax.reshape"
    passes = tvm.transform.Sequential(
        [
            *cpu.library_dispatch_passes(tvm_target),
            relax.transform.LegalizeOps(skip_ops=[reshape]),
            relax.transform.FoldConstant(),
            relax.transform.ToNonDataflow(),
            relax.transform.RemovePurityChecking(),
            relax.transform.CallTIRRewrite(),
            *cpu.finalize_passes(tvm_target),
        ]
    )
    with tvm_target:
        return tvm.compile(module, target=tvm_target, relax_pipeline=passes)
