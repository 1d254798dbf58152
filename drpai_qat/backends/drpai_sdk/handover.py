"""A float model with the trained ranges in it, and calibration frames, for those who run the vendor's own script."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx

import preprocess
from drpai_qat.backends.drpai_sdk.calibration_frames import Calibration, Frame, Reached, calibrate
from drpai_qat.backends.drpai_sdk.handover_options import HandoverOptions
from drpai_qat.backends.drpai_sdk.handover_readme import README
from drpai_qat.backends.drpai_sdk.returned_grids import ReturnedGrid, compare_grids
from drpai_qat.backends.drpai_sdk.submodels import FloatModel, float_model
from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.core.progress import Stages
from drpai_qat.core.text import one_line
from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.frames import RANDOM_FRAMES, RandomFrames, open_frames
from drpai_qat.data.given_samples import read_samples
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.data.samples import choose_samples, input_infos
from drpai_qat.deployment.folder import staged
from drpai_qat.graph.canonical import read_graph
from drpai_qat.report.warnings import refuse_warnings
from drpai_qat.runtimes.blame import naming
from drpai_qat.runtimes.onnxruntime import Reference
from drpai_qat.source.ending import end_at
from drpai_qat.source.loading import load
from drpai_qat.source.static_shapes import specialize

MODEL, CALIBRATION, RANGES, EXPECTED = "model.onnx", "calibration", "ranges.json", "README.md"


@dataclass(frozen=True)
class Handover:
    """What is handed over."""

    floats: FloatModel
    calibration: Calibration

    def summary(self) -> str:
        """One line: how many trained ranges calibration arrives at."""
        ranges = self.calibration.reached
        both = [one for one in ranges if one.both]
        made = len(self.calibration.frames) - self.calibration.given
        fewer = sum(not one.range.full for one in both)
        return (
            f"{len(both)} of {len(ranges)} trained ranges are reached at both ends by {self.calibration.given} frames "
            f"and {made} made up for that"
            + (f"; {fewer} have fewer than 255 steps and get finer ones" if fewer else "")
        )


def frames_for(model: onnx.ModelProto, samples: SampleOptions, options: FrameOptions) -> Sequence[Frame]:
    """Calibration frames for a canonical model: the user's images or arrays, else the samples, else random ones.

    Raises: OptionError: what was given can't be read, does not fit the model, or is less than asked for.
    """
    frames, count = open_frames(options, input_infos(model)), options.num_frame
    if frames is not None:
        return list(frames)
    if samples.given is None:
        return list(RandomFrames(model, count or RANDOM_FRAMES, samples.seed))
    found = choose_samples(model, read_samples(samples.given), SampleOptions())
    if count is not None and count > len(found):
        raise OptionError(f"-n {count}: --samples holds {len(found)}: give more, or ask for fewer")
    return found[:count]


def hand_over(options: HandoverOptions, progress: Stages) -> Handover:
    """Write the folder, whole or not at all.

    Raises: DrpaiQatError: the model can't be read, the samples do not fit it, the folder can't be written.
    """
    with staged(options.folder) as folder:
        made, canonical, name = _prepared(options, progress)
        with progress.stage("writing the folder"):
            write_handover(made, folder)
            _write_readme(made, canonical, folder / EXPECTED, name)
    return made


def compare_returned(options: HandoverOptions, returned: Path, progress: Stages) -> tuple[ReturnedGrid, ...]:
    """Hold a quantized model, made of an earlier handover, against what was trained.

    Raises: DrpaiQatError: a model can't be read.
    """
    floats = _floats(options, progress)[0]
    return compare_grids(floats, read_returned(returned))


def read_returned(path: Path) -> onnx.ModelProto:
    """The quantized model that a tool wrote.

    Raises: ModelError: it is no ONNX.
    """
    try:
        return onnx.load(path)
    except OSError as error:
        raise ModelError(f"{path}: {error.strerror}") from None
    except Exception as error:  # protobuf's own types, and whatever it meets in garbage
        raise ModelError(f"{path.name}: is no ONNX model: {one_line(error)}") from None


def write_handover(made: Handover, folder: Path) -> None:
    """Write model.onnx, calibration/ and ranges.json."""
    onnx.save(made.floats.model, folder / MODEL)
    made.calibration.write(made.floats.model, folder / CALIBRATION)
    write_ranges(made.calibration, (), folder / RANGES)


def write_ranges(calibration: Calibration, returned: Sequence[ReturnedGrid], path: Path) -> None:
    """Write the trained ranges, which of their ends are reached, and what came back of them."""
    content = {
        "ranges": [
            {
                "tensor": one.range.tensor,
                "scale": float(one.range.params.scale),
                "zero_point": int(one.range.params.zero_point),
                "dtype": one.range.params.dtype.name,
                "low": one.range.low,
                "high": one.range.high,
                "all_8_bits": one.range.full,
                "low_reached": one.low,
                "high_reached": one.high,
            }
            for one in calibration.reached
        ],
        **({"returned": [one.to_json() for one in returned]} if returned else {}),
    }
    path.write_text(json.dumps(content, indent=2, allow_nan=False) + "\n", encoding="utf-8")


def _floats(options: HandoverOptions, progress: Stages) -> tuple[FloatModel, onnx.ModelProto, str]:
    with progress.stage("loading the model"):
        source = load(Path(options.model))
        whole = specialize(source.path.name, source.model, options.input_shapes)
        static = end_at(source.path.name, whole, options.output_names)
    with progress.stage("folding the fake-quant"), naming(source.path):
        folded = preprocess.preprocess(static, options.qat_type, options.memory)
        if options.strict:
            refuse_warnings(folded.log)
        canonical = folded.model
        floats = float_model(canonical, read_graph(canonical))
    return floats, canonical, source.path.name


def _prepared(options: HandoverOptions, progress: Stages) -> tuple[Handover, onnx.ModelProto, str]:
    floats, canonical, name = _floats(options, progress)
    frames = frames_for(canonical, options, options)
    with progress.stage("looking for frames that reach the trained ranges"):
        return Handover(floats, calibrate(floats, frames, options.seed)), canonical, name


def _write_readme(made: Handover, canonical: onnx.ModelProto, path: Path, name: str) -> None:
    """What it is, how to use it, what to expect: with figures of this very model."""
    wanted = Reference(canonical, name)
    floats = Reference(made.floats.model, MODEL)
    frame = made.calibration.frames[0]
    quantized, plain = wanted.run(frame), floats.run(frame)
    largest = max(float(abs(quantized[one] - plain[one]).max()) for one in quantized)
    missed = [one for one in made.calibration.reached if not (one.both and one.range.full)]
    lines = [f"- `{one.range.tensor}`: {_why(one)}" for one in missed] or ["- none"]
    path.write_text(
        README.format(
            name=name, summary=made.summary(), frames=len(made.calibration.frames), largest=f"{largest:.4g}",
            inputs=", ".join(f"`{value.name}`" for value in made.floats.model.graph.input), missed="\n".join(lines),
        ),
        encoding="utf-8",
    )  # fmt: skip


def _why(one: Reached) -> str:
    if not one.range.full:
        steps = round((one.range.high - one.range.low) / float(one.range.params.scale))
        return f"trained with {steps} steps; calibration spreads all 255 over the same range, a finer grid"
    ends = [name for name, there in (("lower", one.low), ("upper", one.high)) if not there]
    return f"no frame reaches its {' and its '.join(ends)} end"
