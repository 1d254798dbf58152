"""What the check must reach."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Thresholds:
    """What the deployed network must reach against the source file for exit status 0.

    Attributes:
        min_sqnr_db: signal to error ratio of every output, in dB.
        max_lsb: largest error of any output value, in steps of that output's scale; None: no limit.
        min_cosine: smallest cosine similarity of an output over all samples; None: no limit.
        min_top1: share of samples whose largest class agrees (classification outputs; ties within one step agree).
    """

    min_sqnr_db: float = 30.0
    max_lsb: float | None = None
    min_cosine: float | None = None
    min_top1: float = 1.0
