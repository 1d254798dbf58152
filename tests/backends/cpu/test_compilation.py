from __future__ import annotations

from dataclasses import replace

import pytest

from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.compilation import _twin


def test_what_runs_here_is_its_own_twin() -> None:
    host = targets.host()
    assert _twin(host) == host


def test_the_twin_of_another_machine_computes_sums_as_that_does(monkeypatch: pytest.MonkeyPatch) -> None:
    """An AVX2 host would compute some in float32, which rounds ties otherwise than the board's integers."""
    avx2 = targets.by_name("avx2", None)
    monkeypatch.setattr(targets, "host", lambda: avx2)
    monkeypatch.setattr(targets.Target, "runs_here", property(lambda self: self.name == "avx2"))
    assert _twin(targets.by_name("rzv2h", None)) == replace(avx2, isa=replace(avx2.isa, float_sums=False))
    assert _twin(targets.by_name("x86-64-v2", None)) == avx2
