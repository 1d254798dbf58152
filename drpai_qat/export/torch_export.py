"""Write a PyTorch QAT model as ONNX: freeze a copy, export it, compare the file with the framework."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from drpai_qat.core.errors import DrpaiQatError, MissingExtraError, ModelError
from drpai_qat.core.quiet import quiet
from drpai_qat.export.comparison import Exported, compare
from drpai_qat.export.torch_fake_quant import freeze, is_fake_quant, opset_needed, refuse_unobserved
from drpai_qat.export.torch_float_layers import notes_on_float
from drpai_qat.export.torch_interface import Interface, unwrapped
from drpai_qat.export.writing import staged

_DYNAMO_FIRST_OPSET = 18  # its translations are written for 18 and later
_TORCHSCRIPT_LAST_OPSET = 20


def export(
    model: nn.Module,
    example_inputs: Any,
    path: Path,
    *,
    opset: int,
    input_names: Sequence[str] | None,
    output_names: Sequence[str] | None,
    dynamic_batch: bool,
) -> Exported:
    """See `drpai_qat.export.pytorch`."""
    notes: list[str] = []
    frozen = _evaluation_copy(unwrapped(model), notes)
    refuse_unobserved(frozen)
    interface = Interface(frozen, example_inputs)
    example = interface.tensors
    with torch.no_grad():
        outputs = list(output_names or _output_names(interface))
        expected = interface(*example)
        exporters = _freeze(frozen, notes)
        inputs = list(input_names or interface.names or _names("input", len(example)))
        opset = max(opset, opset_needed(frozen))
        if opset > _TORCHSCRIPT_LAST_OPSET:
            exporters = (_dynamo,)
        with staged(path) as written:
            exporter = _write(exporters, interface, example, written, opset, inputs, outputs, dynamic_batch, notes)
            arrays = [tensor.numpy() for tensor in example]
            difference = compare(written, arrays, [tensor.numpy() for tensor in expected])
    if difference.sqnr_db < 30.0:
        notes.append("below 30 dB: roundings that fall the other way add up in this model; more training may settle it")
    return Exported(path, exporter, difference.max_error, difference.sqnr_db, tuple(notes), difference.max_steps)


def _output_names(interface: Interface) -> list[str]:
    """From the first forward of the copy; its failure is the model's or the example's."""
    try:
        return interface.output_names()
    except DrpaiQatError:
        raise
    except Exception as error:  # whatever the model raises
        integers = any(_is_integer_layer(module) for module in interface.modules())
        advice = "; export the prepared model, before convert" if integers else ""
        raise ModelError(f"the model does not run on example_inputs: {_first_line(error)}{advice}") from error


def _evaluation_copy(model: nn.Module, notes: list[str]) -> nn.Module:
    """A float32 copy on the CPU in evaluation mode, observers off."""
    try:
        frozen = copy.deepcopy(model).cpu()
    except Exception as error:  # what a user's attributes raise
        raise ModelError(f"the model can't be copied for export: {_first_line(error)}") from error
    others = {tensor.dtype for tensor in frozen.parameters() if tensor.is_floating_point()} - {torch.float32}
    if others:
        names = " and ".join(sorted(str(dtype).removeprefix("torch.") for dtype in others))
        notes.append(f"its {names} parameters are exported as float32")
        frozen.float()
    if _is_exported(frozen):
        _move_exported_to_eval(frozen)
    else:
        frozen.eval()
    for module in frozen.modules():
        if is_fake_quant(module):
            module.disable_observer()
    return frozen


def _is_exported(model: nn.Module) -> bool:
    """Whether `model` comes from torch.export: its graph holds the training behaviour, `eval` does not reach it."""
    if not isinstance(model, torch.fx.GraphModule):
        return False
    return any(isinstance(node.target, torch._ops.OpOverload) for node in model.graph.nodes)


def _move_exported_to_eval(model: nn.Module) -> None:
    try:
        from torchao.quantization.pt2e import move_exported_model_to_eval
    except ImportError as error:
        raise MissingExtraError("exporting a PT2E model needs torchao: pip install torchao") from error
    move_exported_model_to_eval(model)


_Exporter = Callable[[nn.Module, tuple[Tensor, ...], Path, int, list[str], list[str], bool], None]


def _freeze(model: nn.Module, notes: list[str]) -> tuple[_Exporter, ...]:
    """Freeze the ranges of `model`; returns the exporters to try, the one that fits best first."""
    if any(is_fake_quant(module) for module in model.modules()):
        left = notes_on_float(model)
        kept, off = freeze(model)
        if kept == 0:
            raise ModelError(f"all {off} fake-quant modules are switched off: enable_fake_quant before export")
        if off:
            notes.append(f"{off} fake-quant modules were switched off; what they guard is exported in float32")
        notes.extend(left)
        return (_torchscript, _dynamo)
    if isinstance(model, torch.fx.GraphModule) and any(_is_decomposed(node) for node in model.graph.nodes):
        return (_dynamo,)
    if any(_is_integer_layer(module) for module in model.modules()):
        return (_torchscript,)
    raise ModelError(
        "the model has no fake-quant: call prepare_qat and train first (models of Brevitas, NNCF, AIMET and others "
        "are exported by their own exporters)"
    )


def _is_decomposed(node: torch.fx.Node) -> bool:
    return "quantized_decomposed" in str(node.target)


def _is_integer_layer(module: nn.Module) -> bool:
    home = type(module).__module__
    return home.startswith(("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized")) and "functional" not in home


def _write(
    exporters: tuple[_Exporter, ...],
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic_batch: bool,
    notes: list[str],
) -> str:
    """Try the exporters in order; returns the name of the one that wrote the file."""
    failures = []
    for exporter in exporters:
        name = exporter.__name__.strip("_")
        try:
            with quiet():
                exporter(model, example, path, opset, input_names, output_names, dynamic_batch)
        except DrpaiQatError:
            raise
        except Exception as error:  # exporters fail in as many ways as models differ; the reason is kept
            failures.append(f"{name}: {_first_line(error)}")
            continue
        notes.extend(f"not by {failure}" for failure in failures)
        return name
    raise ModelError("PyTorch can't export this model: " + "; ".join(failures))


def _torchscript(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic_batch: bool,
) -> None:
    axes = {name: {0: "batch"} for name in input_names + output_names} if dynamic_batch else None
    torch.onnx.export(
        model,
        example,
        str(path),
        dynamo=False,
        opset_version=opset,
        input_names=input_names,
        output_names=output_names,
        dynamic_axes=axes,
    )


def _dynamo(
    model: nn.Module,
    example: tuple[Tensor, ...],
    path: Path,
    opset: int,
    input_names: list[str],
    output_names: list[str],
    dynamic_batch: bool,
) -> None:
    import torch.ao.quantization.fx._decomposed

    batch = (tuple({0: torch.export.Dim.DYNAMIC} for _ in example),) if dynamic_batch else None  # of *tensors
    if dynamic_batch and example[0].shape[0] == 1:  # a batch of one would be taken for a constant
        example = tuple(torch.cat([tensor, tensor]) for tensor in example)
    program = torch.export.export(model, example, dynamic_shapes=batch)
    torch.onnx.export(
        program,
        dynamo=True,
        opset_version=max(opset, _DYNAMO_FIRST_OPSET),
        input_names=input_names,
        output_names=output_names,
    ).save(str(path))


def _names(stem: str, count: int) -> list[str]:
    return [stem] if count == 1 else [f"{stem}_{index}" for index in range(count)]


def _first_line(error: BaseException) -> str:
    while error.__cause__ is not None:  # the exporters wrap the reason in pages of advice
        error = error.__cause__
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0][:120]}" if lines else type(error).__name__
