"""Options that concern the sample inputs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drpai_qat.core.option_groups import Group, option


@dataclass(frozen=True, kw_only=True)
class SampleOptions(Group):
    """Inputs of the sample run and of the check."""

    title: ClassVar[str] = "Samples"

    samples: int = option(
        "--check_samples",
        metavar="N",
        kind=int,
        least=1,
        default=4,
        help="Number of random samples that the check runs.",
    )
    seed: int = option("--seed", metavar="N", kind=int, least=0, default=0, help="Seed of the random samples.")
