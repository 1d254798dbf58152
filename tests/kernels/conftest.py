"""What all kernel tests share: the instruction sets this machine runs, and one call that compiles and runs a kernel."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tvm

from drpai_qat.kernels.epilogue import Kernel
from drpai_qat.kernels.isa import Isa
from drpai_qat.targets import X86_TARGETS, cpu_features

_TARGETS = {target.isa.name: target for target in X86_TARGETS if cpu_features().issuperset(target.isa.features)}


def compile_kernel(kernel: Kernel, isa: Isa) -> tvm.runtime.Executable:
    name = str(kernel.func.attrs["global_symbol"])
    return tvm.compile(tvm.IRModule({name: kernel.func}), target=_TARGETS[isa.name].tvm_target)[name]


def run(kernel: Kernel, isa: Isa, *inputs: np.ndarray) -> np.ndarray:
    """The kernel's output for these inputs (operands of the epilogue included), in its own shape."""
    # Poisoned, so that an element that is never written shows up.
    out = tvm.runtime.tensor(np.full(math.prod(kernel.out_shape), 77, kernel.out_dtype))
    arguments = [np.ascontiguousarray(a).reshape(-1) for a in (*inputs, *kernel.constants)]
    compile_kernel(kernel, isa)(*map(tvm.runtime.tensor, arguments), out)
    return out.numpy().reshape(kernel.out_shape)


@pytest.fixture(params=list(_TARGETS.values()), ids=lambda target: target.name)
def isa(request: pytest.FixtureRequest) -> Isa:
    """Each instruction set that this machine can run."""
    return request.param.isa
