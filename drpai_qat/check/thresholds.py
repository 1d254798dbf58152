"""What the check compares, and what it must reach."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drpai_qat.core.option_groups import Group, option, subgroup


@dataclass(frozen=True)
class Thresholds(Group):
    """What the deployed network must reach against the source file for exit status 0.

    Attributes:
        min_sqnr_db: signal to error ratio of every output, in dB.
        max_lsb: largest error of any output value, in steps of that output's scale; None: no limit.
        min_cosine: smallest cosine similarity of an output over all samples; None: no limit.
        min_top1: share of samples whose largest class agrees (classification outputs; ties within one step agree).
    """

    min_sqnr_db: float = option(
        "--min_sqnr",
        metavar="DB",
        kind=float,
        default=30.0,
        help="Lowest signal to error ratio that an output may have.",
    )
    max_lsb: float | None = option(
        "--max_lsb", metavar="N", kind=float, least=0, default_text="no limit",
        help="Largest error of an output value, in steps of that output's scale.",
    )  # fmt: skip
    min_cosine: float | None = option(
        "--min_cosine", metavar="X", kind=float, least=-1, most=1, default_text="no limit",
        help="Lowest cosine similarity of an output.",
    )  # fmt: skip
    min_top1: float = option(
        "--min_top1", metavar="X", kind=float, least=0, most=1, default=1.0,
        help="Lowest share of samples with the same top class; ties within one step count as the same.",
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class CheckOptions(Group):
    """How the compiled network is compared with the source."""

    title: ClassVar[str] = "Check"

    check: str = option(
        "--check", choices=("outputs", "layers", "none"), default="outputs",
        help="Compare the outputs with onnxruntime, certify every layer too, or nothing.",
    )  # fmt: skip
    thresholds: Thresholds = subgroup(Thresholds)
    min_int8: float | None = option(
        "--min_int8", metavar="X", kind=float, least=0, most=1, default_text="no limit",
        help="Lowest share of multiply-accumulates in integers; with fewer, the exit status is 3.",
    )  # fmt: skip
