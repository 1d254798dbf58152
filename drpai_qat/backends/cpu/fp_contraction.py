"""Keeps the code generator from fusing products into sums, so that every machine rounds alike.

LLVM turns x * y + z into one fused multiply-add where it finds that faster, which depends on the CPU: the product then
is not rounded, and the last bit differs from machine to machine. Here every float product passes through LLVM's
arithmetic fence, which costs no instruction. Where the fused form is wanted, kernels call it by name
(`isa.multiply_add`).
"""

from __future__ import annotations

from typing import Any

import tvm
import tvm_ffi
from tvm import tirx

from drpai_qat.kernels.isa import llvm


def _rounded(product: tirx.Mul) -> Any:
    dtype = str(product.ty)
    return llvm("llvm.arithmetic.fence", dtype, product) if dtype.startswith("float") else product


def _round_products(function: tirx.PrimFunc, module: tvm.IRModule, context: Any) -> tirx.PrimFunc:
    return tvm_ffi.structural_map(function, (tirx.Mul, _rounded))


round_products: tvm.transform.Pass = tirx.transform.prim_func_pass(_round_products, 0, "drpai_qat.RoundProducts")
"""Pass: all float products are rounded before anything is done with them."""
