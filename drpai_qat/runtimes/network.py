"""Runs a deployed network: libtvm_runtime and numpy, neither the compiler nor ONNX."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from drpai_qat.core import cpu_features as cpu
from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.tensor_info import TensorInfo, as_fed, as_reals, takes
from drpai_qat.core.text import one_line
from drpai_qat.deployment import manifest
from drpai_qat.deployment.files import check_hash, opened
from drpai_qat.deployment.parameters import aligned, read_parameters
from drpai_qat.runtimes.tflite import LiteNetwork

_CPU, _POOLED_ALLOCATOR = 1, 2
_DIGITS = 9  # of a number of threads that is worth reading

T = TypeVar("T")


class Network:
    """A compiled network in memory. It uses several threads itself: TVM_NUM_THREADS (default: all cores).

    Threads may share it: they run one after the other. To run at the same time, let each load its own.

    Attributes:
        inputs, outputs: name, shape, dtype and grid of each.
    """

    def __init__(
        self,
        library: Path,
        params: Path,
        inputs: Sequence[TensorInfo],
        outputs: Sequence[TensorInfo],
        hashes: Mapping[str, str] | None = None,
    ) -> None:
        """Load the code and its parameters.

        Args:
            library: deploy.so.
            params: deploy.params; `main` takes them in the order of their names.
            inputs, outputs: in the order of `main`.
            hashes: SHA-256 that both must have, by file name; None: they were written here just now.
        Raises: DeploymentError: a file can't be loaded, or is another one.
        """
        _bound_threads()
        self.inputs = tuple(inputs)
        self.outputs = tuple(outputs)
        with opened(library) as code, opened(params) as weights:
            if hashes is not None:
                check_hash(code, hashes.get(library.name), library)
                check_hash(weights, hashes.get(params.name), params)
            stored = read_parameters(weights, params)
            ffi = load_runtime()
            try:
                self._params = [ffi.from_dlpack(stored[name]) for name in sorted(stored)]
                self._module = _load_module(ffi, code.fileno())
                self._main = self._start()
            except (RuntimeError, OSError, KeyError, ValueError, AttributeError) as error:
                raise DeploymentError(
                    f"{library.parent} can't be loaded on this machine: {one_line(error)}: compile it for this machine"
                ) from None
        self._fed = [aligned(info.shape, info.dtype) for info in self.inputs]
        self._turn = threading.Lock()
        self._process = os.getpid()

    def _start(self) -> Any:
        self._vm = self._machine()
        return self._vm["main"]

    def _machine(self) -> Any:
        vm = self._module["vm_load_executable"]()
        vm["vm_initialization"](_CPU, 0, _POOLED_ALLOCATOR)
        return vm

    def clocked(
        self, feeds: Mapping[str, NDArray], attach: Callable[[Any], Any]
    ) -> tuple[Callable[[], None], Callable[[], None]]:
        """Two ways to run on the same inputs, for whoever measures: as `run` does, and with a clock.

        Args:
            feeds: as `run` takes them, one batch.
            attach: is given a machine of TVM's, and makes it call a clock before and after each of its calls.
        Returns: the plain run and the one with the clock, to be called in the thread that called this.
        """
        self.run(feeds)  # checks them, and puts them where the network reads them
        machine = self._machine()
        attach(machine)
        arguments = (*(load_runtime().from_dlpack(fed) for fed in self._fed), *self._params)

        def runs(main: Any) -> Callable[[], None]:
            def once() -> None:
                with self._turn:
                    _with_workers(lambda: main(*arguments))

            return once

        return runs(self._main), runs(machine["main"])

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run the network.

        Args:
            feeds: an array for each input name, of its shape; a longer batch is run piece by piece. Where the network
                takes integers of a grid, reals are rounded to it, and integers of the type are taken as they are.
        Returns: an array for each output name; reals where the network gives integers of a grid.
        Raises: DeploymentError: an input is missing or unknown, or has another shape or type.
        """
        found = self.run_integers(feeds)
        return {info.name: as_reals(found[info.name], info) for info in self.outputs}

    def run_integers(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run the network, and return its outputs as they are in memory; else as `run`."""
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
        array = as_fed(np.asarray(feeds[info.name]), info)
        wanted = np.dtype(info.dtype)
        if not takes(array, wanted):
            raise DeploymentError(f"input {info.name!r} is {array.dtype}, not {wanted}: convert it as in training")
        fits = array.shape == info.shape or (
            0 not in (*array.shape[:1], *info.shape[:1])
            and len(array.shape) == len(info.shape)
            and array.shape[1:] == info.shape[1:]
            and array.shape[0] % info.shape[0] == 0
        )
        if not fits:
            raise DeploymentError(
                f"input {info.name!r} has shape {list(array.shape)}: the network takes {list(info.shape)}, "
                "or a multiple of that batch"
            )
        return array

    def _pieces(self, arrays: Sequence[NDArray]) -> int:
        """How many runs the batch takes; all inputs have to agree."""
        counts = {
            array.shape[0] // info.shape[0] if array.shape != info.shape else 1
            for info, array in zip(self.inputs, arrays, strict=True)
        }
        if len(counts) > 1:
            raise DeploymentError("inputs have batches of different length: feed the same number of samples to each")
        return counts.pop() if counts else 1

    def _run_once(self, arrays: Sequence[NDArray]) -> list[NDArray]:
        from_dlpack = load_runtime().from_dlpack
        if self._process != os.getpid():
            if self._turn.locked():
                raise DeploymentError("this process was forked while the network was running: load it again here")
            self._process = os.getpid()
        with self._turn:
            for fed, array in zip(self._fed, arrays, strict=True):
                np.copyto(fed, array, casting="unsafe")  # `takes` has looked at types and values
            arguments = (*(from_dlpack(fed) for fed in self._fed), *self._params)
            try:
                result = _with_workers(lambda: self._main(*arguments))
            except Exception as error:  # TVM's errors have no common base but Exception
                raise DeploymentError(f"the network stopped: {one_line(error)}") from error
            parts = list(result) if isinstance(result, Sequence) else [result]
            found = [np.from_dlpack(part).copy() for part in parts]
        if [(one.shape, one.dtype.name) for one in found] != [(one.shape, one.dtype) for one in self.outputs]:
            raise DeploymentError("the outputs are not those of deploy.json: copy the whole folder again")
        return found


def load(folder: str | Path, *, threads: int = 1) -> Network | LiteNetwork:
    """Load a folder that the compile command wrote.

    Args:
        folder: holds deploy.json, and deploy.so and deploy.params, or a TFLite file.
        threads: of a TFLite file; the others take TVM_NUM_THREADS.
    Returns: the network, ready to run on this machine's CPU.
    Raises: DeploymentError: the folder is not ours, incomplete or damaged, or was compiled for another CPU.
    """
    path = Path(folder)
    found = manifest.read_network(path)
    if (name := found.target.get("file")) is not None:
        with opened(path / name) as file:
            check_hash(file, found.files.get(name), path / name)
            return LiteNetwork(file.read(), threads=threads)
    _check_cpu(path, found.target)
    return Network(path / manifest.LIBRARY, path / manifest.PARAMS, found.inputs, found.outputs, found.files)


def _check_cpu(folder: Path, target: Mapping[str, Any]) -> None:
    """Code for another CPU would end the process at its first unknown instruction."""
    if "features" not in target:
        raise DeploymentError(f"{folder / manifest.FILE} is damaged: target.features is missing: compile it again")
    why = cpu.why_not_here(str(target["machine"]), target["features"])
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
    try:
        import tvm_ffi

        if tvm_ffi.get_global_func("runtime.NumThreads", allow_missing=True) is not None:
            return tvm_ffi  # a bundle's own library, or the compiler's
        spec = importlib.util.find_spec("tvm")
        if spec is None or not spec.submodule_search_locations:
            raise ImportError("no module named tvm")
        library = Path(spec.submodule_search_locations[0]) / "lib" / "libtvm_runtime.so"
        ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    except (ImportError, OSError) as error:
        raise DeploymentError(f"TVM's runtime can't be loaded ({error}): pip install apache-tvm") from None
    return tvm_ffi


def _load_module(ffi: Any, number: int) -> Any:
    """Load an open file under a name of its own: the dynamic loader gives a name that it knows the old content."""
    with tempfile.TemporaryDirectory() as folder:
        link = Path(folder) / manifest.LIBRARY
        os.symlink(f"/proc/self/fd/{number}", link)
        return ffi.load_module(str(link))


def _bound_threads() -> None:
    """No more threads than cores: TVM takes seconds to end each one beyond, and ends the process where one can't start.

    Raises: DeploymentError: the variable that sets them holds no number.
    """
    name = next((name for name in ("TVM_NUM_THREADS", "OMP_NUM_THREADS") if os.environ.get(name)), None)
    if name is None:
        return
    first = os.environ[name].split(",")[0].strip()  # OpenMP's may be a list
    if not (first.isascii() and first.isdecimal() and first.strip("0")):
        shown = one_line(os.environ[name], 60)
        raise DeploymentError(f"{name}={shown} is no number of threads: set 1 or more, or unset it")
    cores = len(os.sched_getaffinity(0))
    if len(first) > _DIGITS or int(first) > cores:
        os.environ["TVM_NUM_THREADS"] = str(cores)


_here = threading.local()


def _with_workers(call: Callable[[], T]) -> T:
    """Call where TVM has its worker threads, which it keeps for each thread that runs a network.

    A fork copies what TVM knows of them, but not themselves: a run would wait for ever. Another thread gets new ones.
    """
    process = os.getpid()
    if getattr(_here, "process", process) == process:
        _here.process = process
        return call()
    return _other_thread(process).submit(call).result()


@cache
def _other_thread(process: int) -> ThreadPoolExecutor:
    """The thread of a forked process that runs networks."""
    return ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"drpai-qat-{process}")
