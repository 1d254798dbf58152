"""Speed of single convolution kernels against what the instructions could do, measured in the same run.

    python benchmarks/kernels.py                            # every instruction set of this machine, one thread
    python benchmarks/kernels.py --isa avx2 --search        # beside the chosen tile, the best of all tiles

The ceiling of an arithmetic is a loop of nothing but its multiply-accumulate instructions, weights from L1. Each figure
is the best of many calls, kernels and ceilings taking turns, so a busy machine costs time rather than accuracy; still,
compare shares of the ceiling, not GMAC/s, between machines. Winograd's algorithms count as the products of a direct
convolution and have more than 100% of dot2's ceiling: they multiply less. Rows "8 bits" show what full 8-bit ranges get
without VNNI, on activations as a ReLU passes them, since the speed of guarded products depends on these.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import os
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("TVM_NUM_THREADS", "1")

import numpy as np
import tvm

from drpai_qat.backends.cpu.ceiling import ceiling_kernel
from drpai_qat.backends.cpu.targets import X86_TARGETS, Target, cpu_features
from drpai_qat.kernels import expr as E
from drpai_qat.kernels.conv import conv
from drpai_qat.kernels.conv_shape import ConvShape
from drpai_qat.kernels.depthwise import depthwise
from drpai_qat.kernels.epilogue import Epilogue, Kernel
from drpai_qat.kernels.isa import Isa
from drpai_qat.kernels.product import Product
from drpai_qat.kernels.product_choice import product8
from drpai_qat.kernels.products import DOT2, FMA, dot4
from drpai_qat.kernels.tiling import Tiling, choose_tiling
from drpai_qat.kernels.winograd import transformed_weights, transformed_windows, winograd
from drpai_qat.kernels.winograd_plan import WinogradPlan, choose_plan


def _square(size: int, channels: int, out: int, kernel: int = 1, stride: int = 1) -> ConvShape:
    """Convolution with `size` output rows; inputs are padded already."""
    padded = (size - 1) * stride + kernel
    return ConvShape(1, padded, padded, channels, size, size, out, (kernel, kernel), (stride, stride))


SHAPES = {
    "resnet 56 3x3 64": _square(56, 64, 64, 3),
    "resnet 28 3x3 128": _square(28, 128, 128, 3),
    "resnet 14 3x3 256": _square(14, 256, 256, 3),
    "resnet 7 3x3 512": _square(7, 512, 512, 3),
    "resnet 56 1x1 64-256": _square(56, 64, 256),
    "resnet 56 1x1 256-64": _square(56, 256, 64),
    "resnet 28 1x1 512-128": _square(28, 512, 128),
    "resnet 28 1x1 128-512": _square(28, 128, 512),
    "resnet 14 1x1 1024-256": _square(14, 1024, 256),
    "resnet 14 1x1 256-1024": _square(14, 256, 1024),
    "resnet 7 1x1 2048-512": _square(7, 2048, 512),
    "resnet 7 1x1 512-2048": _square(7, 512, 2048),
    "resnet 28 3x3/2 128": _square(28, 128, 128, 3, 2),
    "resnet 28 1x1/2 256-512": _square(28, 256, 512, 1, 2),
    "first layer 7x7/2 4-64": _square(112, 4, 64, 7, 2),
    "mobilenet 112 1x1 32-16": _square(112, 32, 16),
    "mobilenet 56 1x1 24-144": _square(56, 24, 144),
    "mobilenet 28 1x1 192-32": _square(28, 192, 32),
    "mobilenet 14 1x1 384-64": _square(14, 384, 64),
    "mobilenet 14 1x1 96-576": _square(14, 96, 576),
    "mobilenet 7 1x1 160-960": _square(7, 160, 960),
    "mobilenet 7 1x1 960-320": _square(7, 960, 320),
    "linear 2048-1000": ConvShape(1, 1, 1, 2048, 1, 1, 1000),
    "vit 197x768-3072": ConvShape(1, 1, 197, 768, 1, 197, 3072),
}
DEPTHWISE = {
    "depthwise 112 3x3/2 96": _square(56, 96, 96, 3, 2),
    "depthwise 56 3x3 144": _square(56, 144, 144, 3),
    "depthwise 14 3x3 576": _square(14, 576, 576, 3),
    "depthwise 7 3x3 960": _square(7, 960, 960, 3),
    "depthwise 28 5x5 240": _square(28, 240, 240, 5),
}


class Timed:
    """A compiled kernel and the best time of its calls so far, in seconds."""

    def __init__(self, kernel: Kernel, target: Target, *inputs: np.ndarray) -> None:
        name = str(kernel.func.attrs["global_symbol"])
        self._call: Callable[..., None] = tvm.compile(tvm.IRModule({name: kernel.func}), target=target.tvm_target)[name]
        out = np.zeros(math.prod(kernel.out_shape), kernel.out_dtype)
        flat = [np.ascontiguousarray(x).reshape(-1) for x in (*inputs, *kernel.constants, out)]
        self._arguments = [tvm.runtime.tensor(x) for x in flat]
        self.best = math.inf

    def output(self) -> np.ndarray:
        """What the kernel computes."""
        self._call(*self._arguments)
        result: np.ndarray = self._arguments[-1].numpy()
        return result

    def round(self, seconds: float = 0.01) -> None:
        """Call for at least this long."""
        end = time.perf_counter() + seconds
        while True:
            start = time.perf_counter()
            self._call(*self._arguments)
            now = time.perf_counter()
            self.best = min(self.best, now - start)
            if now > end:
                return


def _scales(shape: ConvShape) -> np.ndarray:
    return np.linspace(1e-4, 2e-4, shape.out_channels).reshape(1, 1, 1, -1)


def conv_kernel(
    shape: ConvShape, product: Product, isa: Isa, tiling: Tiling | None = None
) -> tuple[Kernel, np.ndarray]:
    """A convolution that requantizes to uint8, with an input for it."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-16, 17, (shape.out_channels, *shape.kernel, shape.channels)).astype(product.weight_dtype)
    data = rng.integers(0, 64, shape.in_size).astype(product.in_dtype)
    bias = None if product.acc_dtype == "float32" else np.zeros(shape.out_channels, np.int32)
    epilogue = Epilogue(E.Snap(E.affine(E.Acc(), _scales(shape)), -3, 252), "uint8", 3)
    return conv(shape, product, isa, epilogue, weights, bias, tiling), data


def guarded_kernel(shape: ConvShape, isa: Isa) -> tuple[Product, Kernel, np.ndarray]:
    """What full 8-bit ranges get: the product, the convolution, and activations as a ReLU passes them.

    The weights fill 8 bits, four standard deviations to the end; so do the activations, of which half are zero.
    """
    rng = np.random.default_rng(0)
    size = (shape.out_channels, *shape.kernel, shape.channels)
    weights = np.clip(rng.normal(0, 32, size), -127, 127).round().astype(np.int8)
    data = np.clip(rng.normal(0, 64, shape.in_size), 0, 255).astype(np.uint8)
    product, _ = product8(isa, weights, 0, 255, zero_point=0)
    epilogue = Epilogue(E.Snap(E.affine(E.Acc(), _scales(shape)), -3, 252), "uint8", 3)
    bias = np.zeros(shape.out_channels, np.int32)
    return product, conv(shape, product, isa, epilogue, weights, bias), data.astype(product.in_dtype)


def winograd_kernels(plan: WinogradPlan, target: Target) -> list[Timed]:
    """What is transformed ahead, and the convolution behind it; weights of 8 bits."""
    rng = np.random.default_rng(0)
    shape = plan.shape
    weights = rng.integers(-16, 17, (shape.out_channels, 3, 3, shape.channels)).astype(np.int8)
    data = rng.integers(0, 256, shape.in_size).astype(plan.dtype)
    epilogue = Epilogue(E.Snap(E.affine(E.Acc(), _scales(shape)), -3, 252), "uint8", 3)
    main = winograd(plan, epilogue, weights, np.zeros(shape.out_channels, np.int32))
    if plan.ahead == "weights":
        first = Timed(transformed_weights(plan, weights), target)
        inputs: tuple[np.ndarray, ...] = (data, first.output())
    else:
        first = Timed(transformed_windows(plan), target, data)
        inputs = (first.output(),)
    return [first, Timed(main, target, *inputs)]


def depthwise_kernel(shape: ConvShape, isa: Isa) -> tuple[Kernel, np.ndarray]:
    """A depthwise convolution of 7-bit activations that requantizes to uint8, with an input for it."""
    rng = np.random.default_rng(0)
    weights = rng.integers(-60, 61, (*shape.kernel, shape.channels)).astype(np.int8)
    data = rng.integers(0, 128, shape.in_size).astype(np.uint8)
    scales = np.linspace(1e-3, 2e-3, shape.channels).reshape(1, 1, 1, -1)
    epilogue = Epilogue(E.Snap(E.affine(E.Acc(), scales), -3, 252), "uint8", 3)
    bias = np.zeros(shape.channels, np.int32)
    return depthwise(shape, isa, epilogue, weights, bias, "uint8", 0, 0, 127), data


def tilings(shape: ConvShape, product: Product, isa: Isa) -> list[Tiling]:
    """Every tile that fits the registers, in the loop orders that make sense."""
    chosen = choose_tiling(shape, product, isa)
    result = []
    for vectors in range(1, 5):
        for pixels in range(1, min(14, shape.out_pixels) + 1):
            if pixels * vectors < isa.registers and (vectors - 1) * isa.lanes < shape.out_channels:
                tiles = math.ceil(shape.out_pixels / pixels)
                orders = [("pixels", max(1, math.ceil(tiles / n))) for n in (8,)] + [("channels", 1)]
                result += [Tiling(pixels, vectors, parallel, chunk) for parallel, chunk in orders]  # type: ignore[arg-type]
    return [chosen, *result]


def measure(target: Target, args: argparse.Namespace) -> list[dict[str, object]]:
    """One row per shape and arithmetic."""
    isa, rows = target.isa, []
    steps = (1,) if isa.dot4_exact else (1, 2, 4)
    products = {f"dot4/{n}": dot4(n) for n in steps} | {"dot2": DOT2, "fma": FMA}
    ceilings = {}
    for name in args.product or products:
        kernel, data, macs = ceiling_kernel(products[name], isa)
        ceilings[name] = (Timed(kernel, target, data), macs)
    for name, (ceiling, macs) in ceilings.items():
        product = products[name]
        for label, shape in SHAPES.items():
            if not _wanted(label, args.only) or shape.channels // product.pack % product.steps:
                continue
            candidates = tilings(shape, product, isa) if args.search else [choose_tiling(shape, product, isa)]
            timed = [Timed(k, target, x) for k, x in (conv_kernel(shape, product, isa, t) for t in candidates)]
            _rounds([ceiling, *timed], args.rounds)
            top = macs / ceiling.best
            rates = [shape.macs / t.best for t in timed]
            rows.append(_row(isa, name, label, candidates[0], rates[0], top))
            if args.search:
                order = np.argsort(rates)[::-1][:4]
                rows[-1]["best"] = [(_tile(candidates[i]), round(rates[i] / top, 3)) for i in order]
            print(_line(rows[-1]), flush=True)
    for label, shape in SHAPES.items():
        if isa.dot4_exact or not _wanted(label, args.only):
            continue
        product, kernel, data = guarded_kernel(shape, isa)
        name = product.name if product == DOT2 else f"{product.name}/{product.steps}"
        if name in ceilings:
            ceiling, macs = ceilings[name]
            timed_kernel = Timed(kernel, target, data)
            _rounds([ceiling, timed_kernel], args.rounds)
            top = macs / ceiling.best
            rows.append(_row(isa, f"8 bits {name}", label, None, shape.macs / timed_kernel.best, top))
            print(_line(rows[-1]), flush=True)
    for (label, shape), (dtype, qmax) in itertools.product(SHAPES.items(), {"uint8": 255, "int16": None}.items()):
        plan = choose_plan(shape, np.ones((shape.out_channels, *shape.kernel, shape.channels)), qmax, isa)
        if plan is not None and "dot2" in ceilings and _wanted(label, args.only):
            ceiling, macs = ceilings["dot2"]
            parts = winograd_kernels(plan, target)
            _rounds([ceiling, *parts], args.rounds)
            rate = shape.macs / sum(part.best for part in parts)
            rows.append(_row(isa, f"winograd {dtype}", label, None, rate, macs / ceiling.best))
            print(_line(rows[-1]), flush=True)
    ceiling, macs = next(iter(ceilings.values()))
    for label, shape in DEPTHWISE.items():
        if _wanted(label, args.only):
            kernel, x = depthwise_kernel(shape, isa)
            timed_kernel = Timed(kernel, target, x)
            _rounds([ceiling, timed_kernel], args.rounds)
            done = shape.out_pixels * shape.out_channels * math.prod(shape.kernel)
            rows.append(_row(isa, "depthwise", label, None, done / timed_kernel.best, macs / ceiling.best))
            print(_line(rows[-1]), flush=True)
    return rows


def _wanted(label: str, only: list[str] | None) -> bool:
    return not only or any(part in label for part in only)


def _rounds(timed: list[Timed], rounds: int) -> None:
    for _ in range(rounds):
        for one in timed:
            one.round()


def _tile(tiling: Tiling | None) -> str:
    return "" if tiling is None else f"{tiling.pixels}x{tiling.vectors} {tiling.parallel} {tiling.chunk}"


def _row(isa: Isa, product: str, label: str, tiling: Tiling | None, rate: float, top: float) -> dict[str, object]:
    return {
        "isa": isa.name,
        "product": product,
        "shape": label,
        "tile": _tile(tiling),
        "gmacs": round(rate / 1e9, 1),
        "ceiling": round(top / 1e9, 1),
        "share": round(rate / top, 3),
    }


def _line(row: dict[str, object]) -> str:
    line = "{isa:12s} {product:14s} {shape:24s} {tile:18s} {gmacs:7.1f} GMAC/s of {ceiling:6.1f}  {share:.0%}".format(
        **row
    )
    return line + "".join(f"  {tile}: {share:.0%}" for tile, share in row.get("best", ()))  # type: ignore[attr-defined]


def main() -> None:
    available = {t.isa.name: t for t in X86_TARGETS if cpu_features().issuperset(t.features)}
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--isa", nargs="*", choices=list(available), default=list(available))
    parser.add_argument("--product", nargs="*", help="arithmetics: dot4/1 dot4/2 dot4/4 dot2 fma")
    parser.add_argument("--only", nargs="*", help="shapes whose label contains one of these")
    parser.add_argument("--search", action="store_true", help="try every tile")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    rows = [row for name in args.isa for row in measure(available[name], args)]
    if args.json:
        args.json.write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    main()
