"""Compile a lowered network into a shared library."""

from __future__ import annotations

from pathlib import Path

import tvm
from tvm import relax
from tvm.relax.backend.cpu_generic import pipeline as cpu
from tvm.support import cc

from drpai_qat.contraction import round_products
from drpai_qat.errors import LoweringError
from drpai_qat.lowering import Lowered
from drpai_qat.targets import Target
from drpai_qat.toolchain import Linker


def build(lowered: Lowered, target: Target, library: Path, linker: Linker | None = None) -> None:
    """Compile the network for a target and write the library.

    Args:
        library: file to write; it loads with libtvm_runtime alone.
        linker: for another machine than this one; None: the compiler of this one.
    Raises: LoweringError: an operator that TVM's importer took does not compile.
    """
    executable = compile_module(lowered.module, target)
    if linker is None:
        executable.export_library(str(library))
    else:
        compiler = cc.cross_compiler(linker.command, options=list(linker.arguments))
        executable.export_library(str(library), fcompile=compiler)


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
            round_products,
            *cpu.finalize_passes(tvm_target),
        ]
    )
    try:
        with tvm_target:
            return tvm.compile(module, target=tvm_target, relax_pipeline=passes)
    except Exception as error:  # TVM raises what its passes raise
        imported = sorted({v.name_hint.split("_")[1] for v in module.functions if v.name_hint.startswith("onnx_")})
        if not imported:
            raise
        reason = str(error).strip().splitlines()[-1][:160]
        raise LoweringError(
            f"TVM can't compile an operator left to it, one of {', '.join(imported)}: {reason}"
        ) from error
