"""Compile a lowered network into a shared library."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

import tvm
from numpy.typing import NDArray
from tvm import relax, runtime
from tvm.relax.backend.cpu_generic import pipeline as cpu
from tvm.support import cc

from drpai_qat.backends.cpu.cache import NO_CACHE, KernelCache
from drpai_qat.backends.cpu.fp_contraction import round_products
from drpai_qat.backends.cpu.kernel_objects import outline_kernels
from drpai_qat.backends.cpu.memory import PlanMemory
from drpai_qat.backends.cpu.targets import Target
from drpai_qat.backends.cpu.toolchain import Linker, own_compiler
from drpai_qat.core.errors import LoweringError
from drpai_qat.core.progress import Tally
from drpai_qat.lowering import Lowered
from drpai_qat.report.size import CodeUse, MemoryUse


def build(
    lowered: Lowered,
    target: Target,
    library: Path,
    linker: Linker | None = None,
    cache: KernelCache = NO_CACHE,
    tally: Tally | None = None,
) -> tuple[MemoryUse, CodeUse]:
    """Compile the network for a target and write the library.

    Args:
        library: file to write; it loads with libtvm_runtime alone.
        linker: for another machine than this one; None: the compiler of this one.
        cache: of compiled kernels.
        tally: counts those that are built.
    Returns: the memory that a run takes, and the code of its kernels.
    Raises: LoweringError: an operator that TVM's importer took does not compile.
    """
    # Objects do not say which machine they are for, so TVM, which adds one with the bytecode, asks the linker.
    triple = target.mtriple or tvm.target.codegen.llvm_get_system_triple()
    command = (own_compiler() or ("cc",)) if linker is None else (linker.command, *linker.arguments)
    link = cc.cross_compiler(partial(_link, command), get_target_triple=lambda: triple)
    with tempfile.TemporaryDirectory() as folder:
        plan, code = PlanMemory(), [CodeUse()]
        objects = outline_kernels(target, cache, Path(folder), tally, code.append)
        compile_module(lowered.module, target, plan, objects).export_library(str(library), fcompile=link)
    return plan.use, code[-1]


def _link(command: Sequence[str], output: str, objects: Sequence[str], options: Sequence[str] = ()) -> None:
    """As TVM's own, which takes one word for a compiler, where "ccache g++" and "gcc -m64" are two."""
    # TVM's debug information names TIR that nobody has: more than a third of the file.
    words = [*command, "-shared", "-fPIC", "-o", output, *objects, *options, "-Wl,--strip-debug"]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    if done.returncode:
        raise RuntimeError(f"Compilation error:\n{done.stdout.decode(errors='replace')}")


def write_params(path: Path, params: Mapping[str, NDArray]) -> None:
    """Write deploy.params in TVM's own format.

    Args:
        params: in the order in which `main` takes them, which has to be that of their names: readers go by it.
    Raises: OSError: the disk is full (TVM's writer would leave half a file without a word).
    """
    assert list(params) == sorted(params), "parameters are not in the order of their names"
    path.write_bytes(runtime.save_param_dict(dict(params)))


def compile_module(
    module: tvm.IRModule, target: Target, plan: PlanMemory | None = None, *last: tvm.transform.Pass
) -> relax.VMExecutable:
    """TVM's CPU pipeline, less what our kernels do not need.

    They are fused already, so operator fusion is left out; reshapes stay views, so they are not legalized to copies.

    Args:
        plan: told of the memory that a run takes.
        last: passes at the end of the pipeline.
    Returns: the network; without `outline_kernels` it can run in this process, too.
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
            (plan or PlanMemory()).as_pass(),
            *cpu.finalize_passes(tvm_target),
            *last,
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
