"""Errors a user can cause and repair: one line that says what, where, and what to do.

Every one derives from DrpaiQatError; the command line prints its message without a traceback and exits with 1.
"""

from __future__ import annotations

PAGE = "docs/troubleshooting.md"


class DrpaiQatError(Exception):
    """Base of all named errors. The message is one line: what is wrong, in which file, node or tensor, what to do.

    Attributes:
        see: heading of docs/troubleshooting.md that says more, as a link has it; "" for none.
    """

    see: str = ""

    def __init__(self, message: object = "", see: str | None = None) -> None:
        super().__init__(message)
        if see is not None:
            self.see = see


class ModelError(DrpaiQatError):
    """The ONNX file or graph can't be used: damaged, dynamic, another dialect, an operator that is not supported."""

    see = "the-file-is-refused"


class NoFakeQuantError(ModelError):
    """The file is a plain float model."""


class QuantizationError(DrpaiQatError):
    """Quantization parameters that mean nothing: a zero, negative or NaN scale, a zero point outside its type."""

    see = "scales-and-zero-points-that-mean-nothing"


class LoweringError(DrpaiQatError):
    """The canonical graph holds something that has no integer and no float implementation."""

    see = "an-operator-is-not-supported"


class OptionError(DrpaiQatError):
    """An option's value can't be used, or contradicts another option or the model."""


class DeploymentError(DrpaiQatError):
    """The output folder can't be written, or a deployed network can't be read or run."""

    see = "the-folder-of-a-network"


class MissingExtraError(DrpaiQatError):
    """An optional package is needed and not installed; the message names the extra to install."""

    see = "a-package-is-missing"


class WorkerError(DrpaiQatError):
    """A process or machine that shared the work ended, and so did the next one at the same task."""
