"""Runs a deployed network: libtvm_runtime and numpy, neither the compiler nor ONNX."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core import cpu_features as cpu
from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.tensor_info import TensorInfo, takes
from drpai_qat.core.text import one_line
from drpai_qat.deployment import manifest
from drpai_qat.runtimes.tflite import LiteNetwork

ALIGNMENT = 64
"""Bytes: what compiled code may assume of every tensor's address."""

_CPU, _POOLED_ALLOCATOR = 1, 2


class Network:
    """A compiled network in memory. Threads: TVM_NUM_THREADS (default: all cores). Not for use by two threads at once.

    Attributes:
        inputs, outputs: name, shape, dtype and grid of each.
    """

    def __init__(
        self, library: Path, params: Path, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]
    ) -> None:
        """Load the code and its parameters.

        Args:
            library: deploy.so.
            params: deploy.params; `main` takes them in the order of their names.
            inputs, outputs: in the order of `main`.
        Raises: DeploymentError: a file can't be loaded.
        """
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        ffi = load_runtime()
        try:
            stored = ffi.get_global_func("runtime.LoadParamsFromFile")(str(params))
            self._params = [stored[name] for name in sorted(stored)]
            self._module = _load_module(ffi, library)
            self._main = self._start()
        except (RuntimeError, OSError, KeyError, ValueError, AttributeError) as error:
            raise DeploymentError(
                f"{library.parent} can't be loaded on this machine: {one_line(error)}: compile it for this machine"
            ) from None
        self._fed = [_aligned(info.shape, info.dtype) for info in self.inputs]

    def _start(self) -> Any:
        vm = self._module["vm_load_executable"]()
        vm["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        self._vm = vm
        return vm["main"]

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run the network.

        Args:
            feeds: an array for each input name, of its shape; a longer batch is run piece by piece.
        Returns: an array for each output name.
        Raises: DeploymentError: an input is missing or unknown, or has another shape or type.
        """
        arrays = [self._checked(info, feeds) for info in self.inputs]
        unknown = sorted(set(feeds) - {info.name for info in self.inputs})
        if unknown:
            raise DeploymentError(f"no input {unknown[0]!r}: the network has {[info.name for info in self.inputs]}")
        pieces = self._pieces(arrays)
        if pieces == 1:
            return dict(zip([info.name for info in self.outputs], self._run_once(arrays), strict=True))
        results = []
        for index in range(pieces):
            batch = [
                array[index * info.shape[0] : (index + 1) * info.shape[0]]
                for info, array in zip(self.inputs, arrays, strict=True)
            ]
            results.append(self._run_once(batch))
        return {info.name: np.concatenate(parts) for info, *parts in zip(self.outputs, *results, strict=True)}

    def _checked(self, info: TensorInfo, feeds: Mapping[str, NDArray]) -> NDArray:
        if info.name not in feeds:
            raise DeploymentError(f"input {info.name!r} is missing: feed an array of shape {list(info.shape)}")
        array = np.asarray(feeds[info.name])
        wanted = np.dtype(info.dtype)
        if not takes(array, wanted):
            raise DeploymentError(f"input {info.name!r} is {array.dtype}, not {wanted}: convert it as in training")
        batch = array.shape[:1] if info.shape else ()
        fits = array.shape[1:] == info.shape[1:] and len(array.shape) == len(info.shape)
        if not fits or (batch and (batch[0] == 0 or batch[0] % info.shape[0])):
            raise DeploymentError(
                f"input {info.name!r} has shape {list(array.shape)}: the network takes {list(info.shape)}, "
                "or a multiple of that batch"
            )
        return array

    def _pieces(self, arrays: Sequence[NDArray]) -> int:
        """How many runs the batch takes; all inputs have to agree."""
        counts = {
            array.shape[0] // info.shape[0] if info.shape else 1
            for info, array in zip(self.inputs, arrays, strict=True)
        }
        if len(counts) > 1:
            raise DeploymentError("inputs have batches of different length: feed the same number of samples to each")
        return counts.pop()

    def _run_once(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        from_dlpack = load_runtime().from_dlpack
        for fed, array in zip(self._fed, arrays, strict=True):
            np.copyto(fed, array, casting="unsafe")  # `takes` has looked at types and values
        result = self._main(*(from_dlpack(fed) for fed in self._fed), *self._params)
        parts = [result] if len(self.outputs) == 1 and not isinstance(result, Sequence) else list(result)
        return [np.from_dlpack(part).copy() for part in parts]


def load(folder: str | Path) -> Network | LiteNetwork:
    """Load a folder that the compile command wrote.

    Args:
        folder: holds deploy.json, and deploy.so and deploy.params, or a TFLite file.
    Returns: the network, ready to run on this machine's CPU.
    Raises: DeploymentError: the folder is not ours, incomplete or damaged, or was compiled for another CPU.
    """
    path = Path(folder)
    found = manifest.read_network(path)
    _check_cpu(path, found.target)
    lite = found.target.get("file")
    for name in (manifest.LIBRARY, manifest.PARAMS) if lite is None else (str(lite),):
        file = path / name
        if not file.is_file():
            raise DeploymentError(f"{file} is missing: copy the whole folder")
        if manifest.sha256(file) != found.files.get(name):
            raise DeploymentError(f"{file} is not the file that was compiled (sha256 differs): copy it again")
    if lite is not None:
        return LiteNetwork(path / str(lite))
    return Network(path / manifest.LIBRARY, path / manifest.PARAMS, found.inputs, found.outputs)


def _check_cpu(folder: Path, target: Mapping[str, Any]) -> None:
    """Code for another CPU would end the process at its first unknown instruction."""
    why = cpu.why_not_here(str(target["machine"]), target["features"]) if "features" in target else ""
    if why:
        raise DeploymentError(
            f"{folder} is compiled for {target['name']} ({target['mcpu']}), and {why}: "
            f"compile it with --target {cpu.best_target()} to run it here"
        )


@cache
def load_runtime() -> Any:
    """tvm_ffi with TVM's runtime library registered; `import tvm` would load the compiler too.

    Raises: DeploymentError: TVM's runtime is not installed.
    """
    spec = importlib.util.find_spec("tvm")
    try:
        import tvm_ffi

        if spec is None or not spec.submodule_search_locations:
            raise ImportError("no module named tvm")
        library = Path(spec.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise DeploymentError(f"TVM's runtime can't be loaded ({error}): pip install apache-tvm") from None
    return tvm_ffi


def _load_module(ffi: Any, library: Path) -> Any:
    """Load under a name of its own: the dynamic loader gives a path that it knows the old content, even if replaced."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / library.name
        os.symlink(library.resolve(), link)
        return ffi.load_module(str(link))


def _aligned(shape: tuple[int, ...], dtype: str) -> NDArray:
    """An array whose address is a multiple of ALIGNMENT, as numpy's own need not be."""
    kind = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * kind.itemsize
    memory = np.zeros(size + ALIGNMENT, np.uint8)
    start = -memory.ctypes.data % ALIGNMENT
    return memory[start : start + size].view(kind).reshape(shape)
