"""deploy.json: what a deployed network is, written by the compiler and read by whoever runs it.

`main` in deploy.so takes the inputs, then the tensors of deploy.params in the order of their names.

Knows neither TVM nor ONNX, so a board's Python can read it.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.core.text import one_line
from drpai_qat.deployment import schema
from drpai_qat.deployment.files import read_bounded
from drpai_qat.version import described

FORMAT = "drpai-qat/1"
"""Changes where a reader of the number before would misunderstand the file."""

FILE = "deploy.json"
LIBRARY = "deploy.so"
PARAMS = "deploy.params"

_VERSIONS_OF = ("apache-tvm", "numpy", "onnx", "onnx-graphsurgeon", "onnxruntime")


@dataclass(frozen=True)
class Manifest:
    """The content of deploy.json.

    Attributes:
        model: name, sha256 and qat_type of the source file.
        inputs, outputs: in the order of deploy.so's `main`.
        target: what deploy.so was compiled for: name, machine, LLVM's CPU, and the CPU features that it needs.
        int8_mac_fraction: share of multiply-accumulates that run in integers, 0..1.
        versions: of this package and the ones it used.
        check: figures against onnxruntime, None if not checked.
        samples: name, sha256 and number of the samples that the user gave; None where they were random.
        preprocessing: how an image becomes the input that it names (data/preprocessing.py); None: not recorded.
        files: sha256 by path relative to the folder, of all files but deploy.json.
    """

    model: Mapping[str, Any]
    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    target: Mapping[str, Any]
    int8_mac_fraction: float
    versions: Mapping[str, str]
    check: Mapping[str, Any] | None = None
    samples: Mapping[str, Any] | None = None
    preprocessing: Mapping[str, Any] | None = None
    files: Mapping[str, str] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Write deploy.json.

        Raises: DeploymentError: `read` would refuse it: inputs and outputs are beyond its bounds.
        """
        content = {
            "format": FORMAT,
            "model": dict(self.model),
            "inputs": [one.to_json() for one in self.inputs],
            "outputs": [one.to_json() for one in self.outputs],
            "target": dict(self.target),
            "int8_mac_fraction": self.int8_mac_fraction,
            "versions": dict(self.versions),
            "check": self.check,
            **({} if self.samples is None else {"samples": dict(self.samples)}),
            **({} if self.preprocessing is None else {"preprocessing": dict(self.preprocessing)}),
            "files": dict(self.files),
        }
        text = json.dumps(content, indent=2, allow_nan=False) + "\n"
        try:
            _parsed(schema.Value(json.loads(text)))
        except schema.SchemaError as error:
            raise DeploymentError(f"the network can't be described in {FILE}: {one_line(error)}") from None
        (folder / FILE).write_text(text, encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Read a folder's deploy.json.

    Raises: DeploymentError: there is none, or it is not ours, damaged (the message names the field), or of a later
        format.
    """
    path = folder / FILE
    with contextlib.suppress(PermissionError, ValueError):  # whoever opens it says so
        if not _is_there(path):
            raise DeploymentError(f"{folder} holds no {FILE}: give a folder that the compile command wrote")
    try:
        content = json.loads(read_bounded(path, schema.MOST_BYTES).decode(), parse_constant=_no_json)
    except (ValueError, RecursionError) as error:  # a file may nest as deep as it likes
        raise DeploymentError(f"{path} can't be read ({one_line(error)}): compile or copy it again") from None
    if not isinstance(content, dict) or not str(content.get("format", "")).startswith("drpai-qat/"):
        raise DeploymentError(f"{path} was not written by this compiler")
    if content["format"] != FORMAT:
        raise DeploymentError(
            f"{path} has format {one_line(content['format'], 60)}, this version reads {FORMAT}: compile it again"
        )
    try:
        return _parsed(schema.Value(content))
    except schema.SchemaError as error:
        raise DeploymentError(f"{path} is damaged: {one_line(error)}: compile or copy it again") from None


def _is_there(path: Path) -> bool:
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    return True


def _no_json(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


def _parsed(whole: schema.Value) -> Manifest:
    inputs, outputs = schema.tensors(whole.at("inputs")), schema.tensors(whole.at("outputs"))
    schema.check_sizes(inputs, outputs)
    samples, preprocessing = whole.maybe("samples"), whole.maybe("preprocessing")
    target = schema.target(whole.at("target"))
    files = schema.files(whole.at("files"))
    return Manifest(
        model=whole.at("model").object(),
        inputs=inputs,
        outputs=outputs,
        target=target,
        int8_mac_fraction=whole.at("int8_mac_fraction").number(0, 1),
        versions=schema.texts(whole.at("versions")),
        check=schema.check(whole.maybe("check")),
        samples=None if samples is None else samples.object(),
        preprocessing=None if preprocessing is None else preprocessing.object(),
        files=files,
    )


def read_network(folder: Path) -> Manifest:
    """Read the deploy.json of a folder that holds one network for a CPU, in deploy.so.

    Raises: DeploymentError: as `read`; or the network is divided between an accelerator and the CPU.
    """
    found = read(folder)
    if "plan" in found.target:
        raise DeploymentError(
            f"{folder} is divided between a board's accelerator and its CPU, and runs there only: "
            "compile it without -d and -q for a CPU"
        )
    return found


def versions() -> dict[str, str]:
    """Of this package, and of those that compile."""
    return {"drpai-qat": described(), **{name: importlib.metadata.version(name) for name in _VERSIONS_OF}}


def is_ours(folder: Path) -> bool:
    """True if a compile wrote this folder."""
    try:
        read(folder)
    except DeploymentError:
        return False
    return True


def sha256(path: Path) -> str:
    """Hexadecimal SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
