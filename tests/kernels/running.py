"""What the kernel tests share: the instruction sets this machine runs, and one call that compiles and runs a kernel."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import tvm
from hypothesis import settings

from drpai_qat.backends.cpu.fp_contraction import round_products
from drpai_qat.backends.cpu.targets import X86_TARGETS
from drpai_qat.core.cpu_features import cpu_features
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.epilogue import Epilogue, Kernel, Operand
from drpai_qat.kernels.isa import Isa

_TARGETS = {target.isa.name: target for target in X86_TARGETS if cpu_features().issuperset(target.features)}
ISAS = [target.isa for target in _TARGETS.values()]

on_each_isa = pytest.mark.parametrize("isa", ISAS, ids=lambda isa: isa.name)
few = settings(max_examples=5)


def compiled(kernel: Kernel, isa: Isa) -> Callable[..., np.ndarray]:
    """Function of the kernel's inputs (operands of the epilogue included) that gives its output, in its own shape."""
    call = compiled_all(kernel, isa)
    return lambda *inputs: call(*inputs)[0]


def compiled_all(kernel: Kernel, isa: Isa) -> Callable[..., list[np.ndarray]]:
    """The same for a kernel of several outputs."""
    name = str(kernel.func.attrs["global_symbol"])
    module = round_products(tvm.IRModule({name: kernel.func}))
    function = tvm.compile(module, target=_TARGETS[isa.name].tvm_target)[name]

    def call(*inputs: np.ndarray) -> list[np.ndarray]:
        # Poisoned, so that an element that is never written shows up.
        size, dtypes = math.prod(kernel.out_shape), (kernel.out_dtype, *kernel.more)
        outputs = [tvm.runtime.tensor(np.full(size, 77, dtype)) for dtype in dtypes]
        arguments = [np.ascontiguousarray(a).reshape(-1) for a in (*inputs, *kernel.constants)]
        function(*map(tvm.runtime.tensor, arguments), *outputs)
        return [out.numpy().reshape(kernel.out_shape) for out in outputs]

    return call


def run(kernel: Kernel, isa: Isa, *inputs: np.ndarray) -> np.ndarray:
    """The output of a kernel that is called once."""
    return compiled(kernel, isa)(*inputs)


def run_all(kernel: Kernel, isa: Isa, *inputs: np.ndarray) -> list[np.ndarray]:
    """All outputs of a kernel that is called once."""
    return compiled_all(kernel, isa)(*inputs)


def raw(value: E.Expr | None = None, operands: tuple[Operand, ...] = ()) -> Epilogue:
    """The accumulator itself as float32 (exact up to 2^24), or another expression."""
    return Epilogue(value or E.Acc(), "float32", 0, operands)


def requantized(acc: np.ndarray, dtype: str = "uint8", zero_point: int = 12) -> Epilogue:
    """Per-channel scales that bring these accumulators to 8 bits, with values clipped on both sides."""
    channels = acc.shape[-1]
    mul = np.linspace(0.7, 1.6, channels) * 120 / max(1.0, float(np.abs(acc).max()))
    x = E.affine(E.Acc(), mul.reshape((1,) * (acc.ndim - 1) + (channels,)))
    limits = np.iinfo(dtype)
    return Epilogue(E.Snap(x, limits.min - zero_point, limits.max - zero_point), dtype, zero_point)


def integers(rng: np.random.Generator, shape: tuple[int, ...], dtype: str) -> np.ndarray:
    """Values over the whole range of a dtype; float32 gets small integers, so that sums stay exact."""
    if dtype == "float32":
        return rng.integers(-30, 31, shape).astype(dtype)
    limits = np.iinfo(dtype)
    return rng.integers(limits.min, limits.max + 1, shape).astype(dtype)


def windows(
    x: np.ndarray,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pads: tuple[int, int, int, int],
    dilation: tuple[int, int],
    out_size: tuple[int, int],
    fill: float,
) -> np.ndarray:
    """float64, shape (taps, N, *out_size, C): the input under each tap of a sliding window, `fill` outside."""
    reach = [out_size[i] * stride[i] + kernel[i] * dilation[i] for i in (0, 1)]
    spread = ((0, 0), (pads[0], reach[0]), (pads[1], reach[1]), (0, 0))
    padded = np.pad(x.astype(np.float64), spread, constant_values=fill)
    taps = []
    for r in range(kernel[0]):
        for s in range(kernel[1]):
            rows = slice(r * dilation[0], r * dilation[0] + (out_size[0] - 1) * stride[0] + 1, stride[0])
            columns = slice(s * dilation[1], s * dilation[1] + (out_size[1] - 1) * stride[1] + 1, stride[1])
            taps.append(padded[:, rows, columns])
    return np.stack(taps)
