"""Options that concern the sample inputs."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, option

if TYPE_CHECKING:  # --help loads no numpy
    from numpy.typing import ArrayLike

RANDOM = 4
"""Samples where neither a number nor data is given."""


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Group):
    """Inputs of the sample run and of the check.

    In Python, `samples` may also hold the arrays themselves by name of the network input, or be a number: that of
    random samples, as `check_samples`.
    """

    title: ClassVar[str] = "Samples"

    samples: str | Path | Mapping[str, ArrayLike] | int | None = option(
        "--samples", metavar="FILE|DIR", default_text="random",
        help="Real inputs for the sample run and the check: a .npz file of arrays named as the network inputs, or a "
        "folder with one .npy file for each; samples lie along the first axis.",
    )  # fmt: skip
    check_samples: int | None = option(
        "--check_samples", metavar="N", kind=int, least=1, default_text=f"{RANDOM}, or all of --samples",
        help="Number of samples that the check runs; of --samples the first ones.",
    )  # fmt: skip
    seed: int = option("--seed", metavar="N", kind=int, least=0, default=0, help="Seed of the random samples.")

    def __post_init__(self) -> None:
        if isinstance(self.samples, Integral):
            if self.check_samples is not None:
                raise OptionError(f"samples={self.samples} and check_samples={self.check_samples}: give one of them")
            object.__setattr__(self, "check_samples", int(self.samples))
            object.__setattr__(self, "samples", None)
        elif not isinstance(self.samples, str | os.PathLike | Mapping | None):
            kind = type(self.samples).__name__
            raise OptionError(f"samples is a {kind}: give a path, arrays by name of the network input, or a number")
        super().__post_init__()

    @property
    def given(self) -> str | Path | Mapping[str, ArrayLike] | None:
        """The user's own samples; None: random ones."""
        return None if isinstance(self.samples, int) else self.samples
