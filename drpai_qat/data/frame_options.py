"""Options that concern the user's data: images and arrays to calibrate with, and how an image becomes an input."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drpai_qat.core.errors import OptionError
from drpai_qat.core.option_groups import Group, option

PRESETS = ("imagenet", "yolo", "tf", "caffe", "none")
"""Names that --preprocess takes; preprocessing.py holds what they mean."""


@dataclass(frozen=True, kw_only=True)
class FrameOptions(Group):
    """Sets of network inputs that are not for the check alone.

    In Python, `calibration` may also be the function itself, and `preprocess` a mapping of what a file would hold.
    """

    title: ClassVar[str] = "Calibration data"

    images: str | Path | None = option(
        "--images", metavar="DIR",
        help="Images that the network is calibrated with, in folders below it too; the check runs on the first of them "
        "if there are no --samples.",
    )  # fmt: skip
    calibration: str | Path | Callable[[], Any] | None = option(
        "--calibration", metavar="FILE|DIR|MODULE:FUNCTION",
        help="The same for what is no image: a .npz file of arrays named as the network inputs, a folder of .npy "
        "files, or a function that yields samples, as TFLite's representative_dataset does.",
    )  # fmt: skip
    preprocess: str | Path | Mapping[str, Any] | None = option(
        "--preprocess", metavar="|".join((*PRESETS, "FILE")), default_text="imagenet with --images",
        help="How an image becomes the network's input; FILE: a YAML file with resize, color, scale, mean, std ... "
        "Recorded in deploy.json.",
    )  # fmt: skip
    num_frame: int | None = option(
        "-n", "--num_frame", metavar="N", kind=int, least=1, default_text="all that are given, or 8 random ones",
        help="Number of frames to calibrate with, spread over the images that are there.",
    )  # fmt: skip

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.images is not None and self.calibration is not None:
            raise OptionError("--images and --calibration: give one of them")
        check_preprocess(self.preprocess)


def check_preprocess(given: object) -> None:
    """Refuse what can be no preprocessing.

    Raises: OptionError: neither a preset, nor a file that is there, nor a mapping.
    """
    if not isinstance(given, str | os.PathLike | Mapping | None):
        kind = type(given).__name__
        raise OptionError(f"preprocess is a {kind}: give a name, a path, or a mapping of what a file would hold")
    if isinstance(given, str | os.PathLike) and str(given) not in PRESETS and not Path(given).is_file():
        raise OptionError(f"--preprocess {given}: no such file, and none of {', '.join(PRESETS)}")
