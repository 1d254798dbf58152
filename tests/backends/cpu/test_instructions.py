"""The instructions that LLVM makes of a convolution, for each x86 target: those we want, and none that the CPU lacks.

No such CPU is needed: nothing runs.
"""

from __future__ import annotations

import re

import numpy as np
import pytest
import tvm
from tvm import tirx

from drpai_qat.backends.cpu import targets
from drpai_qat.backends.cpu.fp_contraction import round_products
from drpai_qat.lowering import lower
from tests.lowering.running import grid, model, qdq

WANTED = {
    "x86-64-v2": [r"\bpmaddubsw\b.*%xmm", r"\bpmaddwd\b.*%xmm", r"\bcvtps2dq\b.*%xmm"],
    "avx2": [r"\bvpmaddubsw\b.*%ymm", r"\bvpmaddwd\b.*%ymm", r"\bvcvtps2dq\b.*%ymm"],
    "avx-vnni": [r"\{vex\}\s+vpdpbusd\b.*%ymm", r"\bvcvtps2dq\b.*%ymm"],
    "avx512-vnni": [r"\bvpdpbusd\b.*%zmm", r"\bvcvtps2dq\b.*%zmm"],
}
_AVX = r"\bv[a-z]+[a-z0-9]*\b"  # every mnemonic of AVX starts with v, none before does
_AVX512 = r"%zmm|%k[0-7]|[xy]mm(1[6-9]|2\d|3[01])"
_VNNI = r"\bvpdp"
FORBIDDEN = {
    "x86-64-v2": [_AVX, r"%ymm", _AVX512],
    "avx2": [_VNNI, _AVX512],
    "avx-vnni": [_AVX512],
    "avx512-vnni": [r"\{vex\}", r"\bvpdpbs", r"%tmm"],
}


def assembly(source: object, target: targets.Target) -> list[str]:
    """Instructions of all kernels of a model."""
    lines = []
    for var, function in lower(source, target.isa).module.functions.items():
        if isinstance(function, tirx.PrimFunc):
            module = round_products(tvm.IRModule({"main": function.with_attr("global_symbol", var.name_hint)}))
            with target.tvm_target:
                text = tirx.build(module, target=target.tvm_target).inspect_source("asm")
            lines += [line.split("#")[0].strip() for line in text.splitlines() if re.match(r"\t(\{|[a-z])", line)]
    return lines


def convolution(bits: int) -> object:
    """16 -> 32 channels, 3x3; activations of so many bits."""
    weights = np.random.default_rng(0).integers(-60, 61, (32, 16, 3, 3)).astype(np.int8)
    body = (
        "l = Clip(x, lo, hi)\n" + qdq("l", "a") + "v = DequantizeLinear(w, sw, zw)\n"
        "c = Conv<pads = [1, 1, 1, 1]>(a, v)  r = Relu(c)\n" + qdq("r", "y")
    )
    return model(
        "(float[1,16,9,9] x) => (float[1,32,9,9] y)", body, **grid("a", 0.01, 0), **grid("y", 0.02, 0),
        lo=0.0, hi=0.01 * (2**bits - 1), w=weights, sw=np.float32(0.01), zw=np.int8(0),
    )  # fmt: skip


@pytest.mark.parametrize("target", targets.X86_TARGETS, ids=lambda target: target.name)
def test_a_convolution_uses_what_the_target_has(target: targets.Target) -> None:
    lines = assembly(convolution(7), target)
    for pattern in WANTED[target.name]:
        assert any(re.search(pattern, line) for line in lines), pattern


@pytest.mark.parametrize("bits", [7, 8])
@pytest.mark.parametrize("target", targets.X86_TARGETS, ids=lambda target: target.name)
def test_nothing_beyond_the_target(target: targets.Target, bits: int) -> None:
    lines = assembly(convolution(bits), target)
    for pattern in FORBIDDEN[target.name]:
        assert [line for line in lines if re.search(pattern, line)] == []


def test_the_patterns_tell_targets_apart() -> None:
    """A wider target's code breaks the rules of every narrower one."""
    for narrow, wide in [("x86-64-v2", "avx2"), ("avx2", "avx-vnni"), ("avx-vnni", "avx512-vnni")]:
        lines = assembly(convolution(7), targets.TARGETS[wide])
        assert any(re.search(pattern, line) for pattern in FORBIDDEN[narrow] for line in lines)
