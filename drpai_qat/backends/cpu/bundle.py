"""A folder to copy to the board: the network, TVM's runtime libraries, and programs that run it."""

from __future__ import annotations

import contextlib
import importlib.metadata
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from drpai_qat.backends.cpu.targets import Target, by_name
from drpai_qat.backends.cpu.toolchain import Linker, find_linker, own_compiler
from drpai_qat.core.errors import DeploymentError, OptionError
from drpai_qat.core.text import one_line
from drpai_qat.core.user_cache import make_private, read_own, user_cache, why_not_trusted, write_whole
from drpai_qat.deployment import manifest
from drpai_qat.deployment.files import check_hash, opened_inside
from drpai_qat.deployment.folder import hashes, named_os_errors, staged

LIBRARIES = {"apache-tvm": "tvm/lib/libtvm_runtime.so", "apache-tvm-ffi": "tvm_ffi/lib/libtvm_ffi.so"}
"""The runtime's shared libraries, by package, as they lie in its wheel."""

RUNNER = "run_inference"
COMPILED = (
    "drpai_qat.cpp", "folder.cpp", "image_input.cpp", "numbers.cpp", "scaling.cpp", "sha-256.c", "run_inference.cpp",
    "given_files.cpp", "array_file.cpp", "image_file.cpp",
)  # fmt: skip
_HEADERS = (
    "drpai_qat.h", "folder.h", "image_input.h", "numbers.h", "scaling.h", "given_files.h", "array_file.h",
    "image_file.h", "stb_image.h", "sha-256.h", "sha-256.LICENSE.md",
)  # fmt: skip
FLAGS = ("-ffp-contract=off",)  # images get the numbers that they have on a PC
_SOURCES = (*_HEADERS, *COMPILED, "CMakeLists.txt", "aarch64-toolchain.cmake")
_NOT_FOR_THE_BOARD = ("model_int8.onnx", "report.json")  # the first is as large as the weights
_BESIDE = ("run_inference.py", "README.md")
_ROOMS = ("core", "data", "deployment", "runtimes")  # of this package, for run_inference.py
_FOLDERS = ("lib", "python", "src")
_PLATFORMS = ("2_17", "2_24", "2_27", "2_28")
_OWN_FOLDER = "set DRPAI_QAT_CACHE_DIR to a folder that only you may write, or give --runtime"
_INSTALL_CXX = "apt-get install g++-aarch64-linux-gnu"


def bundle(
    folder: Path,
    output_dir: Path,
    *,
    target: str | None = None,
    runtime_dir: Path | None = None,
    toolchain_dir: str | None = None,
    cross_compiler: str | None = None,
    force: bool = False,
) -> tuple[str, ...]:
    """Write a folder that runs on the target with nothing else installed but its C++ library.

    What `folder` lists is copied only if it lies in it and has the hash that was written when it was compiled.

    Args:
        folder: what the compile command wrote, for that target.
        output_dir: folder to write.
        target: must be what `folder` was compiled for, unless `force` says so; None: whatever that is.
        runtime_dir: holds libtvm_runtime.so and libtvm_ffi.so for the target; None: taken from the wheels of the
            versions that compiled the network, fetched with pip where this machine's own don't fit.
        toolchain_dir, cross_compiler: see `toolchain.find_linker`.
        force: bundle a network whose check fell short, or that is for another target, all the same.
    Returns: what only `force` let pass, a sentence each.
    Raises:
        DeploymentError: `folder` is not usable, its check fell short, or the libraries can't be had.
        OptionError: another target, or no C++ compiler for it.
    """
    found = manifest.read_network(folder)
    compiled_for = str(found.target.get("name"))
    if manifest.LIBRARY not in found.files:
        raise OptionError(f"{folder} was compiled for {compiled_for}, which needs no bundle: copy its file")
    remarks = []
    if target is not None and target != compiled_for:
        remarks.append(f"{folder} was compiled for {compiled_for}, not for {target}")
        if not force:
            raise OptionError(f"{remarks[-1]}: compile it with --target {target}, or add --force")
    if found.check is not None and not found.check["passed"]:
        remarks.append(f"{folder} fell short of its check")
        if not force:
            raise DeploymentError(f"{remarks[-1]} (report.json says where): compile it anew, or add --force")
    ours = {name.split("/")[0] for name in found.files} & {*_FOLDERS, *_BESIDE, RUNNER}
    if ours:
        raise DeploymentError(f"{folder} holds {sorted(ours)[0]}, as a bundle does: give the folder of the compilation")
    machine = by_name(compiled_for)
    if found.target.get("machine") != machine.machine:
        raise DeploymentError(
            f"{folder / manifest.FILE} is damaged: target.name is {compiled_for}, and target.machine is not "
            f"{machine.machine}: compile it again"
        )
    linker = _cxx(find_linker(machine.machine, toolchain_dir, cross_compiler))
    with staged(output_dir) as staging:
        for name, sha256 in found.files.items():
            if name in _NOT_FOR_THE_BOARD:
                continue
            with opened_inside(folder, name) as file:
                check_hash(file, sha256, folder / name)  # nothing else takes room on the disk
                (staging / name).parent.mkdir(parents=True, exist_ok=True)
                with (staging / name).open("x+b") as copy:
                    shutil.copyfileobj(file, copy)
                    copy.seek(0)
                    check_hash(copy, sha256, folder / name)  # the file may have been changed meanwhile
        _copy_libraries(staging / "lib", machine, runtime_dir, found.versions)
        source = sources()
        for name in _BESIDE:
            shutil.copyfile(source / name, staging / name)
        (staging / "src").mkdir()
        for name in _SOURCES:
            shutil.copyfile(source / name, staging / "src" / name)
        _copy_package(staging / "python" / "drpai_qat")
        _compile_runner(staging, linker)
        replace(found, files=hashes(staging)).write(staging)
    return tuple(remarks)


def sources() -> Path:
    """Folder of the board's programs: samples/board of the repository, or where pip put it.

    Raises: DeploymentError: it is not there.
    """
    installed = Path(sysconfig.get_path("data")) / "share" / "drpai-qat" / "board"
    for place in (Path(__file__).parents[3] / "samples" / "board", installed):
        if (place / _SOURCES[0]).is_file():
            return place
    raise DeploymentError(f"the board's programs are missing ({installed}): install drpai-qat again")


def _cxx(linker: Linker | None) -> Linker:
    """The C++ compiler beside a C compiler."""
    if linker is None:
        named = own_compiler() if os.environ.get("CXX", "").strip() else None
        command = named or tuple(filter(None, (shutil.which("c++") or shutil.which("g++"),)))
        if not command:
            raise OptionError("no C++ compiler found: apt-get install g++")
        return Linker(command[0], command[1:], "CXX" if named else "PATH")
    path = Path(linker.command)
    if "g++" in path.name or "clang++" in path.name or "c++" in path.name:
        return linker
    for ending, cxx in (("gcc", "g++"), ("clang", "clang++"), ("cc", "c++")):
        candidate = path.with_name(path.name.removesuffix(ending) + cxx)
        if path.name.endswith(ending) and candidate.is_file():
            return replace(linker, command=str(candidate))
    raise OptionError(f"no C++ compiler beside {path.name}: {_INSTALL_CXX}, or name one with --cross-compiler")


def _copy_libraries(place: Path, target: Target, runtime_dir: Path | None, versions: Mapping[str, str]) -> None:
    place.mkdir()
    names = {package: Path(inside).name for package, inside in LIBRARIES.items()}
    if runtime_dir is not None:
        missing = [name for name in names.values() if not (runtime_dir / name).is_file()]
        if missing:
            raise DeploymentError(f"--runtime {runtime_dir} holds no {' and no '.join(missing)}")
        found = {name: (runtime_dir / name).read_bytes() for name in names.values()}
    elif target.machine == platform.machine().replace("AMD64", "x86_64"):
        found = {Path(inside).name: _installed(inside).read_bytes() for inside in LIBRARIES.values()}
    else:
        found = {names[package]: _from_wheel(package, versions, target.machine) for package in LIBRARIES}
    for name, content in found.items():
        (place / name).write_bytes(content)


def _installed(inside: str) -> Path:
    package, _, rest = inside.partition("/")
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise DeploymentError(f"{package} is not installed: pip install apache-tvm apache-tvm-ffi")
    return Path(spec.submodule_search_locations[0]) / rest


def _from_wheel(package: str, versions: Mapping[str, str], machine: str) -> bytes:
    """A library for another machine, of the version that compiled; pip fetches its wheel once, then it is kept."""
    version = versions.get(package) or importlib.metadata.version(package)
    cache = user_cache()
    if cache is None:
        raise DeploymentError("no folder to keep the board's libraries in: set DRPAI_QAT_CACHE_DIR, or give --runtime")
    inside = LIBRARIES[package]
    kept = cache / "runtime" / machine / f"{package}-{version}" / Path(inside).name
    if reason := why_not_trusted(kept.parent):
        raise DeploymentError(f"{reason}: {_OWN_FOLDER}")
    with contextlib.suppress(FileNotFoundError):
        return _own(kept)
    with (
        tempfile.TemporaryDirectory() as scratch,
        zipfile.ZipFile(_download(package, version, machine, Path(scratch))) as archive,
    ):
        content = archive.read(inside)
    with named_os_errors(kept.parent):
        make_private(kept.parent)
        write_whole(kept, content)
    return content


def _own(kept: Path) -> bytes:
    try:
        return read_own(kept)
    except PermissionError:
        raise DeploymentError(f"{kept} is not this user's alone: {_OWN_FOLDER}") from None


def _download(package: str, version: str, machine: str, folder: Path) -> Path:
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    command += ["--only-binary=:all:", "--dest", str(folder)]
    for platform_version in _PLATFORMS:
        command += ["--platform", f"manylinux_{platform_version}_{machine}"]
    done = subprocess.run([*command, f"{package}=={version}"], capture_output=True, text=True, check=False)
    wheels = sorted(folder.glob("*.whl"))
    if done.returncode or not wheels:
        lines = [line for line in done.stderr.splitlines() if line.startswith("ERROR")] or ["no wheel"]
        raise DeploymentError(
            f"{package} {version} for {machine} can't be fetched with pip ({one_line(lines[0])}): "
            "give a folder that holds libtvm_runtime.so and libtvm_ffi.so with --runtime"
        )
    return wheels[0]


def _copy_package(place: Path) -> None:
    """What runs a network, of this package: it needs neither the compiler nor ONNX."""
    package = Path(__file__).parents[2]
    place.mkdir(parents=True)
    for path in (*package.glob("*.py"), *(path for room in _ROOMS for path in (package / room).glob("*.py"))):
        copy = place / path.relative_to(package)
        copy.parent.mkdir(exist_ok=True)
        shutil.copyfile(path, copy)


def _compile_runner(staging: Path, linker: Linker) -> None:
    """Compile run_inference; it finds its libraries in lib/ beside itself."""
    include = _installed("tvm_ffi/include")
    source, library = staging / "src", staging / "lib"
    command = [linker.command, *linker.arguments, "-std=c++17", "-O2", *FLAGS, "-isystem", str(include)]
    command += [*(str(source / name) for name in COMPILED), "-o", str(staging / RUNNER)]
    # libtvm_runtime registers itself when loaded; no symbol of it is named, so the linker must not drop it.
    command += ["-s", "-Wl,--no-as-needed", *(str(path) for path in sorted(library.glob("*.so")))]
    command += ["-Wl,-rpath,$ORIGIN/lib"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DeploymentError(f"{Path(linker.command).name} can't compile {RUNNER}: {_first_error(done.stderr)}")


def _first_error(text: str) -> str:
    lines = [line for line in text.splitlines() if "error" in line] or text.splitlines() or ["no message"]
    return one_line(lines[0])
