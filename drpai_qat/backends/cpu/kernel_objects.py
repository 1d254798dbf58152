"""Kernels as object files: each distinct one is built once, by several processes, and kept in the cache.

TVM's virtual machine calls a kernel by the name of its symbol. Here the symbol is made of the kernel's own content, so
an object file fits every network that holds the same kernel: another training of one architecture finds nearly all.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import struct
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache as remember
from functools import partial
from importlib.metadata import version
from pathlib import Path

import tvm
from tvm import relax, tirx

from drpai_qat.backends.cpu.cache import KernelCache
from drpai_qat.backends.cpu.memory import WHOLE
from drpai_qat.backends.cpu.targets import Target
from drpai_qat.core.isolation import start_isolated
from drpai_qat.core.progress import Tally
from drpai_qat.lowering.program import kind_of
from drpai_qat.report.size import CodeUse

_LEAST = 4  # kernels that are worth a process
_MOST_PROCESSES = 4  # each takes some 100 MB
_PROGBITS, _WRITABLE, _LOADED = 1, 1, 2  # of a section of an object file


@dataclass(frozen=True)
class _Kernel:
    """A kernel under its final name.

    Attributes:
        symbol: kind, and the start of `key`.
        key: hash of everything that its object file depends on.
        text: the kernel as TVM prints it.
    """

    symbol: str
    key: str
    text: str
    function: tirx.PrimFunc

    @classmethod
    def of(cls, name: str, function: tirx.PrimFunc, target: Target) -> _Kernel:
        kind = kind_of(name)
        function = function.without_attr("global_symbol")
        text = function.script()
        if "metadata[" in text:  # TVM could not print all of it: equal text need not be an equal kernel
            text += f"\n{name} {secrets.token_hex()}"
        key = hashlib.sha256("\0".join((kind, str(target.tvm_target), _generator(), text)).encode()).hexdigest()
        return cls(f"{kind}_{key[:16]}", key, text, function)


@remember
def _generator() -> str:
    """What turns TIR into machine code; another one makes other objects."""
    own = Path(__file__).read_bytes()
    llvm = tvm.target.codegen.llvm_version_major()
    return f"tvm {version('apache-tvm')} llvm {llvm} {hashlib.sha256(own).hexdigest()}"


def outline_kernels(
    target: Target, cache: KernelCache, folder: Path, tally: Tally | None, told: Callable[[CodeUse], object]
) -> tvm.transform.Pass:
    """Pass, the last of a Relax pipeline: kernels become object files, and calls name their symbols.

    The objects travel as static libraries in the module's attribute `external_mods`; exporting links them.

    Args:
        folder: for the object files; they must outlive the export.
        tally: counts the kernels that are built.
        told: is given the sizes of the kernels, and who calls which.
    """

    def run(module: tvm.IRModule, context: object) -> tvm.IRModule:
        kernels = {
            var: _Kernel.of(var.name_hint, function, target)
            for var, function in module.functions.items()
            if isinstance(function, tirx.PrimFunc)
        }
        if not kernels:
            return module
        distinct = {kernel.symbol: kernel for kernel in kernels.values()}
        _make(distinct.values(), target, cache, folder, tally)
        symbols = {var: kernel.symbol for var, kernel in kernels.items()}
        sizes = {symbol: code_bytes(_object(folder, kernel)) for symbol, kernel in distinct.items()}
        told(CodeUse(sizes, _steps(module, symbols)))
        calls = _Calls({var: relax.ExternFunc(kernel.symbol) for var, kernel in kernels.items()})
        others = {
            var: calls.visit_expr(function) if isinstance(function, relax.Function) else function
            for var, function in module.functions.items()
            if var not in kernels
        }
        libraries = [
            tvm.runtime.load_static_library(str(_object(folder, kernel)), [symbol])
            for symbol, kernel in distinct.items()
        ]
        return tvm.IRModule(others, attrs=module.attrs).with_attr("external_mods", libraries)

    return tvm.transform.module_pass(run, opt_level=0, name="drpai_qat.OutlineKernels")


def _steps(module: tvm.IRModule, symbols: Mapping[tvm.ir.GlobalVar, str]) -> tuple[tuple[str, ...], ...]:
    """The symbols behind each call of the whole network: a kernel's own, or those that a function calls."""

    def called(function: relax.Function) -> list[tvm.ir.GlobalVar]:
        found: list[tvm.ir.GlobalVar] = []

        def visit(expression: relax.Expr) -> None:
            if isinstance(expression, relax.Call) and isinstance(expression.op, tvm.ir.GlobalVar):
                found.append(expression.op)

        relax.analysis.post_order_visit(function, visit)
        return found

    def behind(var: tvm.ir.GlobalVar) -> list[str]:
        if var in symbols:
            return [symbols[var]]
        return [symbol for one in called(module[var]) for symbol in behind(one)]

    return tuple(tuple(dict.fromkeys(behind(var))) for var in called(module[WHOLE]))


def code_bytes(path: Path) -> int:
    """Instructions and constants in an object file: what it adds to deploy.so. ELF of 64 bits, little-endian."""
    data = path.read_bytes()
    if data[:6] != b"\x7fELF\x02\x01":
        return 0
    (start,) = struct.unpack_from("<Q", data, 40)  # of the table of sections
    size, count = struct.unpack_from("<HH", data, 58)
    total = 0
    for i in range(count):
        kind, flags, _, _, length = struct.unpack_from("<IQQQQ", data, start + i * size + 4)
        if kind == _PROGBITS and flags & _LOADED and not flags & _WRITABLE:
            total += length
    return total


@relax.expr_functor.mutator
class _Calls(relax.PyExprMutator):  # type: ignore[misc]
    """Calls to global functions directed to symbols."""

    def __init__(self, symbols: dict[tvm.ir.GlobalVar, relax.ExternFunc]) -> None:
        super().__init__()
        self._symbols = symbols

    def visit_global_var_(self, op: tvm.ir.GlobalVar) -> relax.Expr:
        return self._symbols.get(op, op)


def _object(folder: Path, kernel: _Kernel) -> Path:
    return folder / f"{kernel.symbol}.o"


def _make(kernels: Iterable[_Kernel], target: Target, cache: KernelCache, folder: Path, tally: Tally | None) -> None:
    """Write the object file of each kernel, from the cache or newly built."""
    missing = []
    for kernel in kernels:
        known = cache.get(kernel.key)
        if known is None:
            missing.append(kernel)
        else:
            _object(folder, kernel).write_bytes(known)
    if not missing:
        return
    if tally is not None:
        tally.begin(len(missing))
    missing.sort(key=lambda kernel: len(kernel.text), reverse=True)  # long ones first, so that all end together
    count = max(1, min(len(os.sched_getaffinity(0)), _MOST_PROCESSES, len(missing) // _LEAST))
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        shares = [missing[i::count] for i in range(count)]
        others = [start_isolated(partial(_build, share, target, folder, tally), Path(scratch)) for share in shares[1:]]
        try:
            _build(shares[0], target, folder, tally)
        finally:
            for other in others:
                other.finish()
    for kernel in missing:
        cache.put(kernel.key, _object(folder, kernel).read_bytes())
    cache.trim()


def _build(kernels: Iterable[_Kernel], target: Target, folder: Path, tally: Tally | None) -> None:
    for kernel in kernels:
        module = tvm.IRModule({kernel.symbol: kernel.function.with_attr("global_symbol", kernel.symbol)})
        with target.tvm_target:
            built = tirx.build(module, target=target.tvm_target)
        built.write_to_file(str(_object(folder, kernel)))
        if tally is not None:
            tally.add()
