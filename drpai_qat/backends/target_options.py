"""Options that concern the target, whichever backend serves it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drpai_qat.core.io_types import IO_TYPES
from drpai_qat.core.option_groups import Group, option


@dataclass(frozen=True, kw_only=True)
class TargetOptions(Group):
    """The machine, and what compiles for it."""

    title: ClassVar[str] = "Target"

    target: str = option(
        "--target", metavar="NAME", default="host",
        help="Machine to compile for: host, rzv2h, rzv2n, aarch64, aarch64-dotprod, avx2 ...",
    )  # fmt: skip
    mcpu: str | None = option(
        "--mcpu", metavar="CPU", default_text="any that the target covers",
        help="CPU to compile for, as LLVM names it: znver3, cortex-a55, native ... It gets the widest kernels it has.",
    )  # fmt: skip
    toolchain_dir: str | Path | None = option(
        "-t", "--toolchain_dir", metavar="DIR", default_text="$SDK", help="Cross compilation SDK for an Arm target."
    )
    cross_compiler: str | None = option(
        "--cross_compiler", metavar="CC", default_text="aarch64-linux-gnu-gcc",
        help="Compiler that links for an Arm target, instead of the SDK's or Debian's.",
    )  # fmt: skip
    io: str | None = option(
        "--io", choices=IO_TYPES, default_text="float32; int8 for tflite",
        help="Type of the network's inputs and outputs: float32, that of the model file (source), or int8 on the grids "
        "that training gave them.",
    )  # fmt: skip
    sums: str = option(
        "--sums", choices=("exact", "int16"), default="exact",
        help="How residual sums and other tensors without a trained range are stored: exact, or in 16 bits as earlier "
        "releases did, which rounds and is sometimes faster.",
    )  # fmt: skip
    cache: bool = option(
        "--no_cache", kind=bool, default=True,
        help="Compile every kernel anew, and keep none in ~/.cache/drpai-qat.",
    )  # fmt: skip
