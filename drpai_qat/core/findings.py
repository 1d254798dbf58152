"""What a machine has of what a compilation needs: one line of the check list that `drpai-qat doctor` prints."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from drpai_qat.core.errors import OptionError


@dataclass(frozen=True)
class Finding:
    """One line.

    Attributes:
        what: is looked for.
        found: what is there, or why it does not do.
        todo: what to do about it; empty where all is well.
        needed: the options at hand cannot be served without it.
    """

    what: str
    found: str
    todo: str = ""
    needed: bool = True

    @property
    def missing(self) -> bool:
        """It is needed, and not there."""
        return self.needed and bool(self.todo)


def require(findings: Iterable[Finding]) -> None:
    """Make sure that nothing is missing.

    Raises: OptionError: something is; all of it on one line.
    """
    missing = [one for one in findings if one.missing]
    if missing:
        raise OptionError("; ".join(f"{one.what}: {one.found}: {one.todo}" for one in missing))
