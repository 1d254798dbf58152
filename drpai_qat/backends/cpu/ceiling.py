"""What a machine could do at most: a loop of nothing but multiply-accumulate instructions, weights from L1.

Shares of it say how good a kernel is; GMAC/s alone compare machines, and how busy they are.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tvm
from tvm import tirx
from tvm.support import cc
from tvm.tirx.script.builder import ir as T

from drpai_qat.backends.cpu.targets import Target
from drpai_qat.backends.cpu.toolchain import find_linker
from drpai_qat.kernels.epilogue import Kernel, flat_arg
from drpai_qat.kernels.isa import Isa, vector
from drpai_qat.kernels.loops import Registers, function
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.products import DOT2, dot4

SYMBOL = "ceiling"


def build_ceiling(target: Target, library: Path) -> tuple[list[np.ndarray], int] | None:
    """Write a library with the loop of exact 8-bit products for a target, as `SYMBOL`.

    Returns: its arguments, and the multiply-accumulates of a call, on one thread; None for Arm CPUs without SDOT, whose
        products are not one instruction.
    """
    if target.isa.arm and not target.isa.dot4_exact:
        return None
    kernel, data, macs = ceiling_kernel(dot4(1) if target.isa.dot4_exact else DOT2, target.isa)
    module = tvm.IRModule({SYMBOL: kernel.func.with_attr("global_symbol", SYMBOL)})
    with target.tvm_target:
        built = tvm.compile(module, target=target.tvm_target)
    linker = find_linker(target.machine)
    command, options = (cc.get_cc(), ()) if linker is None else (linker.command, linker.arguments)
    triple = target.mtriple or tvm.target.codegen.llvm_get_system_triple()
    link = cc.cross_compiler(command, options=[*options], get_target_triple=lambda: triple)
    built.export_library(str(library), fcompile=link)
    return [data, *kernel.constants, np.zeros(kernel.out_shape, kernel.out_dtype)], macs


def ceiling_kernel(product: Product, isa: Isa) -> tuple[Kernel, np.ndarray, int]:
    """A tile of accumulators, activations in registers, weights from L1: kernel, its input, MACs of one call."""
    # VNNI adds in the multiplier, five cycles: ten accumulators keep two of them busy.
    pixels, vectors = (6, 3) if isa.registers > 16 else (5, 2) if isa.dot4_exact else (4, 2)
    copies, repeats = 4, 5_000  # the address of the weights changes, so that nothing moves out of the loop
    width = isa.lanes * product.pack
    turn = vectors * product.steps * width
    with function("ceiling") as builder:
        data = flat_arg("data", (pixels * width,), product.in_dtype)
        weights = flat_arg("weights", (copies * turn,), product.weight_dtype)
        out = flat_arg("out", (pixels * vectors * isa.lanes,), product.acc_dtype)
        inputs = [T.Bind(data.vload([i * width], vector(product.in_dtype, width))) for i in range(pixels)]
        acc = Registers(pixels * vectors, isa.lanes, product.acc_dtype)
        for i in range(pixels * vectors):
            acc[i] = out.vload([i * isa.lanes], vector(product.acc_dtype, isa.lanes))
        with T.serial(repeats) as repeat:
            base = T.Bind(tirx.floormod(repeat, copies) * turn)
            for j in range(vectors):
                at = [base + (j * product.steps + step) * width for step in range(product.steps)]
                columns = [T.Bind(weights.vload([start], vector(product.weight_dtype, width))) for start in at]
                if product == DOT2:
                    columns = [T.Bind(T.Cast(vector("int16", width), column)) for column in columns]
                for i in range(pixels):
                    k = i * vectors + j
                    acc[k] = product.multiply(isa, acc[k], [inputs[i]] * product.steps, columns)
        for i in range(pixels * vectors):
            T.buffer_store(out, acc[i], [tirx.Ramp(i * isa.lanes, 1, isa.lanes)])
    constant = np.zeros(copies * turn, product.weight_dtype)
    kernel = Kernel(builder.get(), (constant,), (pixels * vectors * isa.lanes,), product.acc_dtype)
    return kernel, np.zeros(pixels * width, product.in_dtype), repeats * turn * pixels
