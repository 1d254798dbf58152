"""The calls of Quantizer and Translator, as the public scripts of the SDK make them, for each release that is known."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

from drpai_qat.backends.drpai_sdk.installation import (
    OPTIMIZER_TOOL,
    QUANTIZER_MODULE,
    TRANSLATOR_TOOL,
    Installation,
    tool_environment,
)
from drpai_qat.backends.drpai_sdk.processes import ToolError, last_words, run_tool
from drpai_qat.core.errors import OptionError

MODEL, PRE_OPTIMIZE, QUANTIZED = "model.onnx", "pre_optimize_model.onnx", "model_quantization.onnx"
_PREPOST, _OPTIMIZED_AGAIN = "prepost.yaml", "_tmp_model.onnx"

RESULTS = (
    "addr_map.txt", "addr_map.yaml", "aimac_cmd.bin", "aimac_desc.bin", "aimac_param_cmd.bin", "aimac_param_desc.bin",
    "data_in_list.txt", "data_out_list.txt", "drp_config.mem", "drp_desc.bin", "drp_lib_info.txt", "drp_param.bin",
    "drp_param_info.txt", "drp_param.txt", "weight.bin",
)  # fmt: skip
"""What the Translator leaves, beside PREFIX_addr_map.txt; the board's driver loads them."""
ADDRESSES = "addr_map.txt"

_EXCLUDED = ("exclude_act_func_dir", "./exclude_operator")
_START_ADDRESS = "0x0"
"""The board's runtime adds where the driver's memory begins."""


@dataclass(frozen=True)
class Tools:
    """Quantizer and Translator at work for one compilation.

    Attributes:
        sdk: where they are.
        words: of -p.
        log: gets all that they say.
        timeout: seconds for each call.
    """

    sdk: Installation
    words: tuple[str, ...]
    log: Path
    timeout: float

    def quantize(self, folder: Path) -> Path:
        """Quantize folder/model.onnx with the tensors in folder/input and folder/output.

        Returns: the quantized model, in the folder.
        Raises: ToolError: a tool fails, hangs, or leaves no model.
        """
        result = folder / QUANTIZED
        if self.sdk.optimizer:
            (folder / MODEL).rename(folder / PRE_OPTIMIZE)
            self._optimize(folder, MODEL)
        command = ["-m", QUANTIZER_MODULE, "--calibrate_method", "MinMax", "--input_model_path", str(folder)]
        command += ["--output_model_path", str(result), "--tvm"]
        command += quantizer_words(self.words, self.sdk.quantizer_flags)
        name = "the DRP-AI Quantizer"
        status = self._run(name, command, self.sdk.quantizer.folder)
        if not result.is_file():
            raise self._failed(name, status, f"left no {QUANTIZED}")
        if status != 0:
            self._note(f"the Quantizer ended with status {status}; its output exists, so that the work goes on")
        return result

    def translate(self, quantized: Path, prefix: str, results: Path) -> None:
        """Translate a quantized model, and put the object files into the folder `results`.

        Raises: ToolError: the Translator fails, hangs, or leaves a file out.
        """
        folder = quantized.parent
        prepost = folder / _PREPOST
        prepost.write_text(prepost_yaml(onnx.load(folder / (PRE_OPTIMIZE if self.sdk.optimizer else MODEL))))
        if self.sdk.optimizer:
            self._optimize(folder, _OPTIMIZED_AGAIN, "--prepost", str(prepost))
        unique = f"{prefix}_{uuid.uuid4().hex[:8]}"  # two compilations share the Translator's output folder
        flags = self.sdk.translator_flags
        command = [str(TRANSLATOR_TOOL), unique, "--onnx", str(quantized), "--prepost", str(prepost)]
        command += ["--s_addr", _START_ADDRESS]
        command += ["--device", self.sdk.product] if "--device" in flags else []
        command += ["--sparse"] if self.sdk.sparse else []
        command += ["--disable_onnxsim"] if "--disable_onnxsim" in flags else []
        command += ["--check_operator", "False"] if "--check_operator" in flags else []
        output = self.sdk.translator.folder / "output" / unique
        name = "the DRP-AI Translator"
        try:
            status = self._run(name, command, self.sdk.translator.folder)
            wanted = {**{one: one for one in RESULTS}, f"{unique}_{ADDRESSES}": f"{prefix}_{ADDRESSES}"}
            absent = [one for one in wanted if not (output / one).is_file()]
            if absent:
                raise self._failed(name, status, f"left no {absent[0].replace(unique, 'PREFIX')}")
            for one, kept in wanted.items():
                shutil.move(output / one, results / kept)
        finally:
            shutil.rmtree(output, ignore_errors=True)
        if status != 0:
            self._note(f"the Translator ended with status {status}; all of its files exist, so that the work goes on")

    def _optimize(self, folder: Path, result: str, *more: str) -> None:
        tool = str(self.sdk.translator.folder / OPTIMIZER_TOOL)
        command = [tool, "--file_in", str(folder / PRE_OPTIMIZE), "--file_out", str(folder / result), *more]
        name = "the ONNX optimizer"
        status = self._run(name, command, folder)
        if status != 0 or not (folder / result).is_file():
            raise self._failed(name, status, f"left no {result}")

    def _run(self, name: str, arguments: Sequence[str], folder: Path) -> int:
        environment = tool_environment(os.environ, self.sdk.translator, self.sdk.quantizer)
        return run_tool(name, [self.sdk.python, *arguments], folder, environment, self.log, self.timeout)

    def _failed(self, name: str, status: int, how: str) -> ToolError:
        ended = f"was ended by signal {-status}" if status < 0 else f"ended with status {status}"
        return ToolError(f"{name} {ended} and {how}{last_words(self.log) or '; it said nothing'}")

    def _note(self, text: str) -> None:
        with self.log.open("a", encoding="utf-8") as file:
            file.write(f"\n{text}\n")


def split_words(text: str | None) -> tuple[str, ...]:
    """The words of -p, as a shell would split them.

    Raises: OptionError: a quotation has no end.
    """
    try:
        return tuple(shlex.split(text or ""))
    except ValueError as error:
        raise OptionError(f"-p {text!r}: {error}") from None


def quantizer_words(words: Sequence[str], flags: frozenset[str]) -> list[str]:
    """The user's words and ours at the end of the Quantizer's command.

    The Quantizer honours the last --opts only, so the user's and ours become one; releases without it take ours bare.
    A bare name in front (`az True`, as the guide writes it) becomes the flag of that name, if the tool lists one.

    Raises: OptionError: --opts is given to a release that does not know it.
    """
    others: list[str] = []
    options: list[str] = []
    collecting = False
    for word in words:
        if word.startswith("-") or not collecting:
            collecting = word == "--opts"
            if not collecting:
                others.append(word)
        else:
            options.append(word)
    if others and not others[0].startswith("-"):
        others[0] = next((dashed for dashed in (f"-{others[0]}", f"--{others[0]}") if dashed in flags), others[0])
    if "--opts" in flags:
        return [*others, "--opts", *options, *_EXCLUDED]
    if options:
        raise OptionError("-p: this release of the DRP-AI Quantizer has no --opts: drop it")
    return [*others, *_EXCLUDED]


def prepost_yaml(model: onnx.ModelProto) -> str:
    """The Translator's description of what goes into the network and comes out of it: no pre- or postprocessing."""
    constants = {tensor.name for tensor in model.graph.initializer}
    lines: list[str] = []
    for title, values in (("input_to_body", model.graph.input), ("output_from_body", model.graph.output)):
        lines.append(f"{title}:")
        for value in values:
            if value.name in constants:
                continue
            shape = [dim.dim_value for dim in value.type.tensor_type.shape.dim][1:]
            image = len(shape) == 3
            shown = [shape[1], shape[2], shape[0]] if image else shape
            lines += [
                "  -",
                f"    name: {json.dumps(value.name)}",
                f"    shape: {shown}",
                f'    order: "{"HWC" if image else "C"}"',
            ]
            lines += ['    type: "fp32"']
            if title == "input_to_body":
                lines.append('    format: "RGB"' if image and shape[0] == 3 else '    format: "Feature"')
    return "\n".join([*lines, "preprocess: []", "postprocess: []", ""])
