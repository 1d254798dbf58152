"""onnx's node test cases, what becomes of one, and the lists of those that pass and those that don't."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import onnx.numpy_helper
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from drpai_qat.core.errors import DrpaiQatError
from tests.backend.backend import DrpaiBackend

HERE = Path(__file__).parent
ONNX_VERSION = (HERE / "onnx_version.txt").read_text().strip()
"""The version of onnx that the lists are for; others have other cases."""

OWN, IMPORTED, EXCLUDED = (HERE / f"{name}.txt" for name in ("passing_own", "passing_imported", "excluded"))

_TENSORS = (onnx.TensorProto, np.ndarray, np.generic)
_PRECISION = {"float16": 1e-3, "bfloat16": 1e-2}

NOT_TENSORS = "takes or gives sequences or optionals, which are not tensors"


@functools.cache
def cases() -> dict[str, TestCase]:
    """All node test cases of the installed onnx, by name."""
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")  # the cases compute overflows on purpose
        return {case.name: case for case in collect_testcases(None)}


def read_list(path: Path) -> dict[str, str]:
    """Case name -> the reason above it ("# reason")."""
    listed, reason = {}, ""
    for line in path.read_text().splitlines():
        if line.startswith("#"):
            reason = line[1:].strip()
        elif line.strip():
            listed[line.strip()] = reason
    return listed


def run_case(case: TestCase) -> str:
    """Compile and run a case on all its data.

    Returns: empty where every output is right, else why not.
    Raises: DrpaiQatError: refused.
    """
    for given, expected in case.data_sets:
        if not all(isinstance(value, _TENSORS) for value in (*given, *expected)):
            return NOT_TENSORS
        inputs, wanted = [_array(v) for v in given], [_array(v) for v in expected]
        compiled = DrpaiBackend.prepare(case.model, examples=inputs)
        results = compiled.run(inputs)
        coarsest = max(_PRECISION.get(v.dtype.name, 0.0) for v in (*inputs, *wanted))
        for result, want in zip(results, wanted, strict=False):  # training outputs are left out
            if result.shape != want.shape or result.dtype != _deployed_dtype(want.dtype):
                return f"gives {result.dtype}{list(result.shape)}, not {want.dtype}{list(want.shape)}"
            # What onnx computed in half precision is rounded to it.
            rtol, atol = max(case.rtol, 2 * coarsest), max(case.atol, coarsest)
            if not np.allclose(result.astype(np.float64), want.astype(np.float64), rtol, atol, equal_nan=True):
                return "computes other values"
    return ""


def outcome(case: TestCase) -> str:
    """As `run_case`; refusals as text, those that are not named errors as such."""
    try:
        return run_case(case)
    except DrpaiQatError as error:
        return f"refused: {error}"
    except Exception as error:  # the lists tell what crashes
        return f"crash: {type(error).__name__}"


def _array(value: Any) -> np.ndarray:
    return onnx.numpy_helper.to_array(value) if isinstance(value, onnx.TensorProto) else np.asarray(value)


def _deployed_dtype(dtype: np.dtype[Any]) -> np.dtype[Any]:
    """Half and double precision files become float32 networks."""
    return np.dtype(np.float32) if dtype in (np.float16, np.float64, ml_dtypes.bfloat16) else dtype
