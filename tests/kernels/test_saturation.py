"""Float accumulators can be anything: what leaves int32 ends at the right end of the grid, whatever the kernel."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from drpai_qat.kernels import expr as E
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.depthwise import depthwise
from drpai_qat.kernels.epilogue import Epilogue, Kernel
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.pool import average_pool
from drpai_qat.kernels.products import FMA, FMA_INT8
from drpai_qat.kernels.reduce import reduce
from drpai_qat.kernels.resize import Blend, resize_linear
from tests.kernels.running import ISAS, compiled, on_each_isa

SIZE = 64
GRID = Epilogue(E.Snap(E.affine(E.Acc(), np.linspace(0.01, 0.04, SIZE)), -56, 199), "uint8", 56)
SAME = Blend(np.zeros(1, np.int64), np.zeros(1, np.int64), np.zeros(1))
SHAPE = ConvShape(1, 1, 1, 1, 1, 1, SIZE, (1, 1), (1, 1), (1, 1), 1)
DEPTHWISE = ConvShape(1, 1, 1, SIZE, 1, 1, SIZE, (1, 1), (1, 1))


def layer(isa: Isa, product: object, dtype: str) -> Kernel:
    return conv(SHAPE, product, isa, GRID, np.ones((SIZE, 1, 1, 1), dtype))  # type: ignore[arg-type]


KERNELS: dict[str, Callable[[Isa], Kernel]] = {
    "convolution": lambda isa: layer(isa, FMA, "float32"),
    "convolution, int8 weights": lambda isa: layer(isa, FMA_INT8, "int8"),
    "average": lambda isa: average_pool(
        (1, 1, 1, SIZE), (1, 1), (1, 1), (0, 0, 0, 0), (1, 1), (1, 1), "float32", 0, GRID, isa
    ),
    "depthwise": lambda isa: depthwise(DEPTHWISE, isa, GRID, np.ones((1, 1, SIZE), np.float32), None, "float32"),
    "sum": lambda isa: reduce(1, 1, SIZE, "sum", "float32", 0, GRID, isa),
    "blend": lambda isa: resize_linear((1, 1, 1, SIZE), SAME, SAME, "float32", GRID, isa),
}


def check(name: str, isa: Isa) -> None:
    call = compiled(KERNELS[name](isa), isa)
    for value, end in ((3e11, 255), (-3e11, 0), (np.inf, 255)):
        x = np.full(1 if "convolution" in name else SIZE, value, np.float32)
        np.testing.assert_array_equal(call(x).reshape(-1), end, name)


@pytest.mark.parametrize("name", KERNELS)
def test_what_leaves_int32(name: str) -> None:
    check(name, ISAS[0])


@on_each_isa
def test_on_each_instruction_set(isa: Isa) -> None:
    check("convolution", isa)
