"""A kernel never gets a buffer of another size than it was written for."""

from __future__ import annotations

from typing import Any

import pytest

import preprocess
from drpai_qat import lowering
from drpai_qat.core.errors import LoweringError
from drpai_qat.kernels.isa import AVX2
from drpai_qat.lowering.program import Program, to_module
from tests.small_models import qdq_model


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> Program:
    """That of a small network, as it is before it becomes a module."""
    seen: list[Program] = []

    def keep(one: Program) -> Any:
        seen.append(one)
        return to_module(one)

    monkeypatch.setattr(lowering, "to_module", keep)
    lowering.lower(preprocess.preprocess(qdq_model()).model, AVX2)
    return seen[0]


def test_each_buffer_of_another_size_is_refused(program: Program, capfd: pytest.CaptureFixture[str]) -> None:
    to_module(program)
    for number, (size, dtype) in enumerate(program.sizes):
        program.sizes[number] = (size + 1, dtype)
        with pytest.raises(LoweringError, match=r"shapes of the graph contradict each other|an output of shape"):
            to_module(program)
        program.sizes[number] = (size, dtype)
    assert capfd.readouterr() == ("", "")  # TVM's builder says more where it is abandoned
