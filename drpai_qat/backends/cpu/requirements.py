"""What compiling for a CPU needs of this machine; loads neither TVM nor ONNX."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping

from drpai_qat.backends.cpu.cache import KERNELS
from drpai_qat.backends.cpu.target_names import MACHINES
from drpai_qat.backends.cpu.toolchain import INSTALL, find_linker, own_compiler
from drpai_qat.backends.target_options import TargetOptions
from drpai_qat.core import cpu_features as cpu
from drpai_qat.core.errors import DrpaiQatError
from drpai_qat.core.findings import Finding
from drpai_qat.core.text import one_line
from drpai_qat.core.user_cache import user_cache, why_not_trusted

_OLDEST_PYTHON = (3, 11)
_PACKAGE = "drpai-qat"
_ARM = "aarch64"
_THIS_MACHINE = ("host", "native")
_QEMU = ("qemu-aarch64", "qemu-aarch64-static")


def requirements(options: TargetOptions, environment: Mapping[str, str] = os.environ) -> Iterator[Finding]:
    """The check list: Python, libraries, compilers, CPU, cache.

    Args:
        options: decide which of the lines are needed.
        environment: variables of the process.
    """
    version = platform.python_version()
    old = sys.version_info[:2] < _OLDEST_PYTHON
    yield Finding("Python", version, "use 3.11 or newer" if old else "")
    yield from _libraries()
    features = cpu.cpu_features()
    used = [name for name in cpu.LEVELS.get(cpu.machine(), {}).get(cpu.best_target(), ()) if name in features]
    known = f"{cpu.machine()} with {' '.join(used) or 'unknown features'}: {cpu.best_target()}"
    supported = cpu.machine() in ("x86_64", _ARM)
    yield Finding("CPU, and the target it gives", known, "" if supported else "compile on x86-64 or Arm64")
    compiles = options.target in (*MACHINES, *_THIS_MACHINE)  # other targets need no linker
    yield _linker("C compiler", cpu.machine(), TargetOptions(), environment, needed=compiles)
    machine = MACHINES.get(options.target, cpu.machine())
    if cpu.machine() != _ARM:
        yield _linker("Arm64 cross compiler", _ARM, options, environment, needed=machine == _ARM)
        emulator = next((name for name in _QEMU if shutil.which(name, path=environment.get("PATH"))), None)
        yield Finding(
            "qemu", emulator or "none", "" if emulator else "apt-get install qemu-user-static, to run Arm64 code here",
            needed=False,
        )  # fmt: skip
    yield _cache()


def _libraries() -> Iterator[Finding]:
    """The packages that ours names, by its own metadata, and whether their versions are within it."""
    from packaging.requirements import Requirement

    try:
        named = [Requirement(text) for text in importlib.metadata.requires(_PACKAGE) or ()]
    except importlib.metadata.PackageNotFoundError:
        yield Finding(_PACKAGE, "not installed", "pip install . in its folder")
        return
    for one in named:
        if one.marker is not None and not one.marker.evaluate({"extra": ""}):
            continue
        try:
            version = importlib.metadata.version(one.name)
        except importlib.metadata.PackageNotFoundError:
            yield Finding(one.name, "not installed", f"pip install '{one.name}{one.specifier}'")
            continue
        fits = one.specifier.contains(version, prereleases=True)
        yield Finding(one.name, version, "" if fits else f"pip install '{one.name}{one.specifier}'")


def _linker(
    what: str, machine: str, options: TargetOptions, environment: Mapping[str, str], *, needed: bool
) -> Finding:
    folder = None if options.toolchain_dir is None else str(options.toolchain_dir)
    try:
        linker = find_linker(machine, folder, options.cross_compiler, environment)
    except DrpaiQatError as error:
        why, _, todo = one_line(error, 1000).rpartition(": ")
        return Finding(what, why, todo or INSTALL, needed)
    return Finding(
        what,
        " ".join(own_compiler(environment) or ()) if linker is None else f"{linker.command} ({linker.origin})",
        needed=needed,
    )


def _cache() -> Finding:
    folder = user_cache()
    what = "cache of kernels"
    todo = "set DRPAI_QAT_CACHE_DIR to a folder that you may write; without it every kernel is compiled anew"
    if folder is None:
        return Finding(what, "no home folder", todo, needed=False)
    if reason := why_not_trusted(folder / KERNELS):
        return Finding(what, f"not used: {reason}", todo.replace("you may", "only you may"), needed=False)
    try:
        existing = next(one for one in (folder, *folder.parents) if one.exists())
        with tempfile.TemporaryFile(dir=existing):
            pass
    except OSError as error:
        return Finding(what, f"{folder} can't be written: {error.strerror}", todo, needed=False)
    return Finding(what, str(folder), needed=False)
