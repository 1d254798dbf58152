"""The lowered network: kernels in order over numbered buffers, and its form as a Relax function.

Buffers are flat. Constants (packed weights, epilogue numbers) are arguments of `main`, so they travel in deploy.params.
"""

from __future__ import annotations

import hashlib
import math
import re
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import tvm
import tvm_ffi
from tvm import relax

from drpai_qat.core.errors import LoweringError
from drpai_qat.core.text import listed
from drpai_qat.graph.grid import Grid
from drpai_qat.kernels.epilogue import Kernel
from drpai_qat.lowering.storage import Stored, row_major

Array = npt.NDArray[np.generic]


@dataclass(frozen=True)
class KernelStep:
    """outs = kernel(inputs, constants)."""

    kernel: Kernel
    inputs: tuple[int, ...]
    constants: tuple[str, ...]
    outs: tuple[int, ...]
    label: str


@dataclass(frozen=True)
class ImportedStep:
    """outs = a Relax function made by TVM's ONNX importer, called with shaped float tensors."""

    function: relax.Function
    private: dict[tvm.ir.GlobalVar, tvm.tirx.PrimFunc]
    inputs: tuple[int, ...]
    in_shapes: tuple[tuple[int, ...], ...]
    outs: tuple[int, ...]
    label: str


@dataclass
class Program:
    """Kernels in the order in which they run; grown by the lowering, read once by `to_module`.

    Attributes:
        steps: in their order.
        sizes: elements and dtype of each buffer; steps, inputs and outputs name buffers by their index.
        constants: flat arrays by the name of the argument that holds them, in the order of the arguments.
        inputs: of the network: buffer, name, shape.
        outputs: of the network: buffer, shape.
        constant_buffers: buffers that are no step's output but a constant, by its argument's name.
    """

    steps: list[KernelStep | ImportedStep] = field(default_factory=list)
    sizes: list[tuple[int, str]] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)
    inputs: list[tuple[int, str, tuple[int, ...]]] = field(default_factory=list)
    outputs: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    constant_buffers: dict[int, str] = field(default_factory=dict)
    _known: dict[tuple[str, int, bytes], str] = field(default_factory=dict)

    def buffer(self, size: int, dtype: str) -> int:
        """A new buffer of `size` elements."""
        self.sizes.append((size, dtype))
        return len(self.sizes) - 1

    def add_input(self, name: str, shape: tuple[int, ...], dtype: str, grid: Grid | None) -> Stored:
        """The next input of the network."""
        stored = Stored(self.buffer(math.prod(shape), dtype), shape, row_major(len(shape)), dtype, grid)
        self.inputs.append((stored.buffer, name, shape))
        return stored

    def constant(self, value: Array) -> str:
        """The argument that holds this array; equal arrays share one."""
        flat = np.ascontiguousarray(value).reshape(-1)
        key = (flat.dtype.name, flat.size, hashlib.sha256(flat.view(np.uint8).data).digest())
        if key not in self._known:
            name = f"p{len(self.constants):05d}"
            self.constants[name] = flat
            self._known[key] = name
        return self._known[key]

    def constant_buffer(self, value: Array) -> int:
        """A buffer that holds a constant tensor."""
        number = self.buffer(value.size, value.dtype.name)
        self.constant_buffers[number] = self.constant(value)
        return number

    def run(self, kernel: Kernel, inputs: tuple[Stored | int, ...], label: str) -> tuple[int, ...]:
        """Append a kernel; returns the buffers it writes."""
        numbers = tuple(i.buffer if isinstance(i, Stored) else i for i in inputs)
        names = tuple(self.constant(c) for c in kernel.constants)
        size = math.prod(kernel.out_shape)
        outs = tuple(self.buffer(size, dtype) for dtype in (kernel.out_dtype, *kernel.more))
        self.steps.append(KernelStep(kernel, numbers, names, outs, label))
        return outs


def live_steps(program: Program) -> set[int]:
    """Indices of the steps that an output depends on; TVM drops the others."""
    needed = {number for number, _ in program.outputs}
    live = set()
    for index in reversed(range(len(program.steps))):
        step = program.steps[index]
        if needed.intersection(step.outs):
            live.add(index)
            needed.update(step.inputs)
    return live


def kind_of(name: str) -> str:
    """What a kernel is named for, less the numbers that tell it from others: the symbol in deploy.so begins with it."""
    return re.sub(r"_?\d+", "", name)


def to_module(program: Program) -> tvm.IRModule:
    """The program as an IRModule whose `main` takes the network's inputs, then the constants in their order.

    Raises: LoweringError: the graph's shapes contradict each other.
    """
    _check_sizes(program)  # before there is a builder: one that an exception ends prints a warning
    builder = relax.BlockBuilder()
    inputs = [
        relax.Var(f"input_{i}", relax.TensorType(shape, program.sizes[number][1]))
        for i, (number, _, shape) in enumerate(program.inputs)
    ]
    constants = {
        name: relax.Var(name, relax.TensorType((value.size,), value.dtype.name))
        for name, value in program.constants.items()
    }
    functions: dict[tvm_ffi.StructuralKey, tvm.ir.GlobalVar] = {}
    buffers: dict[int, relax.Expr] = {}
    with builder.function("main", [*inputs, *constants.values()]):
        with builder.dataflow():
            for (number, _, shape), var in zip(program.inputs, inputs, strict=True):
                buffers[number] = var if len(shape) == 1 else builder.emit(relax.op.reshape(var, (math.prod(shape),)))
            buffers.update({number: constants[name] for number, name in program.constant_buffers.items()})
            for step in program.steps:
                if isinstance(step, KernelStep):
                    _emit_kernel(builder, step, program, functions, buffers, constants)
                else:
                    _emit_imported(builder, step, program, buffers)
            results = []
            for number, shape in program.outputs:
                flat = buffers[number]
                result = flat if len(shape) == 1 else relax.op.reshape(flat, shape)
                results.append(builder.emit_output(result))
        builder.emit_func_output(results[0] if len(results) == 1 else relax.Tuple(results))
    module = builder.get()
    for step in program.steps:
        if isinstance(step, ImportedStep):
            module.update(step.private)
    return module


def _emit_kernel(
    builder: relax.BlockBuilder,
    step: KernelStep,
    program: Program,
    functions: dict[tvm_ffi.StructuralKey, tvm.ir.GlobalVar],
    buffers: dict[int, relax.Expr],
    constants: dict[str, relax.Var],
) -> None:
    key = tvm_ffi.StructuralKey(step.kernel.func)
    if key not in functions:
        function = step.kernel.func.without_attr("global_symbol")
        functions[key] = builder.add_func(function, f"{step.label}_{len(functions)}")
    types = [relax.TensorType((size,), dtype) for size, dtype in (program.sizes[out] for out in step.outs)]
    arguments = [*(buffers[i] for i in step.inputs), *(constants[name] for name in step.constants)]
    result = builder.emit(relax.call_tir(functions[key], arguments, types[0] if len(types) == 1 else types))
    for i, out in enumerate(step.outs):
        buffers[out] = result if len(types) == 1 else builder.emit(relax.TupleGetItem(result, i))


def _check_sizes(program: Program) -> None:
    """Compiled kernels check nothing, so they never get a buffer of another size than they were written for."""
    for step in program.steps:
        if isinstance(step, ImportedStep):
            continue
        found = (
            *(program.sizes[number][0] for number in step.inputs),
            *(program.constants[name].size for name in step.constants),
            *(program.sizes[number][0] for number in step.outs),
        )
        wanted = tuple(int(one.shape[0]) for one in step.kernel.func.params)
        if found != wanted:
            raise LoweringError(
                f"shapes of the graph contradict each other: the kernel {step.label} is for tensors of "
                f"{listed([*map(str, wanted)])} values, and gets {listed([*map(str, found)])}"
            )
    for number, shape in program.outputs:
        if math.prod(shape) != program.sizes[number][0]:
            raise LoweringError(f"an output of shape {list(shape)} holds {program.sizes[number][0]} values")


def _emit_imported(
    builder: relax.BlockBuilder, step: ImportedStep, program: Program, buffers: dict[int, relax.Expr]
) -> None:
    target = builder.add_func(step.function, step.label)
    arguments = []
    for number, shape in zip(step.inputs, step.in_shapes, strict=True):
        arguments.append(builder.emit(relax.op.reshape(buffers[number], shape)))
    result = builder.emit(relax.Call(target, arguments))
    for i, number in enumerate(step.outs):
        part = result if len(step.outs) == 1 else builder.emit(relax.TupleGetItem(result, i))
        buffers[number] = builder.emit(relax.op.reshape(part, (program.sizes[number][0],)))
