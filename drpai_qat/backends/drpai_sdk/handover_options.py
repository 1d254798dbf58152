"""Options of `drpai-qat handover`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drpai_qat.core.option_groups import Group, option
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.source.model_options import ModelOptions


@dataclass(frozen=True, kw_only=True)
class HandoverOutput(Group):
    """Where the float model goes."""

    title: ClassVar[str] = "Output"

    output_dir: str | Path | None = option(
        "-o", "--output_dir", metavar="DIR", default_text="out/<model name>_handover",
        help="Folder to write, as a whole or not at all; new or empty.",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ReturnOptions(Group):
    """The way back."""

    title: ClassVar[str] = "What came back"

    returned: str | Path | None = option(
        "--returned", metavar="FILE",
        help="Write nothing: hold the quantized model FILE, made of an earlier handover, against what was trained.",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class HandoverOptions(ModelOptions, HandoverOutput, FrameOptions, SampleOptions, ReturnOptions):
    """What a handover depends on."""

    @property
    def folder(self) -> Path:
        """The folder to write."""
        named = Path("out") / f"{Path(self.model).stem or 'model'}_handover"
        return named if self.output_dir is None else Path(self.output_dir)
