"""Errors a user can cause and repair: one line that says what, where, and what to do.

Every one derives from DrpaiQatError; the command line prints its message without a traceback and exits with 1.
"""


class DrpaiQatError(Exception):
    """Base of all named errors. The message is one line: what is wrong, in which file, node or tensor, what to do."""


class ModelError(DrpaiQatError):
    """The ONNX file or graph can't be used: damaged, dynamic, another dialect, an operator that is not supported."""


class NoFakeQuantError(ModelError):
    """The file is a plain float model."""


class QuantizationError(DrpaiQatError):
    """Quantization parameters that mean nothing: a zero, negative or NaN scale, a zero point outside its type."""


class LoweringError(DrpaiQatError):
    """The canonical graph holds something that has no integer and no float implementation."""


class OptionError(DrpaiQatError):
    """An option's value can't be used, or contradicts another option or the model."""


class DeploymentError(DrpaiQatError):
    """The output folder can't be written, or a deployed network can't be read or run."""


class MissingExtraError(DrpaiQatError):
    """An optional package is needed and not installed; the message names the extra to install."""
