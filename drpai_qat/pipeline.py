"""The whole way from a QAT file to a checked output folder.

load -> static shapes -> preprocess -> lower -> build -> run samples -> check -> deploy.json, report.json
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import onnx
from numpy.typing import NDArray

import preprocess
from drpai_qat.backends.cpu.cache import NO_CACHE, KernelCache
from drpai_qat.backends.cpu.toolchain import Linker, find_linker
from drpai_qat.check.fidelity import (
    CheckResult,
    RunOnce,
    check_layers,
    check_outputs,
    excuse,
    first_divergence,
    fold_divergence,
)
from drpai_qat.check.layers import Cut
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.core.errors import DrpaiQatError
from drpai_qat.core.isolation import run_isolated
from drpai_qat.core.progress import Silent, Stages
from drpai_qat.data.samples import make_samples
from drpai_qat.deployment import folder as deployment
from drpai_qat.deployment import manifest
from drpai_qat.options import CompileOptions, compile_options
from drpai_qat.report.content import Report
from drpai_qat.report.size import MemoryUse, Size, count_quantized, count_weights
from drpai_qat.runtimes.network import Network
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.source.loading import Source, load
from drpai_qat.source.static_shapes import specialize
from drpai_qat.version import __version__

if TYPE_CHECKING:  # both import TVM, which takes a second: bad input is refused before
    from drpai_qat.backends.cpu.targets import Target
    from drpai_qat.lowering import Lowered

CANONICAL = "model_int8.onnx"
_VERSIONS_OF = ("apache-tvm", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime")


def compile(
    model: str | Path,
    *,
    qat_type: str | None = None,
    output_dir: str | Path | None = None,
    input_shape: str | Iterable[str] = (),
    input_name: str | Iterable[str] = (),
    target: str = "host",
    mcpu: str | None = None,
    toolchain_dir: str | Path | None = None,
    cross_compiler: str | None = None,
    check: str = "outputs",
    thresholds: Thresholds | None = None,
    samples: int = 4,
    seed: int = 0,
    cache: bool = True,
    progress: Stages | None = None,
) -> Report:
    """Compile a QAT ONNX file into an INT8 network, as the command does.

    Args:
        model: the ONNX file.
        qat_type: "pytorch" or "tensorflow"; None: found out.
        output_dir: folder to write; default out/<model name>.
        input_shape: "1,3,224,224" or "name:1,3,224,224", or several: sizes of dynamic dimensions.
        input_name: network inputs that shapes without a name are for.
        target: machine to compile for.
        mcpu: CPU to compile for, as LLVM names it; see drpai_qat.backends.cpu.targets.by_name.
        toolchain_dir: folder of the cross compilation SDK, for an Arm target.
        cross_compiler: compiler that links for an Arm target, instead of the SDK's or Debian's.
        check: "outputs", "layers" or "none".
        thresholds: what the check must reach.
        samples: number of sample inputs.
        seed: of the sample inputs.
        cache: keep compiled kernels, and use those kept; see drpai_qat.backends.cpu.cache.
        progress: told of each stage; default: silent.
    Returns: the report; `report.passed` is False if the check fell short (the folder is written all the same).
    Raises: DrpaiQatError: see drpai_qat.core.errors.
    """
    options = compile_options(
        model,
        qat_type=qat_type,
        output_dir=output_dir,
        input_shape=input_shape,
        input_name=input_name,
        target=target,
        mcpu=mcpu,
        toolchain_dir=toolchain_dir,
        cross_compiler=cross_compiler,
        check=check,
        thresholds=thresholds,
        samples=samples,
        seed=seed,
        cache=cache,
    )
    return run(options, progress or Silent())


@dataclass(frozen=True)
class _Folded:
    """The model before and after preprocess, both with static inputs."""

    source: Source
    static: onnx.ModelProto
    canonical: onnx.ModelProto
    qat_type: str
    notes: tuple[preprocess.Note, ...]


def run(options: CompileOptions, progress: Stages) -> Report:
    """Compile with checked options.

    Raises: DrpaiQatError: see drpai_qat.core.errors.
    """
    cache = KernelCache.of_user() if options.cache else NO_CACHE
    with deployment.staged(options.output_dir) as folder:
        folded = _fold(options, progress)
        with progress.stage("starting the compiler"):
            from drpai_qat.backends.cpu import targets

            target = targets.by_name(options.target, options.mcpu)
            linker = find_linker(target.machine, options.toolchain_dir, options.cross_compiler)
        lowered, memory, here = _build(folded, target, linker, folder, cache, progress)
        samples = make_samples(folded.canonical, options.samples, options.seed)
        with progress.stage("running the samples"):
            first = here.run(samples[0])
        check = None
        if options.check != "none":
            check = _check(folded, here, samples, folder, cache, options, progress)
        with progress.stage("writing the folder"):
            onnx.save(folded.canonical, folder / CANONICAL)
            inputs = [samples[0][info.name] for info in lowered.inputs]
            deployment.write_arrays(folder, inputs, [first[info.name] for info in lowered.outputs])
            size = _size(folder, folded, memory)
            report = _report(folded, lowered, target, size, check, options, progress)
            report.write(folder)
            _manifest(report, lowered, target, folder).write(folder)
    return report


def _fold(options: CompileOptions, progress: Stages) -> _Folded:
    with progress.stage("loading the model"):
        source = load(options.model)
        static = specialize(source.path.name, source.model, options.input_shapes)
    with progress.stage("folding the fake-quant"), _blaming(source):
        result = preprocess.preprocess(static, options.qat_type)
    return _Folded(source, static, result.model, result.qat_type, result.log)


def _build(
    folded: _Folded, target: Target, linker: Linker | None, folder: Path, cache: KernelCache, progress: Stages
) -> tuple[Lowered, MemoryUse, Network]:
    """Compile for the target; returns the lowered network and one that runs here, the same one if it can."""
    from drpai_qat.backends.cpu import targets
    from drpai_qat.lowering import lower

    with progress.stage("lowering"), _blaming(folded.source):
        lowered = lower(folded.canonical, target.isa)
    with progress.stage(f"compiling for {target.name}" + (f" with {linker}" if linker else "")):
        memory = _compile(lowered, target, folder, cache, linker)
    if target.runs_here:
        return lowered, memory, _network(lowered, folder)
    host = targets.host()
    with progress.stage(f"compiling for {host.name}, to check here"):
        return lowered, memory, _compile_and_load(folded.canonical, host, folder, cache)


def _compile(
    lowered: Lowered, target: Target, folder: Path, cache: KernelCache, linker: Linker | None = None
) -> MemoryUse:
    from drpai_qat.backends.cpu.build import build

    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        answer = Path(scratch) / "memory.json"

        def work() -> None:
            use = build(lowered, target, folder / manifest.LIBRARY, linker, cache)
            answer.write_text(json.dumps(asdict(use)))

        run_isolated(work, Path(scratch))
        deployment.write_params(folder / manifest.PARAMS, lowered.params)
        return MemoryUse(**json.loads(answer.read_text()))


def _network(lowered: Lowered, folder: Path) -> Network:
    library, params = folder / manifest.LIBRARY, folder / manifest.PARAMS
    return Network(library, params, lowered.inputs, lowered.outputs)


def _compile_and_load(model: onnx.ModelProto, target: Target, folder: Path, cache: KernelCache) -> Network:
    """Compile into a folder that is gone afterwards: the code stays mapped."""
    from drpai_qat.lowering import lower

    with tempfile.TemporaryDirectory(dir=folder) as name:
        lowered = lower(model, target.isa)
        _compile(lowered, target, Path(name), cache)
        return _network(lowered, Path(name))


def _check(
    folded: _Folded,
    here: Network,
    samples: list[dict[str, NDArray]],
    folder: Path,
    cache: KernelCache,
    options: CompileOptions,
    progress: Stages,
) -> CheckResult:
    from drpai_qat.backends.cpu import targets

    def compile_cut(cut: Cut) -> RunOnce:
        return _compile_and_load(cut.model, targets.host(), folder, cache).run

    with progress.stage("checking against onnxruntime"):
        runnable = preprocess.reference_model(folded.static)
        unchanged = runnable is folded.static
        source = Reference(folded.source.path if unchanged else runnable, folded.source.path.name)
        grids = {info.name: info.quantization for info in here.outputs}
        middle = Reference(folded.canonical, CANONICAL)
        result = check_outputs(source, middle, here.run, grids, samples, options.thresholds)
    if options.check == "layers" or not result.passed:
        with progress.stage("checking layer by layer"):
            layers = check_layers(folded.canonical, compile_cut, samples)
            result = replace(result, layers=layers, divergence=first_divergence(layers))
            if not result.passed and not result.divergence:
                result = replace(result, divergence=fold_divergence(runnable, folded.canonical, samples[0]))
            result = excuse(result, source, grids, samples, options.thresholds)
    return result


def _size(folder: Path, folded: _Folded, memory: MemoryUse) -> Size:
    library, params = ((folder / name).stat().st_size for name in (manifest.LIBRARY, manifest.PARAMS))
    return Size(library, params, count_weights(folded.canonical), memory)


def _report(
    folded: _Folded,
    lowered: Lowered,
    target: Target,
    size: Size,
    check: CheckResult | None,
    options: CompileOptions,
    progress: Stages,
) -> Report:
    weights, activations = count_quantized(folded.canonical)
    return Report(
        model={
            "name": folded.source.path.name,
            "sha256": folded.source.sha256,
            "qat_type": folded.qat_type,
        },
        output_dir=options.output_dir,
        target=target.name,
        weights=weights,
        activations=activations,
        notes=folded.notes,
        coverage=lowered.coverage,
        size=size,
        check=check,
        seconds=dict(progress.seconds),
    )


def _manifest(report: Report, lowered: Lowered, target: Target, folder: Path) -> manifest.Manifest:
    versions = {name: importlib.metadata.version(name) for name in _VERSIONS_OF}
    return manifest.Manifest(
        model=report.model,
        inputs=tuple(lowered.inputs),
        outputs=tuple(lowered.outputs),
        target=target.to_json(),
        int8_mac_fraction=report.int8_mac_fraction,
        versions={"drpai-qat": __version__, **versions},
        check=report.summary(),
        files=deployment.hashes(folder),
    )


@contextlib.contextmanager
def _blaming(source: Source) -> Iterator[None]:
    """Name the file in every error; where a pass breaks unexpectedly, see whether onnxruntime refuses the file too."""
    name = source.path.name
    try:
        yield
    except DrpaiQatError as error:
        if name in str(error):
            raise
        raise type(error)(f"{name}: {error}") from error
    except Exception:
        Reference(source.path, name)  # raises ModelError if the file is at fault
        raise
