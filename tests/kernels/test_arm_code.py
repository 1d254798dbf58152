"""The code that LLVM makes of the Arm kernels: what their inner loops are made of. Nothing Arm runs here."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest
import tvm

from drpai_qat.backends.cpu.fp_contraction import round_products
from drpai_qat.backends.cpu.targets import by_name
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.epilogue import Epilogue
from drpai_qat.kernels.product_choice import product8
from drpai_qat.kernels.products import DOT2


def inner_loop(size: int, channels: int, out: int, kernel: int, target: str, *, wide: bool = False) -> Counter[str]:
    """Mnemonics of the longest innermost loop of a convolution's code."""
    isa = by_name(target).isa
    weights = np.random.default_rng(0).integers(-127, 128, (out, kernel, kernel, channels)).astype(np.int8)
    product = DOT2 if wide else product8(isa, weights, -128, 127)[0]
    shape = ConvShape(1, size + kernel - 1, size + kernel - 1, channels, size, size, out, (kernel, kernel))
    scales = np.linspace(1e-3, 2e-3, out).reshape(1, 1, 1, out)
    epilogue = Epilogue(E.Snap(E.affine(E.Acc(), scales), -123, 132), "int8", -5)
    function = conv(shape, product, isa, epilogue, weights, np.zeros(out, np.int32)).func
    module = round_products(tvm.IRModule({"conv": function}))
    text = tvm.compile(module, target=by_name(target).tvm_target).mod.inspect_source("asm")
    lines = [line.strip() for line in text.splitlines()]
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    loops = []
    for i, line in enumerate(lines):
        jump = re.match(r"(?:b\.\w+|cbn?z\s+\w+,|b)\s+(\.LBB\w+)$", line)
        if jump and labels.get(jump[1], i) < i:
            body = lines[labels[jump[1]] + 1 : i]
            if not any(x.endswith(":") for x in body):
                loops.append(Counter(x.split()[0] for x in body if re.match(r"[a-z]", x)))
    return max(loops, key=Counter.total)


@pytest.mark.parametrize(
    ("size", "channels", "out", "kernel"), [(56, 64, 64, 3), (14, 256, 256, 3), (14, 1024, 256, 1), (14, 80, 184, 1)]
)
def test_inner_loops_are_mostly_sdot(size: int, channels: int, out: int, kernel: int) -> None:
    code = inner_loop(size, channels, out, kernel, "rzv2h")
    assert code["sdot"] / code.total() > 0.75
    assert code["dup"] == code["ld1r"] == 0  # SDOT takes activations by element


def test_16_bit_loops_multiply_by_element() -> None:
    code = inner_loop(14, 256, 256, 3, "rzv2h", wide=True)
    assert (code["smlal"] + code["smlal2"] + code["smull"]) / code.total() > 0.6
    assert code["dup"] == 0


def test_cores_without_dot_product_get_none() -> None:
    code = inner_loop(14, 256, 256, 3, "aarch64")
    assert code["sdot"] == 0
    assert code["sadalp"] > 0
