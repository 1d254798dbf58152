"""Which compiler links for the board."""

from __future__ import annotations

import platform
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from drpai_qat.backends.cpu.toolchain import find_linker
from drpai_qat.core.errors import OptionError

pytestmark = pytest.mark.skipif(platform.machine() != "x86_64", reason="cross compilation starts on x86-64")


def program(path: Path) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(0o755)
    return path


def sdk(folder: Path, sysroot: str = "aarch64-poky-linux") -> Path:
    """A folder laid out like the cross compilation SDK."""
    program(folder / "sysroots/x86_64-pokysdk-linux/usr/bin/aarch64-poky-linux/aarch64-poky-linux-g++")
    (folder / "sysroots" / sysroot).mkdir()
    return folder


def test_this_machine_needs_none() -> None:
    assert find_linker("x86_64", environment={}) is None


def test_debians_compiler_is_found_on_path(tmp_path: Path) -> None:
    compiler = program(tmp_path / "aarch64-linux-gnu-gcc")
    linker = find_linker("aarch64", environment={"PATH": str(tmp_path)})
    assert linker is not None
    assert (linker.command, linker.origin) == (str(compiler), "PATH")


@pytest.mark.parametrize("sysroot", ["aarch64-poky-linux", "cortexa55-poky-linux"])
def test_sdk_by_option_and_by_variable(tmp_path: Path, sysroot: str) -> None:
    folder = sdk(tmp_path / "sdk", sysroot)
    for linker in (find_linker("aarch64", str(folder)), find_linker("aarch64", environment={"SDK": str(folder)})):
        assert linker is not None
        assert linker.command.endswith("aarch64-poky-linux-g++")
        assert linker.arguments == (f"--sysroot={folder}/sysroots/{sysroot}",)


def test_options_come_before_the_environment(tmp_path: Path) -> None:
    first, second = sdk(tmp_path / "first"), sdk(tmp_path / "second")
    linker = find_linker("aarch64", str(first), environment={"SDK": str(second)})
    assert linker is not None
    assert linker.origin == "-t"
    assert linker.command.startswith(str(first))
    named = find_linker("aarch64", str(first), "/bin/sh --sysroot=/opt/board", {"SDK": str(second)})
    assert named is not None
    assert (named.command, named.arguments) == ("/bin/sh", ("--sysroot=/opt/board",))


@pytest.mark.parametrize(
    ("arguments", "environment", "says"),
    [
        (("aarch64",), {"PATH": "/nowhere"}, "apt-get install gcc-aarch64-linux-gnu"),
        (("aarch64", "/nowhere"), {}, "no sysroots/x86_64-pokysdk-linux"),
        (("aarch64",), {"SDK": "/nowhere"}, "unset SDK"),
        (("aarch64", None, "no-such-compiler"), {}, "no such program"),
        (("aarch64", None, "'"), {}, "not a command"),
        (("x86_64", "/opt/sdk"), {}, "--target rzv2h"),
        (("x86_64", None, "gcc"), {}, "--target rzv2h"),
    ],
)
def test_refusals_say_what_to_do(arguments: tuple[Any, ...], environment: dict[str, str], says: str) -> None:
    find: Callable[..., object] = find_linker
    with pytest.raises(OptionError, match=says):
        find(*arguments, environment=environment)


def test_sdk_without_sysroot(tmp_path: Path) -> None:
    folder = sdk(tmp_path)
    (folder / "sysroots" / "aarch64-poky-linux").rmdir()
    with pytest.raises(OptionError, match="no sysroots/aarch64-poky-linux or cortexa55-poky-linux"):
        find_linker("aarch64", str(folder))
