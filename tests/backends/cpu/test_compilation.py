from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

import drpai_qat
from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.compilation import _twin
from tests.small_models import qdq_model


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


def test_threads_compile_one_after_the_other(tmp_path: Path) -> None:
    model = tmp_path / "small.onnx"
    model.write_bytes(qdq_model().SerializeToString())

    def passes(number: int) -> bool:
        return drpai_qat.compile(model, qat_type="pytorch", output_dir=tmp_path / f"out{number % 2}").passed

    with ThreadPoolExecutor(3) as threads:
        assert all(threads.map(passes, range(3)))
