"""deploy.json: what a deployed network is, written by the compiler and read by whoever runs it.

`main` in deploy.so takes the inputs, then the tensors of deploy.params in the order of their names.

Knows neither TVM nor ONNX, so a board's Python can read it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from drpai_qat.core.errors import DeploymentError, DrpaiQatError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.version import __version__

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
        """Write deploy.json."""
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
        (folder / FILE).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def read(folder: Path) -> Manifest:
    """Read a folder's deploy.json.

    Raises: DeploymentError: there is none, or it is not ours, damaged, or of a later format.
    """
    path = folder / FILE
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise DeploymentError(f"{folder} holds no {FILE}: give a folder that the compile command wrote") from None
    except (OSError, ValueError) as error:
        raise DeploymentError(f"{path} can't be read: {error}: compile or copy it again") from None
    if not isinstance(content, dict) or not str(content.get("format", "")).startswith("drpai-qat/"):
        raise DeploymentError(f"{path} was not written by this compiler")
    if content["format"] != FORMAT:
        raise DeploymentError(f"{path} has format {content['format']}, this version reads {FORMAT}: compile it again")
    try:
        return Manifest(
            model=content["model"],
            inputs=tuple(TensorInfo.from_json(one) for one in content["inputs"]),
            outputs=tuple(TensorInfo.from_json(one) for one in content["outputs"]),
            target=content["target"],
            int8_mac_fraction=float(content["int8_mac_fraction"]),
            versions=content["versions"],
            check=content["check"],
            samples=content.get("samples"),
            preprocessing=content.get("preprocessing"),
            files=content["files"],
        )
    except (KeyError, TypeError, ValueError, DrpaiQatError) as error:
        raise DeploymentError(
            f"{path} is damaged ({type(error).__name__}: {error}): compile or copy it again"
        ) from None


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
    return {"drpai-qat": __version__, **{name: importlib.metadata.version(name) for name in _VERSIONS_OF}}


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
