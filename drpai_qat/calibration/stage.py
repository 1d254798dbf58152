"""The pipeline's stage between folding and compiling: what has no range is given one, if there is data for it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import onnx
from numpy.typing import NDArray

from drpai_qat.calibration.calibrate import Calibrated, fill_gaps, quantize_float
from drpai_qat.calibration.kinds import kinds_of_tensors
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.calibration.record import Record
from drpai_qat.core.errors import OptionError
from drpai_qat.core.progress import Stages
from drpai_qat.core.workers import ALONE, Sharing
from drpai_qat.data.frames import RANDOM_FRAMES, Frames, RandomFrames
from drpai_qat.data.given_samples import GivenSamples
from drpai_qat.data.samples import input_infos
from preprocess import Note, Preprocessed

_NAMED = 3
_Data: TypeAlias = Iterable[Mapping[str, NDArray]]


@dataclass(frozen=True)
class Quantized:
    """The canonical model, and how data had a part in it.

    Attributes:
        model: canonical QDQ; the folded model itself where nothing was calibrated.
        notes: what the user should know.
        calibration: as report.json tells it; None where nothing was calibrated.
    """

    model: onnx.ModelProto
    notes: tuple[Note, ...] = ()
    calibration: Mapping[str, Any] | None = None


def quantize(
    folded: Preprocessed,
    frames: Frames | None,
    samples: GivenSamples | None,
    recipe: Recipe,
    num_frame: int | None,
    progress: Stages,
    *,
    everywhere: bool = False,
    record_dir: str | None = None,
    sharing: Sharing = ALONE,
) -> Quantized:
    """Quantize a float model, or fill the gaps of a trained one.

    Args:
        folded: what preprocess made.
        frames: calibration data; None: a trained model stays as it is.
        samples: those of the check, which calibrate a float model, or one that was quantized dynamically, for want of
            other data; None: random frames calibrate a float model.
        num_frame: of random frames.
        everywhere: the target wants a grid on each result.
        record_dir: where ranges are kept for the next time.
        sharing: who runs the data.
    Raises:
        OptionError: the data can't be used, --max-drop or --ptq is for another model, or --max-drop can't be met.
        WorkerError: who shares the work ends, again and again.
    """
    if not folded.is_float:
        if recipe.fits:
            raise OptionError("--ptq best: for float models, and this file's layers are quantized already: drop it")
        if recipe.max_drop is not None:
            raise OptionError("--max-drop: for float models, and this file's layers are quantized already: drop it")
        if frames is None and not (folded.dynamic and samples is not None):
            if record_dir is not None:
                raise OptionError("-r: nothing to record without --images or --calibration: drop it")
            return Quantized(folded.model)
        data, name = _given(folded, frames, samples)
        record = _record(record_dir, name)
        filled = fill_gaps(folded.model, data, recipe, progress, dynamic=folded.dynamic, record=record, sharing=sharing)
        return _told(filled, "filled", recipe, name, record_dir) if filled.tensors else Quantized(folded.model)
    if frames is not None or samples is not None:
        data, name = _given(folded, frames, samples)
    else:
        data, name = RandomFrames(folded.model, num_frame or RANDOM_FRAMES), ""
    record = _record(record_dir, name)
    found = quantize_float(
        folded.model, data, recipe, progress, everywhere=everywhere, record=record, sharing=sharing
    )  # fmt: skip
    return _told(found, "after training", recipe, name, record_dir)


def _record(record_dir: str | None, data: str) -> Record | None:
    return None if record_dir is None else Record(Path(record_dir), data or "random")


def _given(folded: Preprocessed, frames: Frames | None, samples: GivenSamples | None) -> tuple[_Data, str]:
    """The user's data and its name; samples for want of other."""
    if frames is not None:
        return frames, frames.name
    assert samples is not None
    return samples.cut(input_infos(folded.model)), samples.name or "samples"


def _told(found: Calibrated, kind: str, recipe: Recipe, data: str, record_dir: str | None) -> Quantized:
    notes = []
    if not data:
        notes.append(
            _warning(
                "no fake-quant in the file, and no data: its ranges come from random inputs and are not to be trusted; "
                "give --images or --calibration, or train it quantization-aware"
            )
        )
    if found.unseen:
        named = ", ".join(found.unseen[:_NAMED]) + (" ..." if len(found.unseen) > _NAMED else "")
        notes.append(_warning(f"no finite value in {named}: no range, so what reads it stays float32"))
    calibration = {
        "kind": kind,
        "method": recipe.method,
        "symmetric": recipe.symmetric,
        "data": data or "random",
        "frames": found.frames,
        "tensors": kinds_of_tensors(found.model, set(found.tensors)),
    }
    if found.equalized:
        calibration["equalized"] = list(found.equalized)
    if found.compared is not None:
        calibration["compared"] = found.compared
    if found.fitted is not None:
        calibration["ptq"] = found.fitted.to_json()
    if record_dir is not None:
        calibration["record"] = {"folder": Path(record_dir).name, "reused": found.reused}
    if found.kept is not None:
        calibration["max_drop"] = found.kept.to_json()
    return Quantized(found.model, tuple(notes), calibration)


def _warning(text: str) -> Note:
    return Note("warning", "calibration", "model", text)
