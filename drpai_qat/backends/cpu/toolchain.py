"""Finds the compiler that links deploy.so for another machine.

LLVM, inside TVM, makes the Arm code; the cross compiler only links it. Nothing of the target runs here.
"""

from __future__ import annotations

import os
import platform
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from drpai_qat.core.errors import DeploymentError, OptionError
from drpai_qat.core.text import INSTALL_LINKER

INSTALL = "apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross"
_OWN_NAMES = ("g++", "gcc", "clang++", "clang", "c++", "cc")
_PATH_NAMES = ("aarch64-linux-gnu-gcc", "aarch64-linux-gnu-g++")
# The cross compilation SDK is Yocto's: one folder for what runs here, one for what the board's programs see.
_SDK_COMPILERS = (
    "usr/bin/aarch64-poky-linux/aarch64-poky-linux-g++",
    "usr/bin/aarch64-poky-linux/aarch64-poky-linux-gcc",
)
_SDK_HOST = "x86_64-pokysdk-linux"
_SDK_SYSROOTS = ("aarch64-poky-linux", "cortexa55-poky-linux")


@dataclass(frozen=True)
class Linker:
    """A compiler driver and the arguments it always needs.

    Attributes:
        command: program; found, executable.
        arguments: in front of all others.
        origin: where it was found, for the log: "-t", "SDK", "--cross-compiler" or "PATH".
    """

    command: str
    arguments: tuple[str, ...]
    origin: str

    def __str__(self) -> str:
        return f"{Path(self.command).name} ({self.origin})"


def find_linker(
    machine: str,
    toolchain_dir: str | None = None,
    cross_compiler: str | None = None,
    environment: Mapping[str, str] = os.environ,
) -> Linker | None:
    """The linker for code of this machine; None where this machine's own compiler does it.

    Options come before the environment: --cross-compiler, -t, the variable SDK, then Debian's compiler on PATH.

    Args:
        machine: "aarch64" or "x86_64", as `platform.machine()` says it.
        toolchain_dir: -t: folder of the SDK, the one that holds sysroots/.
        cross_compiler: a command, perhaps with arguments ("aarch64-linux-gnu-gcc --sysroot=/opt/board").
    Raises:
        OptionError: a named one is not there, or is not needed; none is installed.
        DeploymentError: this machine has no compiler of its own.
    """
    if machine == platform.machine().replace("AMD64", "x86_64"):
        for option, value in (("-t", toolchain_dir), ("--cross-compiler", cross_compiler)):
            if value is not None:
                raise OptionError(f"{option} is for another machine than this one: add --target rzv2h, or drop it")
        _check_own_compiler(environment)
        return None
    if machine != "aarch64":
        raise OptionError(f"{machine} code can't be linked on this machine: compile it on one, or for --target host")
    if cross_compiler is not None:
        return _named(cross_compiler)
    if toolchain_dir is not None:
        return _from_sdk(Path(toolchain_dir), "-t")
    if environment.get("SDK"):
        return _from_sdk(Path(environment["SDK"]), "SDK")
    for name in _PATH_NAMES:
        found = shutil.which(name, path=environment.get("PATH"))
        if found:
            return Linker(found, (), "PATH")
    raise OptionError(f"no compiler for Arm64 found: {INSTALL}, or give the SDK's folder with -t")


def own_compiler(environment: Mapping[str, str] = os.environ) -> tuple[str, ...] | None:
    """This machine's own compiler, which CXX, CC or PATH names, and its arguments; None: there is none.

    Raises: OptionError: the variable names no program.
    """
    search = environment.get("PATH")
    for name in ("CXX", "CC"):
        if environment.get(name, "").strip():
            return _words(environment[name], f"{name}={environment[name]}", f"unset {name}", search)
    found = next(filter(None, (shutil.which(name, path=search) for name in _OWN_NAMES)), None)
    return None if found is None else (found,)


def _check_own_compiler(environment: Mapping[str, str]) -> None:
    """TVM links with it, and fails without a message if there is none."""
    if own_compiler(environment) is None:
        raise DeploymentError(f"no C compiler to link deploy.so with: {INSTALL_LINKER}")


def _words(text: str, where: str, todo: str, search: str | None = None) -> tuple[str, ...]:
    """A command's program, found, and its arguments ("ccache g++", "gcc -m64")."""
    try:
        first, *others = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"{where} is not a command: {error}: {todo}") from None
    found = shutil.which(first, path=search)
    if found is None:
        raise OptionError(f"{where}: no such program: {todo}")
    return (found, *others)


def _named(text: str) -> Linker:
    if not text.strip():
        raise OptionError(f"--cross-compiler {text!r}: no such program; for Debian's: {INSTALL}")
    program, *arguments = _words(text, f"--cross-compiler {text!r}", f"for Debian's: {INSTALL}")
    return Linker(program, tuple(arguments), "--cross-compiler")


def _from_sdk(folder: Path, origin: str) -> Linker:
    sysroots = folder if (folder / _SDK_HOST).is_dir() else folder / "sysroots"
    programs = [sysroots / _SDK_HOST / name for name in _SDK_COMPILERS]
    program = next((path for path in programs if os.access(path, os.X_OK) and path.is_file()), None)
    roots = [sysroots / name for name in _SDK_SYSROOTS]
    root = next((path for path in roots if path.is_dir()), None)
    if program is None or root is None:
        missing = f"{_SDK_HOST}/{_SDK_COMPILERS[0]}" if program is None else " or ".join(_SDK_SYSROOTS)
        unset = "unset SDK" if origin == "SDK" else "drop -t"
        raise OptionError(
            f"{origin} {folder} is not the cross compilation SDK: no sysroots/{missing} in it; "
            f"give the folder that holds sysroots/, or {unset} and {INSTALL}"
        )
    return Linker(str(program), (f"--sysroot={root}",), origin)
