"""The DRP-AI SDK as a backend: its tools for what the accelerator takes, another backend for the CPU's share.

canonical graph --divide--> sub_0_cpu, sub_1_drpai, ...; each accelerator part: float model and calibration frames
--Quantizer--> model_quantization.onnx --Translator--> 16 object files; each CPU part: a network for the board's CPU
"""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import onnx
from numpy.typing import NDArray

from drpai_qat.backends.drpai_sdk.calibration_frames import Frame, calibrate
from drpai_qat.backends.drpai_sdk.handover import RANGES, frames_for, read_returned, write_ranges
from drpai_qat.backends.drpai_sdk.installation import BOARDS, Examination, Installation
from drpai_qat.backends.drpai_sdk.mixed_network import MixedNetwork, RunOnce, Step
from drpai_qat.backends.drpai_sdk.operators import Operators
from drpai_qat.backends.drpai_sdk.partition import Part, divide, macs
from drpai_qat.backends.drpai_sdk.processes import ToolError
from drpai_qat.backends.drpai_sdk.returned_grids import compare_grids, counted
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.backends.drpai_sdk.submodels import borders, canonical_piece, float_model
from drpai_qat.backends.drpai_sdk.tools import MODEL, QUANTIZED, Tools, split_words
from drpai_qat.backends.protocol import Artifact, Backend
from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.core.coverage import LoweredNode
from drpai_qat.core.errors import DeploymentError, ModelError, OptionError
from drpai_qat.core.findings import require
from drpai_qat.core.io_types import FLOAT32
from drpai_qat.core.progress import Stages
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.graph.canonical import FAKE_QUANT, Graph, read_graph
from drpai_qat.graph.edges import ElemTypes
from drpai_qat.report.size import MemoryUse, Size, count_weights
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess.passlog import Note

LOG = "drpai.log"
"""All that the tools said, in the output folder."""

_THIS_MACHINE = ("host", "native")


@dataclass(frozen=True)
class _Made:
    """A part that is done."""

    step: Step
    plan: Mapping[str, Any]
    coverage: tuple[LoweredNode, ...]
    files: tuple[str, ...]
    size: Size
    notes: tuple[Note, ...]


class DrpaiSdkBackend:
    """Accelerator and CPU of an RZ/V2H or RZ/V2N; see drpai_qat.backends.protocol.Backend."""

    integer_operators = True

    def __init__(
        self, sdk: SdkOptions, samples: SampleOptions, frames: FrameOptions, cpu: Callable[[], Backend]
    ) -> None:
        """Make a backend for one compilation.

        Args:
            sdk: the tools, and what they are told.
            samples, frames: calibration data, or the seed of random frames.
            cpu: makes a backend for each part that runs on the board's CPU.
        """
        self._sdk = sdk
        self._samples = samples
        self._frames = frames
        self._cpu = cpu
        self._board = TargetOptions()
        self._tools: Installation | None = None
        self._words: tuple[str, ...] = ()
        self._operators: Operators | None = None

    def prepare(self, options: TargetOptions) -> None:
        """Find the tools, and what the CPU's share needs.

        Raises: OptionError: something is missing, or the options do not fit each other.
        """
        examined = Examination(self._sdk)
        require(examined.findings)
        self._tools = examined.installation
        assert self._tools is not None  # nothing is missing
        self._words = split_words(self._sdk.quantization_option)
        self._operators = Operators.chosen(self._sdk)
        board = BOARDS[self._tools.product]
        if options.target not in (*_THIS_MACHINE, board):
            raise OptionError(
                f"--target {options.target} is not the board of PRODUCT={self._tools.product}: give --target {board}, "
                "or drop it"
            )
        if options.io not in (None, FLOAT32):
            raise OptionError(f"--io {options.io}: the board's runtime feeds DRP-AI networks float32: drop it")
        values = {one.name: getattr(options, one.name) for one in fields(TargetOptions)}
        self._board = TargetOptions(**{**values, "target": board})
        self._cpu().prepare(self._board)
        if self._sdk.record_dir is not None:
            _check_new(Path(self._sdk.record_dir))

    def compile(
        self, canonical: onnx.ModelProto, folder: Path, progress: Stages, source: ElemTypes | None = None
    ) -> Artifact:
        """Write a folder for each part, and drpai.log.

        Raises: DrpaiQatError: a tool fails; nothing in the model is for the accelerator; a CPU part can't be compiled.
        """
        assert self._tools is not None
        assert self._operators is not None
        graph = read_graph(canonical)
        parts = divide(graph, self._operators)
        if not any(part.accelerated for part in parts):
            raise ModelError(
                f"no layer is for the accelerator with {self._operators.origin}: compile without -d and -q, or name "
                "operators with --offload_ops"
            )
        origins = f"Translator of {self._tools.translator.origin}, Quantizer of {self._tools.quantizer.origin}"
        with progress.stage(f"recording calibration data for the {origins}"):
            given = frames_for(canonical, self._samples, self._frames)
            frames = _recorded(canonical, graph, parts, given)
        with tempfile.TemporaryDirectory(prefix=".tools.", dir=folder) as scratch:
            try:
                done = [
                    self._accelerated(canonical, graph, part, frames, folder, Path(scratch), progress)
                    if part.accelerated
                    else self._on_cpu(canonical, graph, part, folder, progress)
                    for part in parts
                ]
            except ToolError as error:
                raise ToolError(f"{error}; all that the tools said: {_kept(folder / LOG)}") from None
            if self._sdk.record_dir is not None:
                _move_recordings(Path(scratch) / "recorded", Path(self._sdk.record_dir))
        return Artifact(
            inputs=tuple(_info(graph, name) for name in graph.inputs),
            outputs=tuple(_info(graph, name) for name in graph.outputs),
            coverage=tuple(node for one in done for node in one.coverage),
            target={
                "name": f"{self._board.target}+drpai",
                "machine": "aarch64",
                "product": self._tools.product,
                "tools": dict(self._tools.releases),
                "operators": self._operators.origin,
                "plan": [dict(one.plan) for one in done],
            },
            runs_on=f"DRP-AI and Arm cores of {self._tools.product}; the check ran the quantized models in onnxruntime",
            next_command="load OUT with the vendor's driver, part by part in the order of deploy.json (docs/sdk.md)",
            size=Size(
                sum(one.size.library for one in done), sum(one.size.params for one in done), count_weights(canonical),
                sum((one.size.memory for one in done), MemoryUse()),
            ),
            files=(*(name for one in done for name in one.files), LOG),
            network=MixedNetwork([one.step for one in done], graph.outputs),
            compile_here=None,
            notes=tuple(note for one in done for note in one.notes),
        )  # fmt: skip

    def _on_cpu(self, canonical: onnx.ModelProto, graph: Graph, part: Part, folder: Path, progress: Stages) -> _Made:
        piece = canonical_piece(canonical, graph, part.nodes, part.name)
        inputs, outputs = borders(graph, part.nodes)
        backend = self._cpu()
        backend.prepare(self._board)
        (folder / part.name).mkdir()
        made = backend.compile(piece, folder / part.name, progress)
        files = tuple(f"{part.name}/{name}" for name in made.files)
        plan = _plan(part, inputs, outputs, files)
        return _Made(Step(inputs, outputs, made.network.run), plan, made.coverage, files, made.size, made.notes)

    def _accelerated(
        self, canonical: onnx.ModelProto, graph: Graph, part: Part, frames: Sequence[Frame], folder: Path,
        scratch: Path, progress: Stages,
    ) -> _Made:  # fmt: skip
        assert self._tools is not None
        tools = Tools(self._tools, self._words, folder / LOG, self._sdk.tool_timeout)
        floats = float_model(canonical, graph, part.nodes, part.name)
        inputs, outputs = borders(graph, part.nodes)
        work, results = scratch / part.name, folder / part.name
        with progress.stage(f"{part.name}: looking for frames that reach the trained ranges"):
            own = [{name: frame[name] for name in inputs} for frame in frames]
            calibration = calibrate(floats, own, self._samples.seed)
            work.mkdir()
            onnx.save(floats.model, work / MODEL)
            calibration.write(floats.model, work)
            if self._sdk.record_dir is not None:
                shutil.copytree(work, scratch / "recorded" / part.name)
        with progress.stage(f"{part.name}: quantizing"):
            quantized = tools.quantize(work)
            returned = _returned(quantized)
        with progress.stage(f"{part.name}: translating"):
            results.mkdir()
            tools.translate(quantized, part.name, results)
        grids = compare_grids(floats, returned)
        changed, finer = sum(not one.kept for one in grids), sum(one.finer for one in grids)
        told = [counted(grids) + (f" ({part.name}/{RANGES})" if changed else "")]
        shutil.copyfile(quantized, results / QUANTIZED)
        write_ranges(calibration, grids, results / RANGES)
        run, what = _runner(canonical, graph, part, returned, outputs)
        if what != QUANTIZED:
            told.append(f"the check runs {what}")
        for text in told:
            with progress.stage(f"{part.name}: {text}"):
                pass
        files = tuple(sorted(f"{part.name}/{path.name}" for path in results.iterdir()))
        plan = {
            **_plan(part, inputs, outputs, files),
            "grids": len(grids),
            "grids_changed": changed,
            "grids_finer": finer,
            "run_here": what,
        }
        coverage = tuple(
            LoweredNode(node.name, node.op, "int8", macs(graph, node)) for node in part.nodes if node.op != FAKE_QUANT
        )
        size = sum(path.stat().st_size for path in results.iterdir() if path.suffix in (".bin", ".mem"))
        notes = tuple(Note("note", "drpai_sdk", part.name, text) for text in told)
        return _Made(Step(inputs, outputs, run), plan, coverage, files, Size(0, size, 0, MemoryUse()), notes)


def _recorded(
    canonical: onnx.ModelProto, graph: Graph, parts: Sequence[Part], frames: Sequence[Frame]
) -> list[dict[str, NDArray]]:
    """The tensors between the parts, by frame; accelerator parts in float32, since they are not quantized yet."""
    steps = []
    for part in parts:
        inputs, outputs = borders(graph, part.nodes)
        if part.accelerated:
            model = float_model(canonical, graph, part.nodes, part.name).model
        else:
            model = canonical_piece(canonical, graph, part.nodes, part.name)
        steps.append((inputs, outputs, Reference(model, part.name)))
    found = []
    for frame in frames:
        values: dict[str, NDArray] = dict(frame)
        for inputs, outputs, reference in steps:
            values |= reference.run({name: values[name] for name in inputs}, outputs)
        found.append(values)
    return found


def _returned(quantized: Path) -> onnx.ModelProto:
    try:
        return read_returned(quantized)
    except ModelError as error:
        raise ToolError(f"the DRP-AI Quantizer left something else than a model: {error}") from None


def _runner(
    canonical: onnx.ModelProto, graph: Graph, part: Part, returned: onnx.ModelProto, outputs: Sequence[str]
) -> tuple[RunOnce, str]:
    """What computes an accelerator's part here, and its name: the quantized model if onnxruntime takes it."""
    try:
        reference = Reference(returned, QUANTIZED)
        if len(reference.outputs) == len(outputs):
            return _renaming(reference, outputs), QUANTIZED
        why = f"it has {len(reference.outputs)} outputs instead of {len(outputs)}"
    except ModelError as error:
        why = str(error)
    own = Reference(canonical_piece(canonical, graph, part.nodes, part.name), part.name)
    return own.run, f"the trained part instead of {QUANTIZED}: {why}"


def _renaming(reference: Reference, outputs: Sequence[str]) -> RunOnce:
    """Outputs under our names: the tools may rename them, and keep their order."""

    def run(feeds: Mapping[str, NDArray]) -> Mapping[str, NDArray]:
        found = reference.run(feeds)
        same = set(outputs) == set(found)
        return found if same else dict(zip(outputs, (found[name] for name in reference.outputs), strict=True))

    return run


def _plan(part: Part, inputs: Sequence[str], outputs: Sequence[str], files: Sequence[str]) -> dict[str, Any]:
    """A part as deploy.json tells it."""
    operators = Counter(node.op for node in part.nodes if node.op != FAKE_QUANT)
    return {
        "name": part.name,
        "runs_on": "drpai" if part.accelerated else "cpu",
        "inputs": list(inputs),
        "outputs": list(outputs),
        "operators": dict(operators.most_common()),
        "files": list(files),
    }


def _info(graph: Graph, name: str) -> TensorInfo:
    node = next((one for one in graph.nodes if one.params is not None and name in (*one.inputs[:1], one.output)), None)
    return TensorInfo(
        name, graph.shapes[name], graph.dtypes.get(name, "float32"), None if node is None else node.params
    )


def _kept(log: Path) -> str:
    """The log at a place that outlives the output folder, which a failure leaves unwritten."""
    try:
        with tempfile.NamedTemporaryFile(prefix="drpai-qat-", suffix=".log", delete=False) as file:
            file.write(log.read_bytes())
            return file.name
    except OSError as error:
        return f"lost ({error.strerror})"


def _check_new(folder: Path) -> None:
    try:
        if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
            raise OptionError(f"-r {folder} exists and is not empty: name another folder")
    except OSError as error:
        raise OptionError(f"-r {folder}: {error.strerror}") from None


def _move_recordings(recorded: Path, folder: Path) -> None:
    """Under the user's name as a whole or not at all."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
            whole = Path(beside) / folder.name
            shutil.copytree(recorded, whole)
            _check_new(folder)
            whole.rename(folder)
    except OSError as error:
        raise DeploymentError(f"-r {folder} can't be written: {error.strerror or error}") from None
