"""The order of stages from a QAT or float file to a checked output folder, and nothing else.

load -> static shapes -> preprocess -> calibrate -> backend -> run samples -> check ->
report.json, report.html, deploy.json
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx

import preprocess
from drpai_qat.backends import table
from drpai_qat.backends.protocol import Artifact
from drpai_qat.calibration.stage import quantize
from drpai_qat.check.compiled import check_compiled, compare_with_source
from drpai_qat.core.option_groups import takes
from drpai_qat.core.progress import Silent, Stages
from drpai_qat.data.given_samples import read_samples
from drpai_qat.data.user_data import UserData
from drpai_qat.deployment.folder import CANONICAL, hashes, staged, write_arrays
from drpai_qat.deployment.manifest import Manifest, versions
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.edges import edge_types
from drpai_qat.options import CompileOptions
from drpai_qat.report.content import Report
from drpai_qat.report.layers import describe_layers, with_code
from drpai_qat.report.page.writing import write_page
from drpai_qat.report.size import count_quantized
from drpai_qat.report.warnings import refuse_warnings
from drpai_qat.runtimes.blame import naming
from drpai_qat.source.ending import end_at
from drpai_qat.source.loading import Source, load
from drpai_qat.source.static_shapes import specialize

_TURN = threading.Lock()
"""Of the threads of a process: TVM builds one module at a time."""


@dataclass(frozen=True, kw_only=True)
class _Call(CompileOptions):
    """What `compile` takes: the options, and who is told of the stages."""

    progress: Stages | None = None


@takes(_Call)
def compile(call: _Call) -> Report:
    """Compile a QAT or float ONNX file into an INT8 network, as the command does.

    Args: the options of the command under their long names, as docs/options.md lists them; besides,
        model: the ONNX file.
        samples: a .npz file, a folder of .npy files, arrays by name of the network input, or the number of random ones.
        thresholds: what the check must reach; see drpai_qat.check.thresholds.
        cache: False does what --no_cache does.
        progress: told of each stage, and of its steps if it is a drpai_qat.core.progress.Counting; default: silent.
    Returns: the report; `report.passed` is False if the check fell short, or
        `min_int8` is missed (the folder is written all the same).
    Raises: DrpaiQatError: see drpai_qat.core.errors.
    """
    return run(call, call.progress or Silent())


def run(options: CompileOptions, progress: Stages) -> Report:
    """Compile with checked options.

    Raises: DrpaiQatError: see drpai_qat.core.errors.
    """
    backend = table.backend(options.target, options, options, options)
    backend.prepare(options)
    given = None if options.given is None else read_samples(options.given)
    with _TURN, staged(options.folder) as folder:
        with progress.stage("loading the model"):
            source = load(Path(options.model))
            whole = specialize(source.path.name, source.model, options.input_shapes)
            static = end_at(source.path.name, whole, options.output_names)
        with progress.stage("folding the fake-quant"), naming(source.path, static):
            folded = preprocess.preprocess(
                static, options.qat_type, options.memory, may_be_float=options.qat_type is None,
                has_data=given is not None or options.images is not None or options.calibration is not None,
            )  # fmt: skip
            if options.strict:
                refuse_warnings(folded.log)
        data = UserData.of(folded.model, given, options)
        with naming(source.path, static):
            quantized = quantize(
                folded, data.frames, given, options.calibration_recipe, options.num_frame, progress,
                everywhere=backend.integer_operators, record_dir=options.range_record, sharing=options.sharing,
            )  # fmt: skip
            if options.strict:
                refuse_warnings(quantized.notes)
        canonical, as_trained = quantized.model, quantized.calibration is None
        samples = data.samples(canonical, options)
        with naming(source.path, static):
            artifact = backend.compile(canonical, folder, progress, edge_types(static))
            samples = [artifact.samples_as_taken(sample) for sample in samples]
            with progress.stage("running the samples"):
                first = artifact.network.run(samples[0])
            check = check_compiled(
                source.path, static if as_trained else canonical, as_trained and static is whole, canonical,
                artifact.network.run, artifact.compile_here,
                {info.name: info.quantization for info in artifact.outputs}, samples, options, progress,
                artifact.fineness,
            )  # fmt: skip
            loss = () if as_trained else compare_with_source(static, artifact.network.run, samples, progress)
        with progress.stage("writing the folder"):
            weights, activations = count_quantized(canonical)
            report = Report(
                model=_described(source, folded.qat_type),
                output_dir=options.folder,
                target=str(artifact.target["name"]),
                runs_on=artifact.runs_on,
                next_command=artifact.next_command,
                weights=weights,
                activations=activations,
                notes=(
                    *folded.log,
                    *quantized.notes,
                    *artifact.notes,
                    *(preprocess.Note("note", "options", "options", line) for line in options.remarks()),
                    *(preprocess.Note("warning", "data", "data", line) for line in data.warnings()),
                ),
                coverage=artifact.coverage,
                size=artifact.size,
                samples=data.to_json(samples),
                check=check,
                seconds=dict(progress.seconds),
                min_int8=options.min_int8,
                layers=with_code(
                    describe_layers(read_graph(canonical), artifact.coverage), artifact.kernels, artifact.size.code
                ),
                calibration=quantized.calibration,
                loss=loss,
                kernels=artifact.kernels,
            )
            onnx.save(canonical, folder / CANONICAL)
            inputs, outputs = ([one.name for one in infos] for infos in (artifact.inputs, artifact.outputs))
            write_arrays(folder, [samples[0][name] for name in inputs], [first[name] for name in outputs])
            report.write(folder)
            write_page(folder, report, samples, artifact.target, options.command, versions())
            _manifest(report, artifact, folder, None if data.image is None else data.image.to_json()).write(folder)
    return report


def _described(source: Source, qat_type: str) -> dict[str, str]:
    return {"name": source.path.name, "sha256": source.sha256, "qat_type": qat_type}


def _manifest(report: Report, artifact: Artifact, folder: Path, preprocessing: Mapping[str, Any] | None) -> Manifest:
    return Manifest(
        model=report.model,
        inputs=artifact.inputs,
        outputs=artifact.outputs,
        target=artifact.target,
        int8_mac_fraction=report.int8_mac_fraction,
        versions=versions(),
        check=report.summary(),
        samples=report.samples,
        preprocessing=preprocessing,
        files=hashes(folder),
    )
