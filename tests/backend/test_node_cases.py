"""onnx's node tests, run through lowering: the listed ones pass, every other one is listed with a reason and fails.

`update_lists.py` writes the lists.
"""

from __future__ import annotations

import onnx
import pytest
from onnx.backend.test.case.test_case import TestCase

from tests.backend import cases

OWN, IMPORTED, EXCLUDED = (cases.read_list(path) for path in (cases.OWN, cases.IMPORTED, cases.EXCLUDED))
same_onnx = pytest.mark.skipif(
    onnx.__version__ != cases.ONNX_VERSION, reason=f"the lists are for onnx {cases.ONNX_VERSION}"
)


def _case(name: str) -> TestCase:
    if name not in cases.cases():
        pytest.skip(f"onnx {onnx.__version__} has no such case (the lists are for {cases.ONNX_VERSION})")
    return cases.cases()[name]


@same_onnx
def test_every_case_is_listed_once() -> None:
    listed = [*OWN, *IMPORTED, *EXCLUDED]
    assert len(listed) == len(set(listed))
    assert set(listed) == set(cases.cases())


def test_every_exclusion_has_a_reason() -> None:
    assert all(len(reason) > 10 and not reason.startswith("crash") for reason in EXCLUDED.values())


@pytest.mark.parametrize("name", OWN)
def test_own_kernels(name: str) -> None:
    assert cases.run_case(_case(name)) == ""


@pytest.mark.slow
@pytest.mark.parametrize("name", IMPORTED)
def test_with_imported_operators(name: str) -> None:
    assert cases.run_case(_case(name)) == ""


@pytest.mark.slow
@same_onnx
@pytest.mark.parametrize("name", EXCLUDED)
def test_excluded_case_still_fails(name: str) -> None:
    """One that passes belongs to another list; one that is refused is refused with a named error of one line."""
    outcome = cases.outcome(_case(name))
    assert outcome
    assert "\n" not in outcome
    assert not outcome.startswith("crash")
