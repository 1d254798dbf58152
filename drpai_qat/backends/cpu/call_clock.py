"""Builds the clock that notes the time at each call of TVM's machine (call_clock.c), for this machine or a board.

In C, because a call back into Python takes longer than small kernels do, and because it runs on a board as well, where
it is loaded as deploy.so is.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import tvm_ffi.libinfo

from drpai_qat.backends.cpu.toolchain import Linker, find_linker, own_compiler
from drpai_qat.core.errors import DeploymentError
from drpai_qat.core.text import one_line

_SOURCE = Path(__file__).with_name("call_clock.c")


def build_clock(folder: Path, machine: str) -> Path:
    """Compile the clock into a library.

    Args:
        folder: gets the library.
        machine: that it runs on, as `find_linker` takes it.
    Raises: DrpaiQatError: there is no compiler, or it fails.
    """
    linker = find_linker(machine)
    library = folder / "call_clock.so"
    include = tvm_ffi.libinfo.include_paths()
    command = [*_compiler(linker), "-x", "c", "-O2", "-shared", "-fPIC", *(f"-I{one}" for one in include)]
    try:
        subprocess.run([*command, str(_SOURCE), "-o", str(library)], capture_output=True, check=True, text=True)
    except subprocess.CalledProcessError as error:
        lines = [line for line in error.stderr.splitlines() if "error" in line] or error.stderr.splitlines() or [""]
        raise DeploymentError(f"the clock of the profile can't be compiled: {one_line(lines[0])}") from None
    return library


def _compiler(linker: Linker | None) -> list[str]:
    if linker is not None:
        return [linker.command, *linker.arguments]
    return list(own_compiler() or ("cc",))
