"""Which backend serves which target: names that are known without loading any of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from drpai_qat.backends.cpu.target_names import MACHINES
from drpai_qat.core.errors import OptionError

if TYPE_CHECKING:  # it imports onnx, and --help does not
    from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
    from drpai_qat.backends.protocol import Backend
    from drpai_qat.data.frame_options import FrameOptions
    from drpai_qat.data.sample_options import SampleOptions


def _cpu() -> Backend:
    from drpai_qat.backends.cpu.backend import CpuBackend

    return CpuBackend()


def _tflite() -> Backend:
    from drpai_qat.backends.tflite.backend import TfliteBackend

    return TfliteBackend()


BACKENDS: Mapping[str, Callable[[], Backend]] = {
    **dict.fromkeys(("host", *MACHINES), _cpu),
    "native": _cpu,  # another word for host
    "tflite": _tflite,
}
"""A backend for each name that --target takes."""


def known(target: str) -> str:
    """The name itself.

    Raises: OptionError: no backend serves it; the message lists those there are.
    """
    if target not in BACKENDS:
        raise OptionError(
            f"--target {target!r} is unknown: give {', '.join(name for name in BACKENDS if name != 'native')}"
        )
    return target


def backend(
    target: str,
    sdk: SdkOptions | None = None,
    samples: SampleOptions | None = None,
    frames: FrameOptions | None = None,
) -> Backend:
    """A backend for one compilation.

    Args:
        sdk: where it asks for the SDK's tools, these serve the accelerator, and the target's backend its CPU.
        samples, frames: calibration data for them.
    Raises: OptionError: no backend serves this target.
    """
    serving = BACKENDS[known(target)]
    if sdk is None or not sdk.uses_tools:
        return serving()
    from drpai_qat.backends.drpai_sdk.backend import DrpaiSdkBackend
    from drpai_qat.data.frame_options import FrameOptions
    from drpai_qat.data.sample_options import SampleOptions

    return DrpaiSdkBackend(sdk, samples or SampleOptions(), frames or FrameOptions(), serving)
