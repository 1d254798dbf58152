"""Quantization after training: this compiler beside onnxruntime, NNCF, LiteRT's quantizer and TensorFlow's converter.

    python benchmarks/ptq_cases.py -o build/ptq
    python benchmarks/ptq.py -i build/ptq --peers PYTHON --litert PYTHON --tensorflow PYTHON

For each network a row of SQNR against the float network in dB, and accuracy (agreement with float where there are no
labels). Each PYTHON is that of an environment with onnxruntime and nncf, with ai-edge-quantizer, with TensorFlow;
without one, its columns are left out. The whole table takes hours: `--record FILE` keeps each cell as it is found, and
the same command goes on where it was. ONNX models, ours among them as model_int8.onnx, run in onnxruntime with its
optimisations off: with them its int8 kernels saturate on AVX2, and the peers would look worse than they are. TFLite
files run in LiteRT's own kernels.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import click
import numpy as np
import onnx
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import preprocess
from drpai_qat.backends.tflite.writer import write_tflite
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.core.errors import DrpaiQatError
from drpai_qat.core.progress import Silent
from drpai_qat.core.sqnr import sqnr_db
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.runtimes.tflite import LiteNetwork
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.static_shapes import specialize

PEERS = {
    "ort MinMax": "MinMax", "ort Entropy": "Entropy", "ort Percentile": "Percentile",
    "NNCF fast": "nncf-fast", "NNCF full": "nncf-full",
}  # fmt: skip
OURS = {"ours": Recipe(), "ours, best": Recipe(fits=True), "ours, no correction": Recipe(corrects=False)}
Floats = NDArray[np.float32]
Network = Callable[[Floats], Floats]
"""Scores of one frame."""


@dataclass(frozen=True)
class Case:
    """A float network and its data.

    Attributes:
        path: of the file that ptq_cases.py wrote; a Keras model lies beside it as .h5.
        model: static shapes, opset 13 or newer.
        calibration, test: frames, (count, ...).
        labels: of the test frames, or None.
        output: name of the scores.
    """

    path: Path
    model: onnx.ModelProto
    calibration: Floats
    test: Floats
    labels: NDArray[np.int64] | None
    output: str

    @property
    def input(self) -> str:
        """Name of the network's input."""
        return str(self.model.graph.input[0].name)

    @cached_property
    def wanted(self) -> Floats:
        """The float network's scores."""
        return self.scores(self.onnx(self.model))

    def scores(self, network: Network) -> Floats:
        """Of a network on the test frames."""
        return np.concatenate([network(np.ascontiguousarray(one[None])) for one in self.test])

    def onnx(self, model: onnx.ModelProto) -> Network:
        """An ONNX model that runs."""
        reference = Reference(model, "model")
        return lambda frame: reference.run({self.input: frame}, [self.output])[self.output]

    def tflite(self, content: bytes) -> Network:
        """A TFLite file that runs; its first output if none has the name of the scores."""
        network = LiteNetwork(content, plain=True)
        names = [one.name for one in network.outputs]
        name = self.output if self.output in names else names[0]
        return lambda frame: network.run({network.inputs[0].name: frame})[name]


def load(path: Path, most: int) -> Case:
    """A case that ptq_cases.py wrote, with at most `most` frames of each kind."""
    data, model = dict(np.load(path.with_suffix(".npz"))), onnx.load(path)
    shape = InputShape(model.graph.input[0].name, (1, *data["test"].shape[1:]))
    model = specialize(path.name, model, (shape,))
    if model.opset_import[0].version < 13:  # what all tools take
        model = onnx.version_converter.convert_version(model, 13)
    labels = data["labels"][:most] if "labels" in data else None
    output = str(data["scores"]) if "scores" in data else model.graph.output[0].name
    return Case(path, model, data["calibration"][:most], data["test"][:most], labels, output)


def ours(recipe: Recipe, case: Case) -> Network:
    """This compiler's canonical model."""
    frames = [{case.input: np.ascontiguousarray(one[None])} for one in case.calibration]
    return case.onnx(quantize_float(folded(case), frames, recipe, Silent()).model)


def folded(case: Case) -> onnx.ModelProto:
    """The float network as calibration takes it."""
    return preprocess.preprocess(case.model, may_be_float=True).model


def theirs(method: str, python: Path, case: Case) -> Network:
    """What another tool makes of the model.

    Raises: subprocess.CalledProcessError: it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        source, frames, out = (Path(scratch) / name for name in ("model", "frames.npz", "out"))
        if method == "tensorflow":
            source = case.path.with_suffix(".h5")
        elif method == "litert":
            source.write_bytes(write_tflite(folded(case), form="float32").content)
        else:
            onnx.save(case.model, source)
        mixed = np.random.default_rng(0).permutation(len(case.calibration))  # LiteRT's averages forget what came first
        np.savez(frames, **{case.input: case.calibration[mixed, None]})
        script = [str(python), str(Path(__file__).parent / "ptq_peers.py")]
        subprocess.run([*script, method, str(source), str(frames), str(out)], check=True, capture_output=True)
        return case.tflite(out.read_bytes()) if method in ("litert", "tensorflow") else case.onnx(onnx.load(out))


def tools(peers: Path | None, litert: Path | None, tensorflow: Path | None) -> dict[str, Callable[[Case], Network]]:
    """Each column's way from a case to a quantized network."""
    found: dict[str, Callable[[Case], Network]] = {
        title: lambda case, recipe=recipe: ours(recipe, case) for title, recipe in OURS.items()
    }
    methods = dict.fromkeys(PEERS.items(), peers) | {("LiteRT", "litert"): litert, ("TF", "tensorflow"): tensorflow}
    for (title, method), python in methods.items():
        if python is not None:
            found[title] = lambda case, method=method, python=python: theirs(method, python, case)
    return found


@dataclass(frozen=True)
class Record:
    """Cells found earlier, one line of JSON each.

    Attributes:
        path: None keeps nothing.
    """

    path: Path | None

    def cells(self, network: str) -> dict[str, str]:
        """Of a network, by column."""
        lines = self.path.read_text().splitlines() if self.path and self.path.exists() else []
        return {one["column"]: one["cell"] for one in map(json.loads, lines) if one["network"] == network}

    def add(self, network: str, column: str, cell: str) -> None:
        """One more cell."""
        if self.path is not None:
            with self.path.open("a") as file:
                file.write(json.dumps({"network": network, "column": column, "cell": cell}) + "\n")


def cells(path: Path, most: int, made: dict[str, Callable[[Case], Network]], record: Record) -> Iterator[str]:
    """The row of a network: dB and percent for each tool."""
    known = record.cells(path.stem)
    case: Case | None = None
    for column in ("float", *made):
        if column not in known:
            case = case or load(path, most)
            known[column] = cell(case, column, made)
            record.add(path.stem, column, known[column])
        yield known[column]


def cell(case: Case, column: str, made: dict[str, Callable[[Case], Network]]) -> str:
    """One of the row."""
    wanted = case.wanted
    answers = answers_of(wanted) if case.labels is None else case.labels
    if column == "float":
        return "" if case.labels is None or answers is None else f"{(answers_of(wanted) == answers).mean():.1%}"
    if column == "TF" and not case.path.with_suffix(".h5").exists():
        return ""
    try:
        scores = case.scores(made[column](case))
    except (subprocess.CalledProcessError, DrpaiQatError) as error:
        told = error.stderr.decode() if isinstance(error, subprocess.CalledProcessError) else str(error)
        print(f"{case.path.stem}, {column}: {(told.strip() or '?').splitlines()[-1][:300]}", file=sys.stderr)
        return "fails"
    scores = scores.reshape(wanted.shape)
    right = "" if answers is None else f", {(answers_of(scores) == answers).mean():.1%}"
    return f"{sqnr_db(scores, wanted):.1f}{right}"


def answers_of(scores: Floats) -> NDArray[np.int64] | None:
    """The class of each frame, or of each place in a sequence; None for maps and boxes."""
    return None if scores.ndim > 3 or scores.shape[-1] > 10_000 else np.asarray(scores.argmax(-1))


@click.command()
@click.option("-i", "--input_dir", type=click.Path(path_type=Path, exists=True), default=Path("build/ptq"))
@click.option("--name", "names", multiple=True, help="Only these networks.")
@click.option("--peers", type=click.Path(path_type=Path), help="Python with onnxruntime and nncf.")
@click.option("--litert", type=click.Path(path_type=Path), help="Python with ai-edge-quantizer.")
@click.option("--tensorflow", type=click.Path(path_type=Path), help="Python with tensorflow.")
@click.option("--column", "columns", multiple=True, help="Only these columns.")
@click.option("--most", type=click.IntRange(min=4), default=100, show_default=True, help="Frames of each kind.")
@click.option("--record", type=click.Path(path_type=Path), help="Keep cells there, and take those that are there.")
def main(
    input_dir: Path,
    names: tuple[str, ...],
    peers: Path | None,
    litert: Path | None,
    tensorflow: Path | None,
    columns: tuple[str, ...],
    most: int,
    record: Path | None,
) -> None:
    """Print the table, in Markdown's form."""
    made = {title: make for title, make in tools(peers, litert, tensorflow).items() if not columns or title in columns}
    print("|", " | ".join(["", "float", *made]), "|")
    print("|---" * (len(made) + 2) + "|")
    for path in sorted(input_dir.glob("*.onnx")):
        if not names or path.stem in names:
            print("|", " | ".join([path.stem, *cells(path, most, made, Record(record))]), "|", flush=True)


if __name__ == "__main__":
    main()
