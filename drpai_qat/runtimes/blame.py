"""Whose fault a failure is: every error names the model's file, and onnxruntime says whether it is the file itself."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from drpai_qat.core.errors import LoweringError, ModelError, QuantizationError
from drpai_qat.runtimes.onnxruntime import Reference


@contextlib.contextmanager
def naming(model: Path) -> Iterator[None]:
    """Put the file's name in front of errors that concern the model.

    Raises: ModelError: something broke unexpectedly, and onnxruntime refuses the file too.
    """
    try:
        yield
    except (ModelError, QuantizationError, LoweringError) as error:
        if model.name in str(error):
            raise
        raise type(error)(f"{model.name}: {error}") from error
    except (OSError, MemoryError):  # the machine's
        raise
    except Exception:
        Reference(model, model.name)
        raise
