"""What is done with the file of a seed: the command, and what lies beside the model."""

from __future__ import annotations

import io
import random
import shutil
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx

from tests.attack.mutation import damaged_bytes, mutant
from tests.calibration import float_models

MODELS = Path(__file__).parents[1] / "models"
DOUBLES = Path(__file__).parents[1] / "backends" / "drpai_sdk" / "doubles"


@dataclass(frozen=True)
class Task:
    """A file and its command.

    Attributes:
        name: of the file.
        kind: class of the mutation.
        told: what was done.
        content: the model.
        way: class of the command.
        arguments: of the command, behind those that all have.
        beside: other files, by path in the folder where it runs.
    """

    name: str
    kind: str
    told: str
    content: bytes
    way: str = "host"
    arguments: tuple[str, ...] = ()
    beside: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True)
class _Source:
    name: str
    content: bytes
    trained: bool = True


def _sources() -> list[_Source]:
    """Trained models, four of five; float ones, which are calibrated."""
    trained = [_Source(path.stem, path.read_bytes()) for path in sorted(MODELS.glob("*.onnx"))]
    made = (float_models.residual(), float_models.attention())
    others = [
        _Source(f"{name}{copy}", model.SerializeToString(), trained=False)
        for copy in range(2) for name, model in zip(("residual", "attention"), made, strict=True)
    ]  # fmt: skip
    return trained + others


def mutants(seeds: Sequence[int]) -> Iterator[Task]:
    """The tasks of seeds: each model in turn."""
    sources = _sources()
    for seed in seeds:
        yield _task(sources[seed % len(sources)], seed)


def _task(source: _Source, seed: int) -> Task:
    rng = random.Random(f"task {seed}")
    if rng.random() < 0.06:
        return _data(source, seed, rng)
    made = mutant(source.content, seed)
    ways: list[tuple[str, tuple[str, ...]]] = [("host", ())] * 13
    ways += [("layers", ("--check", "layers")), ("x86-64-v2", ("--target", "x86-64-v2"))]
    ways += [("tflite", ("--target", "tflite")), ("tflite", ("--target", "tflite", "--allow-float", "--io", "float32"))]
    if source.trained:
        ways += [("SDK", ("-d", "sdk/translator", "-q", "sdk/drpAI_Quantizer"))]
    way, arguments = rng.choice(ways)
    if not source.trained:
        way, arguments = f"calibrated, {way}", (*arguments, "-n", "2")
    beside = sdk_of_doubles() if way == "SDK" else {}
    name = f"{seed}-{source.name}"
    return Task(name, made.kind, made.told, made.content, way, arguments, beside)


def _data(source: _Source, seed: int, rng: random.Random) -> Task:
    """A sound model with damaged samples, calibration data or images."""
    model = onnx.ModelProto.FromString(source.content)
    constants = {one.name for one in model.graph.initializer}
    value = next(one for one in model.graph.input if one.name not in constants)
    shape = [one.dim_value or 1 for one in value.type.tensor_type.shape.dim]
    array = np.random.default_rng(seed).normal(0, 1, (2, *shape[1:])).astype(np.float32)
    option = "--samples" if source.trained else rng.choice(("--samples", "--calibration"))
    forms = ["npz", "npy", "header", *(["image"] if len(shape) == 4 and not source.trained else [])]
    form = rng.choice(forms)
    if form == "image":
        option, path, content = "--images", "data/a.png", _picture(rng)
        content, _, told = damaged_bytes(content, rng)
    elif form == "header":
        path, content, told = f"data/{value.name}.npy", *_claiming(array, rng)
    else:
        path = "data.npz" if form == "npz" else f"data/{value.name}.npy"
        content, _, told = damaged_bytes(_saved(value.name, array, form, rng), rng)
    if path.startswith("data/") and ("\0" in value.name or "/" in value.name):
        path = "data/x.npy"
    beside = {path: content}
    arguments = (option, path.split("/")[0], *(() if source.trained else ("-n", "2")))
    kind = f"{form} of {option[2:]}"
    return Task(f"{seed}-{source.name}", kind, told, source.content, "data", arguments, beside)


def _saved(name: str, array: np.ndarray, form: str, rng: random.Random) -> bytes:
    stream = io.BytesIO()
    if form == "npz":
        save: Callable[..., None] = rng.choice((np.savez, np.savez_compressed))
        save(stream, **{name: array})
    else:
        np.save(stream, array)
    return stream.getvalue()


def _claiming(array: np.ndarray, rng: random.Random) -> tuple[bytes, str]:
    """A .npy file whose header says something else than the data are."""
    way = rng.choice(("shape", "type", "values", "cast", "object", "text"))
    stream = io.BytesIO()
    if way in ("shape", "type", "text"):
        shape = rng.choice(((2**40,), (-1, 3), (2**62, 2**62), (), (0, *array.shape[1:]), (10**9, *array.shape[1:])))
        descr = rng.choice(("<f4", "<f8", "|O", "<U9", "|V8", "<M8[s]", ">f2", "<c16", "f4,f4"))
        header = {"descr": descr if way == "type" else "<f4", "fortran_order": rng.random() < 0.3, "shape": shape}
        text = repr(header) if way != "text" else rng.choice(("{}", "[" * 5000, "__import__('os')", "{'descr': 1}"))
        data = text.encode()
        stream.write(b"\x93NUMPY\x01\x00" + len(data).to_bytes(2, "little") + data + array.tobytes())
    elif way == "values":
        array = array.copy()
        array.reshape(-1)[: rng.choice((1, array.size))] = rng.choice((np.nan, np.inf, -np.inf, 3e38, 1e-45))
        np.save(stream, array)
    elif way == "cast":
        np.save(stream, array.astype(rng.choice((np.float16, np.float64, np.int8, np.bool_, np.complex64))))
    else:
        np.save(stream, np.array([{"a": 1}], object), allow_pickle=True)
    return stream.getvalue(), way


def _picture(rng: random.Random) -> bytes:
    from PIL import Image

    stream = io.BytesIO()
    pixels = np.frombuffer(rng.randbytes(40 * 30 * 3), np.uint8).reshape(30, 40, 3)
    Image.fromarray(pixels).save(stream, rng.choice(("PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP")))
    return stream.getvalue()


def sdk_of_doubles() -> dict[str, bytes]:
    """Files of an SDK whose tools are the tests' doubles."""
    doubles = {
        "translator/DRP-AI_Translator/run.py": "run_translator.py",
        "translator/DRP-AI_Translator/onnx_optimizer/run_onnx_optimizer.py": "run_onnx_optimizer.py",
        "drpAI_Quantizer/drpai_quantizer/cli_interface.py": "cli_interface.py",
    }
    linker = b'#!/bin/sh\nwhile [ $# -gt 0 ]; do [ "$1" = -o ] && echo code > "$2"; shift; done\n'
    files = {place: (DOUBLES / name).read_bytes() for place, name in doubles.items()}
    files |= {"translator/output/.keep": b"", "drpAI_Quantizer/drpai_quantizer/__init__.py": b""}
    files |= {"bin/python3": f'#!/bin/sh\nexec {sys.executable} "$@"\n'.encode(), "bin/aarch64-linux-gnu-gcc": linker}
    return {f"sdk/{name}": content for name, content in files.items()}


def stored(folder: Path) -> Iterator[Task]:
    """The files in a folder."""
    for path in sorted(folder.glob("*.onnx")):
        yield Task(path.stem, "stored", "", path.read_bytes())


def laid_out(task: Task, folder: Path) -> None:
    """Write a task's files into an empty folder."""
    shutil.rmtree(folder, ignore_errors=True)
    for name, content in {"m.onnx": task.content, **task.beside}.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        if path.parent.name == "bin":
            path.chmod(0o755)


def bundled(task: Task) -> bytes:
    """All of a task as a zip file, with its command: what a fault leaves behind."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in {"m.onnx": task.content, **task.beside}.items():
            file.writestr(name, content)
        file.writestr("command", " ".join(("drpai-qat compile m.onnx", *task.arguments)) + "\n")
    return stream.getvalue()
