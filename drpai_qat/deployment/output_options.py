"""Options that concern the output folder."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drpai_qat.core.option_groups import Group, option


@dataclass(frozen=True, kw_only=True)
class OutputOptions(Group):
    """Where the network goes."""

    title: ClassVar[str] = "Output"

    output_dir: str | Path | None = option(
        "-o", "--output_dir", metavar="DIR", default_text="out/<model name>",
        help="Folder to write, as a whole or not at all; an earlier output is replaced.",
    )  # fmt: skip
