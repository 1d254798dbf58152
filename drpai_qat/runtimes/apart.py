"""A compiled network in a process of its own, which has what a board has: TVM's runtime, and no compiler.

A network may call functions that only the compiler's libraries hold. Beside the compiler it would run, and on the board
it would not; so what is verified runs apart. Parent and child talk over pipes, in pickles of the arguments.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import signal
import subprocess
import sys
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any, NoReturn, cast

from numpy.typing import NDArray

from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.core.text import one_line
from drpai_qat.runtimes.network import Network, load_runtime

_CHILD = "import sys; sys.path[:] = sys.argv[1:]; from drpai_qat.runtimes.apart import serve; serve()"


class NetworkApart:
    """Runs one network; the process ends with this object."""

    def __init__(self) -> None:
        """Start the process. It loads TVM's runtime at once, while this one goes on."""
        self._printed = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        # An editable install is found by a hook of the environment, which -S leaves out, not by a folder in the path.
        path = [*sys.path, str(Path(__file__).parents[2])]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _CHILD, *path],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._printed,
        )  # fmt: skip
        self._end = weakref.finalize(self, _end, self._process)

    def load(self, library: Path, params: Path, inputs: Sequence[TensorInfo], outputs: Sequence[TensorInfo]) -> None:
        """Load a network, as `Network` does; the files are not needed afterwards.

        Raises: DeploymentError: it can't be loaded, or the process has ended.
        """
        self._ask("load", library, params, tuple(inputs), tuple(outputs))

    def run(self, feeds: Mapping[str, NDArray]) -> dict[str, NDArray]:
        """Run the network, as `Network.run` does.

        Raises: DeploymentError: wrong feeds, the network fails, or it ends its process.
        """
        return cast("dict[str, NDArray]", self._ask("run", dict(feeds)))

    def _ask(self, what: str, *arguments: object) -> object:
        asking, answering = self._process.stdin, self._process.stdout
        assert asking is not None
        assert answering is not None
        try:
            pickle.dump((what, arguments), asking, protocol=5)
            asking.flush()
            answer, failure = pickle.load(answering)
        except (BrokenPipeError, EOFError, pickle.UnpicklingError):
            raise DeploymentError(self._obituary(what)) from None
        if failure:
            raise DeploymentError(failure)
        return cast("object", answer)

    def _obituary(self, what: str) -> str:
        self._end()
        status = self._process.returncode
        how = signal.Signals(-status).name if status < 0 else f"exit status {status}"
        self._printed.seek(0)
        lines = self._printed.read().decode(errors="replace").strip().splitlines()
        last = f", {one_line(lines[-1])}" if lines else ""
        return f"the compiled network's process ended in {what} ({how}{last}): please report it, with the model"


def _end(process: subprocess.Popen[bytes]) -> None:
    """Its pipes are closed; a process that has ended already keeps its status."""
    for pipe in (process.stdin, process.stdout):
        if pipe is not None:
            with contextlib.suppress(BrokenPipeError):  # bytes that it never read
                pipe.close()
    try:
        process.wait(0.5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def serve() -> NoReturn:
    """The child: do what the parent asks until its pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which closes the pipe
    asked, answers = sys.stdin.buffer, os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print is no answer
    sys.modules["torch"] = None  # type: ignore[assignment]  # tvm_ffi would import it, for seconds
    load_runtime()
    network: Network | None = None
    while True:
        try:
            what, arguments = pickle.load(asked)
        except EOFError:
            os._exit(0)
        if what == "load":
            made, failure = _tried(Network, arguments)
            network = cast("Network | None", made)
            _answer(answers, None, failure)
        else:
            assert network is not None
            _answer(answers, *_tried(network.run, arguments))


def _tried(work: Any, arguments: Sequence[object]) -> tuple[object, str]:
    try:
        return work(*arguments), ""
    except DeploymentError as error:
        return None, str(error)
    except Exception as error:  # TVM's errors have no common base but Exception
        return None, f"the compiled network does not run ({one_line(error)}): please report it, with the model"


def _answer(answers: IO[bytes], value: object, failure: str) -> None:
    try:
        pickle.dump((value, failure), answers, protocol=5)
        answers.flush()
    except BrokenPipeError:  # the parent has gone
        os._exit(0)
