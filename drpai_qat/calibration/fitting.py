"""What --ptq best came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from drpai_qat.calibration.alternatives import Tried


@dataclass(frozen=True)
class Fitted:
    """Networks without and with fitted weights, beside the float one.

    Attributes:
        fast, best: as they were tried; None: there are too few frames to tell, and nothing was fitted.
        frames: how many decided, or how few there are.
    """

    frames: int
    fast: Tried | None = None
    best: Tried | None = None

    @property
    def is_kept(self) -> bool:
        """The fitted network is nearer."""
        return self.fast is not None and self.best is not None and self.best.is_nearer(self.fast)

    def to_json(self) -> dict[str, Any]:
        """As report.json has it: drops in percent, SQNR of the average frame; null where nothing was fitted."""
        told: dict[str, Any] = {"kept": "best" if self.is_kept else "fast", "frames": self.frames}
        for name, one in (("fast", self.fast), ("best", self.best)):
            told[f"drop_{name}"] = None if one is None else round(one.drop, 4)
            told[f"sqnr_db_{name}"] = None if one is None else round(one.sqnr_db, 2)
        return told
