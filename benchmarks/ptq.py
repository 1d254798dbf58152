"""Quantization after training: this compiler beside onnxruntime's quantize_static and NNCF, on the same data.

    python benchmarks/ptq_cases.py -o build/ptq
    python benchmarks/ptq.py -i build/ptq --peers /path/to/venv/bin/python

A table of SQNR against the float network and of accuracy (agreement with float where there are no labels). All
quantized models run in onnxruntime with its optimisations off, ours as model_int8.onnx, which the compiled network is
checked against; with optimisations its int8 kernels saturate on AVX2, and the peers would look worse than they are.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import click
import numpy as np
import onnx
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
import preprocess
from drpai_qat.calibration.calibrate import quantize_float
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.core.progress import Silent
from drpai_qat.core.sqnr import sqnr_db
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.source.input_shape import InputShape
from drpai_qat.source.static_shapes import specialize

PEERS = {
    "onnxruntime MinMax": "MinMax", "onnxruntime Entropy": "Entropy", "onnxruntime Percentile": "Percentile",
    "NNCF fast": "nncf-fast", "NNCF full": "nncf-full",
}  # fmt: skip
OURS = {"ours": Recipe(), "ours, without bias correction": Recipe(corrects=False)}


@dataclass(frozen=True)
class Case:
    """A float network and its data.

    Attributes:
        model: static shapes, opset 13 or newer.
        calibration, test: frames, (count, ...).
        labels: of the test frames, or None.
        output: name of the scores.
    """

    model: onnx.ModelProto
    calibration: NDArray[np.float32]
    test: NDArray[np.float32]
    labels: NDArray[np.int64] | None
    output: str

    @property
    def input(self) -> str:
        """Name of the network's input."""
        return str(self.model.graph.input[0].name)

    def scores(self, model: onnx.ModelProto | Path) -> NDArray[np.float32]:
        """Of a model on the test frames."""
        reference = Reference(model, "model")
        return np.concatenate([reference.run({self.input: one[None]}, [self.output])[self.output] for one in self.test])


def load(path: Path, most: int) -> Case:
    """A case that ptq_cases.py wrote, with at most `most` frames of each kind."""
    data, model = dict(np.load(path.with_suffix(".npz"))), onnx.load(path)
    shape = InputShape(model.graph.input[0].name, (1, *data["test"].shape[1:]))
    model = specialize(path.name, model, (shape,))
    if model.opset_import[0].version < 13:  # what all tools take
        model = onnx.version_converter.convert_version(model, 13)
    labels = data["labels"][:most] if "labels" in data else None
    output = str(data["scores"]) if "scores" in data else model.graph.output[0].name
    return Case(model, data["calibration"][:most], data["test"][:most], labels, output)


def ours(recipe: Recipe, case: Case) -> onnx.ModelProto:
    """This compiler's canonical model."""
    folded = preprocess.preprocess(case.model, may_be_float=True).model
    frames = [{case.input: np.ascontiguousarray(one[None])} for one in case.calibration]
    return quantize_float(folded, frames, recipe, Silent()).model


def theirs(method: str, python: Path, case: Case) -> onnx.ModelProto:
    """What another tool makes of the model.

    Raises: subprocess.CalledProcessError: it fails.
    """
    with tempfile.TemporaryDirectory() as scratch:
        model, frames, out = (Path(scratch) / name for name in ("model.onnx", "frames.npz", "out.onnx"))
        onnx.save(case.model, model)
        np.savez(frames, **{case.input: case.calibration[:, None]})
        script = [str(python), str(Path(__file__).parent / "ptq_peers.py")]
        subprocess.run([*script, method, str(model), str(frames), str(out)], check=True, capture_output=True)
        return onnx.load(out)


def measured(case: Case, make: Callable[[], onnx.ModelProto], wanted: NDArray[np.float32]) -> str:
    """SQNR in dB and accuracy, or agreement with float, in percent."""
    try:
        scores = case.scores(make())
    except subprocess.CalledProcessError as error:
        return f"fails: {error.stderr.decode().strip().splitlines()[-1][:60]}"
    answers = wanted.argmax(1) if case.labels is None else case.labels
    return f"{sqnr_db(scores, wanted):.1f} dB, {(scores.argmax(1) == answers).mean():.1%}"


@click.command()
@click.option("-i", "--input_dir", type=click.Path(path_type=Path, exists=True), default=Path("build/ptq"))
@click.option("--name", "names", multiple=True, help="Only these networks.")
@click.option("--peers", type=click.Path(path_type=Path), help="Python with onnxruntime and nncf; without: ours alone.")
@click.option("--most", type=click.IntRange(min=4), default=300, show_default=True, help="Frames of each kind.")
def main(input_dir: Path, names: tuple[str, ...], peers: Path | None, most: int) -> None:
    """Print the table, in Markdown's form."""
    cases = [load(path, most) for path in sorted(input_dir.glob("*.onnx")) if not names or path.stem in names]
    titles = [path.stem for path in sorted(input_dir.glob("*.onnx")) if not names or path.stem in names]
    floats = [case.scores(case.model) for case in cases]
    exact = [
        "100%" if case.labels is None else f"{(one.argmax(1) == case.labels).mean():.1%}"
        for case, one in zip(cases, floats, strict=True)
    ]
    print("|", " | ".join(["", *titles]), "|")
    print("|---" * (len(titles) + 1) + "|")
    print("|", " | ".join(["float", *exact]), "|", flush=True)
    for title, recipe in OURS.items():
        row = [
            measured(case, lambda c=case, r=recipe: ours(r, c), one) for case, one in zip(cases, floats, strict=True)
        ]
        print("|", " | ".join([title, *row]), "|", flush=True)
    for title, method in PEERS.items() if peers is not None else ():
        row = [
            measured(case, lambda c=case, m=method: theirs(m, peers, c), one)
            for case, one in zip(cases, floats, strict=True)
        ]
        print("|", " | ".join([title, *row]), "|", flush=True)


if __name__ == "__main__":
    main()
