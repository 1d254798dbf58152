"""Options that concern how ranges are found for what training left without."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drpai_qat.calibration.recipe import EFFORTS, METHODS, Recipe
from drpai_qat.calibration.words import read_words
from drpai_qat.core.option_groups import Group, option
from drpai_qat.core.workers import Sharing


@dataclass(frozen=True, kw_only=True)
class CalibrationOptions(Group):
    """How a float model is quantized after training, and how the gaps of a trained one are filled."""

    title: ClassVar[str] = "Calibration"

    calibrate_method: str | None = option(
        "--calibrate_method", choices=METHODS, any_case=True, default_text="mse",
        help="How a range is read off the data: least squared error, smallest and largest value, their moving average, "
        "a share of the values, the nearest histogram, or least error of the layers that read it.",
    )  # fmt: skip

    ptq: str | None = option(
        "--ptq", choices=EFFORTS, any_case=True, default_text="fast",
        help="For models without QAT: best also fits each layer's weights to what the float network computes, in "
        "minutes, and keeps the result if it is nearer on frames that did not fit it.",
    )  # fmt: skip

    max_drop: float | None = option(
        "--max_drop", metavar="X", kind=float, least=0, default_text="8 bits in all",
        help="For models without QAT: the layers that lose most get 16-bit activations, then 16-bit weights or float, "
        "until the outputs' RMS error on the data is at most X percent of their RMS value (10: 20 dB, 1: 40 dB).",
    )  # fmt: skip

    workers: int = option(
        "--workers", metavar="N", kind=int, least=1, default=1,
        help="Processes that run the calibration data; the result is the same.",
    )  # fmt: skip
    scheduler: str | None = option(
        "--scheduler", metavar="ADDRESS",
        help="Dask scheduler whose workers run the calibration data; model and frames are sent to them.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        _ = self.sharing  # raises if both are given

    @property
    def sharing(self) -> Sharing:
        """Who runs the calibration data."""
        return Sharing(self.workers, self.scheduler)

    def recipe(self, words: str | None) -> Recipe:
        """What to do.

        Args:
            words: those of -p, in the form that the DRP-AI Quantizer takes; options of our own come before them.
        Raises: OptionError: a word is unknown, or its value can't be read.
        """
        asked = read_words(words or "")
        if self.calibrate_method is not None:
            asked["method"] = self.calibrate_method
        return Recipe(**asked, fits=self.ptq == "best", max_drop=self.max_drop)
