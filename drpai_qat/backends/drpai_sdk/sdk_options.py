"""Options of the SDK's own script: known, and refused until they are served, so that none is ignored."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, option

_LATER = "(a later release)."


@dataclass(frozen=True, kw_only=True)
class SdkOptions(Group):
    """The DRP-AI SDK's tools, and calibration data for them; None: not given."""

    title: ClassVar[str] = "DRP-AI SDK"

    drp_compiler_dir: str | None = option(
        "-d", "--drp_compiler_dir", metavar="DIR", help=f"Folder of the DRP-AI Translator {_LATER}"
    )
    quantization_tool: str | None = option(
        "-q", "-c", "--quantization_tool", metavar="DIR", help=f"Folder of the DRP-AI Quantizer {_LATER}"
    )
    quantization_option: str | None = option(
        "-p", "--quantization_option", metavar="TEXT", help=f"Options for the DRP-AI Quantizer {_LATER}"
    )
    drp_compiler_version: str | None = option(
        "-v", "--drp_compiler_version", choices=("091", "100"), help=f"Operator set of the DRP-AI Translator {_LATER}"
    )
    record_dir: str | None = option(
        "-r", "--record_dir", metavar="DIR", help=f"Folder with recorded calibration data {_LATER}"
    )
    num_frame: int | None = option(
        "-n", "--num_frame", metavar="N", kind=int, least=1, help=f"Number of calibration frames {_LATER}"
    )
    images: str | None = option("--images", metavar="DIR", help=f"Folder with calibration images {_LATER}")
    cpu_data_type: str | None = option(
        "-f", "--cpu_data_type", choices=("float16", "float32"), default_text="float32",
        help="Type in which layers without integers are computed (float16: a later release).",
    )  # fmt: skip
    level: int | None = option(
        "--level", metavar="N", kind=int, least=0, most=1, default_text="1",
        help="Optimization level; 0 exists in the DRP-AI SDK only.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        tools = {
            "-d": self.drp_compiler_dir,
            "-q/-c": self.quantization_tool,
            "-p": self.quantization_option,
            "-v": self.drp_compiler_version,
        }
        given = [name for name, value in tools.items() if value is not None]
        if given:
            raise OptionError(
                f"{', '.join(given)}: the DRP-AI SDK's tools are served by a later release; without "
                f"{'it' if len(given) == 1 else 'them'} the built-in quantizer and compiler do the whole job"
            )
        calibration = {"-r": self.record_dir, "-n": self.num_frame, "--images": self.images}
        given = [name for name, value in calibration.items() if value is not None]
        if given:
            raise OptionError(
                f"{', '.join(given)}: calibration is served by a later release; drop "
                f"{'it' if len(given) == 1 else 'them'}: a QAT model brings its trained ranges"
            )
        if self.cpu_data_type == "float16":
            raise OptionError("-f float16 is served by a later release; drop it: float layers run in float32")
        if self.level == 0:
            raise OptionError(
                "--level 0 turns off an optimization of the DRP-AI SDK; the built-in compiler has level 1 only: drop it"
            )
