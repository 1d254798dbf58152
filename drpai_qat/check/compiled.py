"""The check that follows a compilation: outputs first; layers and fold where that is asked for or needed."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import onnx
from numpy.typing import NDArray

import preprocess
from drpai_qat.check.certificate import AS_FLOAT32, Fineness
from drpai_qat.check.fidelity import CheckResult, certify, check_outputs
from drpai_qat.check.figures import OutputFigures, compare_output
from drpai_qat.check.heads import find_joints
from drpai_qat.check.layers import RunOnce
from drpai_qat.check.thresholds import CheckOptions
from drpai_qat.check.used_ranges import Watched
from drpai_qat.core.progress import Stages
from drpai_qat.core.quantization import QuantParams
from drpai_qat.runtimes.onnxruntime import Reference


def compare_with_source(
    static: onnx.ModelProto, deployed: RunOnce, samples: Sequence[Mapping[str, NDArray]], progress: Stages
) -> tuple[OutputFigures, ...]:
    """What quantization after training costs: the compiled network beside the source file, which was not rounded so.

    Args: as of `check_compiled`.
    """
    with progress.stage("comparing with the source"):
        reference = Reference(preprocess.reference_model(static), "the source")
        wanted = [reference.run(sample) for sample in samples]
        found = [deployed(sample) for sample in samples]
        return tuple(
            compare_output(name, [run[name] for run in found], [run[name] for run in wanted], None)
            for name in reference.outputs
        )


def check_compiled(
    source: Path,
    static: onnx.ModelProto,
    is_whole: bool,
    canonical: onnx.ModelProto,
    deployed: RunOnce,
    compile_here: Callable[[onnx.ModelProto], RunOnce] | None,
    grids: Mapping[str, QuantParams | None],
    samples: Sequence[Mapping[str, NDArray]],
    options: CheckOptions,
    progress: Stages,
    fineness: Fineness = AS_FLOAT32,
) -> CheckResult | None:
    """Compare a compiled network with what was trained.

    Args:
        source: the source file.
        static: its model with static inputs.
        is_whole: False if the user ended the model before the file's outputs.
        canonical: the folded model.
        deployed: runs the compiled network.
        compile_here: compiles another model in the same way, for the check layer by layer; None: there is none.
        grids: trained grid of each output, by name.
        samples: network inputs.
        fineness: of the target's arithmetic.
    Returns: None if nothing is to be checked.
    """
    if options.check == "none":
        return None
    with progress.stage("checking against onnxruntime"):
        runnable = preprocess.reference_model(static)
        reference = Reference(source if runnable is static and is_whole else runnable, source.name)
        middle = Watched(canonical, "model_int8.onnx")
        result = check_outputs(reference, middle, deployed, grids, samples, options.thresholds, find_joints(canonical))
    if compile_here is None:
        if options.check == "layers":
            with progress.stage("no layer of this target runs alone: the outputs were checked"):
                pass
    elif options.check == "layers" or (result.shortfalls and result.is_finite):
        result = certify(
            result, runnable, reference.run, canonical, deployed, compile_here, samples, fineness, progress
        )
    return result
