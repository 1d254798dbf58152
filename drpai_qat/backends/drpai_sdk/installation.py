"""Where the SDK's tools lie on this machine, and which release they are of.

    ROOT/translator/DRP-AI_Translator/run.py                          -d, TRANSLATOR: ROOT/translator
    ROOT/translator/DRP-AI_Translator/onnx_optimizer/run_onnx_optimizer.py
    ROOT/translator/output/                                           the Translator writes there
    ROOT/drpAI_Quantizer/drpai_quantizer/cli_interface.py             -q, -c, QUANTIZER: ROOT/drpAI_Quantizer

The tools tell their release by the flags that their --help lists: `--disable_onnxsim`, `--check_operator` and
`--device` came and went, and a tool that is given one it does not know refuses all.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drpai_qat.backends.drpai_sdk.processes import ToolError, run_tool
from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.core.findings import Finding
from drpai_qat.core.text import one_line

BOARDS: Mapping[str, str] = {"V2H": "rzv2h", "V2N": "rzv2n"}
"""Values of PRODUCT, and the target for the board's CPU."""

TRANSLATOR_TOOL = Path("DRP-AI_Translator/run.py")
OPTIMIZER_TOOL = Path("DRP-AI_Translator/onnx_optimizer/run_onnx_optimizer.py")
QUANTIZER_TOOL = Path("drpai_quantizer/cli_interface.py")
QUANTIZER_MODULE = "drpai_quantizer.cli_interface"
_OUTPUT = "output"
_TRANSLATOR_FOLDER, _QUANTIZER_FOLDER = "translator", "drpAI_Quantizer"

_HELP_SECONDS = 120.0
"""The tools import TensorFlow or PyTorch before they print their help."""


@dataclass(frozen=True)
class Place:
    """A folder, and who named it: "-d", "TRANSLATOR", "beside the Quantizer"."""

    folder: Path
    origin: str

    def __str__(self) -> str:
        return f"{self.folder} ({self.origin})"


@dataclass(frozen=True)
class Installation:
    """The tools, ready to run.

    Attributes:
        translator, quantizer: their folders.
        product: "V2H" or "V2N".
        python: program that runs the tools: python3 on PATH.
        translator_flags, quantizer_flags: what their --help lists.
        optimizer, sparse: OPTIMIZER_ENABLE and SPARSE_ENABLE; only "false" turns them off.
        releases: what each tool's --help says of its version and its flags.
    """

    translator: Place
    quantizer: Place
    product: str
    python: str
    translator_flags: frozenset[str]
    quantizer_flags: frozenset[str]
    optimizer: bool
    sparse: bool
    releases: Mapping[str, str]


class Examination:
    """Looks for the tools; `findings` is the check list, `installation` what was found if nothing is missing."""

    def __init__(self, options: SdkOptions, environment: Mapping[str, str] = os.environ) -> None:
        """Look for everything.

        Args:
            options: -d and -q, which come before the variables; without both of them nothing is needed.
            environment: PRODUCT, TRANSLATOR, QUANTIZER, OPTIMIZER_ENABLE, SPARSE_ENABLE, PATH.
        """
        self._options = options
        self._environment = environment
        self._python = shutil.which("python3", path=environment.get("PATH"))
        self._flags: dict[str, frozenset[str]] = {}
        self.translator, self.quantizer = _places(options, environment)
        self.findings: tuple[Finding, ...] = tuple(self._examine())

    @property
    def installation(self) -> Installation | None:
        """The tools; None where something is missing."""
        if any(one.todo for one in self.findings) or not (self.translator and self.quantizer and self._python):
            return None
        return Installation(
            self.translator, self.quantizer, self._environment["PRODUCT"], self._python,
            self._flags["DRP-AI Translator"], self._flags["DRP-AI Quantizer"],
            switched_on("OPTIMIZER_ENABLE", self._environment), switched_on("SPARSE_ENABLE", self._environment),
            {one.what: one.found for one in self.findings if one.what in self._flags},
        )  # fmt: skip

    def _examine(self) -> Iterator[Finding]:
        needed = self._options.uses_tools
        if not needed and self.translator is None and self.quantizer is None:
            yield Finding("DRP-AI SDK", "not named", "give -d and -q to compile for the accelerator", needed=False)
            return
        product = self._environment.get("PRODUCT", "")
        todo = "" if product in BOARDS else f"export PRODUCT={' or PRODUCT='.join(BOARDS)}"
        shown = product if product in BOARDS else f"{one_line(product)} is unknown" if product else "not set"
        yield Finding("PRODUCT", shown, todo, needed)
        yield Finding(
            "python3 for the tools", self._python or "none on PATH", "" if self._python else "install it", needed
        )
        yield from self._translator(needed)
        yield from self._quantizer(needed)
        for name in ("OPTIMIZER_ENABLE", "SPARSE_ENABLE"):
            yield Finding(name, "on" if switched_on(name, self._environment) else "off (false)", needed=needed)

    def _translator(self, needed: bool) -> Iterator[Finding]:
        what, variable = "DRP-AI Translator", "TRANSLATOR"
        place = self.translator
        if place is None:
            yield Finding(f"{what}'s folder", "not named", f"give -d DIR, or set {variable}", needed)
            return
        folder = place.folder
        if not (folder / TRANSLATOR_TOOL).is_file():
            yield Finding(f"{what}'s folder", *_not_the_tool(place, TRANSLATOR_TOOL, _TRANSLATOR_FOLDER), needed)
            return
        yield Finding(f"{what}'s folder", str(place), needed=needed)
        output = folder / _OUTPUT
        writable = os.access(output if output.is_dir() else folder, os.W_OK | os.X_OK)
        yield Finding(
            f"{what}'s output", str(output) if writable else f"{output} can't be written",
            "" if writable else "make it writable for you: the Translator writes there", needed,
        )  # fmt: skip
        if switched_on("OPTIMIZER_ENABLE", self._environment):
            there = (folder / OPTIMIZER_TOOL).is_file()
            yield Finding(
                "ONNX optimizer", str(folder / OPTIMIZER_TOOL) if there else f"no {OPTIMIZER_TOOL} in {folder}",
                "" if there else "install the whole Translator, or export OPTIMIZER_ENABLE=false", needed,
            )  # fmt: skip
        yield self._asked(what, [str(TRANSLATOR_TOOL)], folder, ("--onnx", "--prepost", "--s_addr"), needed)

    def _quantizer(self, needed: bool) -> Iterator[Finding]:
        what, variable = "DRP-AI Quantizer", "QUANTIZER"
        place = self.quantizer
        if place is None:
            yield Finding(f"{what}'s folder", "not named", f"give -q DIR, or set {variable}", needed)
            return
        if not (place.folder / QUANTIZER_TOOL).is_file():
            yield Finding(f"{what}'s folder", *_not_the_tool(place, QUANTIZER_TOOL, _QUANTIZER_FOLDER), needed)
            return
        yield Finding(f"{what}'s folder", str(place), needed=needed)
        wanted = ("--calibrate_method", "--input_model_path", "--output_model_path", "--tvm")
        yield self._asked(what, ["-m", QUANTIZER_MODULE], place.folder, wanted, needed)

    def _asked(self, what: str, arguments: Sequence[str], folder: Path, wanted: Sequence[str], needed: bool) -> Finding:
        """Ask a tool for its --help once: its version, and whether it knows the flags that every release has."""
        if self._python is None:
            return Finding(what, "not asked: no python3", "install it", needed)
        environment = tool_environment(self._environment, self.translator, self.quantizer)
        with tempfile.TemporaryDirectory() as scratch:
            log = Path(scratch) / "help"
            try:
                status = run_tool(
                    f"{what} --help", [self._python, *arguments, "--help"], folder, environment, log, _HELP_SECONDS
                )
            except ToolError as error:
                return Finding(what, one_line(error, 600), "run it by hand: it does not start here", needed)
            text = log.read_text(errors="replace").split("\n", 2)[-1]
        flags = frozenset(re.findall(r"(?<![\w-])--?[A-Za-z][\w-]*", text))
        absent = [flag for flag in wanted if flag not in flags]
        if status != 0 or absent:
            last = one_line((text.strip().splitlines() or ["nothing"])[-1])
            how = f"--help ends with status {status}" if status else f"--help lists no {', '.join(absent)}"
            return Finding(what, f"{how}; it says last: {last}", "see docs/sdk.md: releases that are known", needed)
        self._flags[what] = flags
        version = re.search(r"(?i)\bv(?:er(?:sion)?)?\.?\s*(\d+(?:\.\d+)+)", text)
        known = [flag for flag in ("--device", "--disable_onnxsim", "--check_operator", "--opts") if flag in flags]
        release = f"version {version[1]}" if version else "version not told"
        return Finding(what, f"{release}; takes {', '.join(known) or 'no optional flag'}", needed=needed)


def switched_on(name: str, environment: Mapping[str, str]) -> bool:
    """A switch of the SDK: on unless it is "false"."""
    return environment.get(name, "") != "false"


def tool_environment(
    environment: Mapping[str, str], translator: Place | None, quantizer: Place | None
) -> dict[str, str]:
    """The variables that the tools run with: ours, the folders in use, the Quantizer's on PYTHONPATH."""
    made = dict(environment)
    if translator is not None:
        made["TRANSLATOR"] = str(translator.folder)
    if quantizer is not None:
        paths = [str(quantizer.folder), *filter(None, [environment.get("PYTHONPATH")])]
        made |= {"QUANTIZER": str(quantizer.folder), "PYTHONPATH": os.pathsep.join(paths)}
    return made


def _places(options: SdkOptions, environment: Mapping[str, str]) -> tuple[Place | None, Place | None]:
    """Folders of Translator and Quantizer: the flag, the variable, else the sibling of the other one."""
    translator = _named(options.drp_compiler_dir, "-d", "TRANSLATOR", environment)
    quantizer = _named(options.quantization_tool, "-q", "QUANTIZER", environment)
    if translator is None and quantizer is not None:
        translator = _sibling(quantizer, _TRANSLATOR_FOLDER, TRANSLATOR_TOOL, "beside the Quantizer")
    elif quantizer is None and translator is not None:
        quantizer = _sibling(translator, _QUANTIZER_FOLDER, QUANTIZER_TOOL, "beside the Translator")
    return translator, quantizer


def _named(given: str | None, flag: str, variable: str, environment: Mapping[str, str]) -> Place | None:
    if given is not None:
        return Place(Path(given).expanduser().absolute(), flag)
    value = environment.get(variable)
    return Place(Path(value).absolute(), variable) if value else None


def _sibling(place: Place, name: str, tool: Path, origin: str) -> Place | None:
    folder = place.folder.parent / name
    return Place(folder, origin) if (folder / tool).is_file() else None


def _not_the_tool(place: Place, tool: Path, folder_name: str) -> tuple[str, str]:
    """What a folder is instead of a tool's, and what to do."""
    folder = place.folder
    if not folder.is_dir():
        return f"{place}: no such folder", f"give the folder that holds {tool}"
    if (folder / folder_name / tool).is_file():
        return f"{place} is the folder above it", f"give {folder / folder_name}"
    others = sorted(folder.glob("run_DRP-AI_translator_*.sh"))
    if others:
        product = others[0].stem.rsplit("_", 1)[-1]
        return f"{place} is the Translator for {one_line(product)}", f"install the one for {' or '.join(BOARDS)} (i8)"
    return f"{place} holds no {tool}", "give the SDK's own folder"
