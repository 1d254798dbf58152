"""What the user gave for one network: samples, frames, and how an image becomes its input."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from numpy.typing import NDArray

from drpai_qat.data.frame_options import FrameOptions
from drpai_qat.data.frames import Frames, chosen_preprocessing, open_frames
from drpai_qat.data.given_samples import GivenSamples, samples_to_json
from drpai_qat.data.image_input import ImageInput
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.data.samples import choose_samples, input_infos, trained_range
from drpai_qat.data.value_ranges import doubt


@dataclass(frozen=True, eq=False)
class UserData:
    """The user's data, held against the network's inputs.

    Attributes:
        given: samples, read.
        frames: for calibration; opened anew each time they are iterated.
        image: how images become the input; None where the options do not speak of images.
        doubt: one line where the preprocessing gives other values than the input was trained on; "" where not.
    """

    given: GivenSamples | None
    frames: Frames | None
    image: ImageInput | None
    doubt: str

    @classmethod
    def of(cls, model: onnx.ModelProto, given: GivenSamples | None, options: FrameOptions) -> UserData:
        """Open what the options name.

        Args:
            model: folded; its inputs are the network's.
            given: samples that were read already.
        Raises: OptionError: a file or function is missing, or not for this network. MissingExtraError: see Frames.
        """
        inputs = input_infos(model)
        image = chosen_preprocessing(options, inputs)
        doubts = "" if image is None else doubt(image.preprocessing, trained_range(image.info.name, model))
        return cls(given, open_frames(options, inputs), image, doubts)

    def samples(self, canonical: onnx.ModelProto, options: SampleOptions) -> list[dict[str, NDArray]]:
        """Inputs for the sample run and the check: those given, else the first frames, else random ones."""
        return choose_samples(canonical, self.given, options, self.frames)

    def warnings(self) -> tuple[str, ...]:
        """What was left out or is doubtful, one line each; what was read by now counts."""
        return (*(self.frames.notes() if self.frames is not None else ()), *([self.doubt] if self.doubt else []))

    def to_json(self, used: Sequence[Mapping[str, NDArray]]) -> dict[str, object] | None:
        """As deploy.json has it; `used`: the samples that were run."""
        return samples_to_json(self.given, None if self.frames is None else self.frames.name, used)
