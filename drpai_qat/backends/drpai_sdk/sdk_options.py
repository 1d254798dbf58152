"""Options of the SDK's own script; those that change nothing without its tools are accepted, and a line says so."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

from drpai_qat.core.option_groups import Group, option

OPERATOR_SETS = ("091", "100")
_DEFAULT_SET = "100"


@dataclass(frozen=True, kw_only=True)
class SdkOptions(Group):
    """The DRP-AI SDK's tools, and what they are told; None: not given."""

    title: ClassVar[str] = "DRP-AI SDK"

    drp_compiler_dir: str | None = option(
        "-d", "--drp_compiler_dir", metavar="DIR", default_text="$TRANSLATOR, if -q is given",
        help="Folder of the DRP-AI Translator; with it or with -q, the SDK's tools compile for the accelerator.",
    )  # fmt: skip
    quantization_tool: str | None = option(
        "-q", "-c", "--quantization_tool", metavar="DIR", default_text="$QUANTIZER, if -d is given",
        help="Folder of the DRP-AI Quantizer.",
    )  # fmt: skip
    quantization_option: str | None = option(
        "-p", "--quantization_option", metavar="TEXT",
        help='Words added to the DRP-AI Quantizer\'s command: "az True", "--opts percentile_value 99.99" ...; '
        "without -q, the built-in quantizer takes them.",
    )  # fmt: skip
    drp_compiler_version: str | None = option(
        "-v", "--drp_compiler_version", choices=OPERATOR_SETS, default_text=_DEFAULT_SET,
        help="Set of operators that the accelerator takes.",
    )  # fmt: skip
    offload_ops: str | None = option(
        "--offload_ops", metavar="FILE", default_text="docs/sdk.md",
        help="Operators that the accelerator takes, one ONNX name on each line, instead of those of -v.",
    )  # fmt: skip
    record_dir: str | None = option(
        "-r", "--record_dir", metavar="DIR",
        help="Folder that keeps what calibration found: ranges, which the next run on the same model and data takes "
        "from there; with the SDK's tools its recorded data (new or empty).",
    )  # fmt: skip
    cpu_data_type: str | None = option(
        "-f", "--cpu_data_type", choices=("float16", "float32"), default_text="float32",
        help="Type in which layers without integers are computed; float16 is computed in float32, which is finer.",
    )  # fmt: skip
    level: int | None = option(
        "--level", metavar="N", kind=int, least=0, most=1, default_text="1",
        help="Optimization level of the SDK; 0 leaves Concat to the CPU.",
    )  # fmt: skip
    tool_timeout: int = option(
        "--tool_timeout", metavar="S", kind=int, least=1, default=3600,
        help="Seconds after which a tool of the SDK that has not finished is ended.",
    )  # fmt: skip

    @property
    def uses_tools(self) -> bool:
        """The SDK's tools compile, not the built-in compiler alone; their variables alone do not decide that."""
        return self.drp_compiler_dir is not None or self.quantization_tool is not None

    @property
    def operator_set(self) -> str:
        """-v, or the set that the tools take without it."""
        return self.drp_compiler_version or _DEFAULT_SET

    def remarks(self) -> Iterator[str]:
        """A line on each option that is given and changes nothing."""
        if self.cpu_data_type == "float16":
            yield "-f float16: layers without integers run in float32, which is finer"
        if self.uses_tools:
            return
        if self.drp_compiler_version is not None:
            yield f"-v {self.drp_compiler_version}: no effect without -d or -q: the built-in compiler takes all"
        if self.offload_ops is not None:
            yield "--offload_ops: no effect without -d or -q"
        if self.level == 0:
            yield "--level 0: no effect without -d or -q; the built-in compiler has one level"
