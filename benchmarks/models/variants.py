"""The three forms in which a benchmark model is written, each a real export with a few real training steps behind it.

    raw     PyTorch eager QAT, DRP-AI recipe: no fusion, no stubs
    fused   PyTorch eager QAT on fused modules with stubs at the ends
    clean   the float network through onnxruntime's static quantizer, QDQ, per-channel weights

Beside NAME.onnx stands NAME.npz: `x`, a few photos, and `y` (`y1`, `y2` for further outputs), what the framework that
made the file computes for them with its own fake-quant.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from onnxruntime.quantization.shape_inference import quant_pre_process
from recipes import prepare, settle_ranges
from torch import Tensor, nn

from drpai_qat.runtimes.onnxruntime import Reference

OPSET = 13
VARIANTS = ("raw", "fused", "clean")
Loss = Callable[[nn.Module, Tensor, Tensor], Tensor]


def train(model: nn.Module, images: Tensor, labels: Tensor, loss: Loss, *, steps: int, batch: int, rate: float) -> None:
    """A few steps of Adam on `images`, in place, in training mode."""
    model.train()
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    for step in range(steps):
        rows = torch.arange(step * batch, (step + 1) * batch) % len(images)
        optimizer.zero_grad()
        loss(model, images[rows], labels[rows]).backward()
        optimizer.step()


@torch.no_grad()
def settle_batch_norm(model: nn.Module, batches: Sequence[Tensor]) -> None:
    """Replace the running statistics by the averages over `batches`: a few training steps leave them half-way."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # cumulative average
    model.train()
    for images in batches:
        model(images)
    for norm, momentum in zip(norms, momenta, strict=True):
        norm.momentum = momentum


def write_qat(
    model: nn.Module,
    recipe: str,
    images: Tensor,
    labels: Tensor,
    loss: Loss,
    samples: Tensor,
    path: Path,
    *,
    steps: int,
) -> None:
    """Fine-tune a float network with fake-quant and export it.

    Args:
        model: trained float network; for recipe `fused` built with `quantizable=True`.
        recipe: a recipe of `samples/PyTorch_sample/recipes.py`.
        images: float32 (count, 3, H, W), the training images, of the size that the network is exported for.
        labels: int64 (count,).
        samples: float32 (n, 3, H, W), stored as `x`.
        path: the .onnx file; the .npz goes beside it.
        steps: optimizer steps with fake-quant.
    """
    qat = prepare(model, recipe, images[:2])
    train(qat, images, labels, loss, steps=steps, batch=4, rate=1e-5)
    settle_ranges(qat, list(images.split(4)))
    with torch.no_grad():
        outputs = _as_tuple(qat(samples))
    names = [f"output{i}" if len(outputs) > 1 else "output" for i in range(len(outputs))]
    torch.onnx.export(
        qat, (samples[:1],), str(path), opset_version=OPSET, dynamo=False, input_names=["input"], output_names=names
    )
    _write_samples(path, samples.numpy(), [output.numpy() for output in outputs])


def write_clean(model: nn.Module, images: Tensor, samples: Tensor, path: Path) -> None:
    """Export a float network and quantize it with onnxruntime; arguments as in `write_qat`."""
    with tempfile.TemporaryDirectory() as folder:
        plain, ready = Path(folder, "float.onnx"), Path(folder, "ready.onnx")
        torch.onnx.export(
            model.eval(), (samples[:1],), str(plain), opset_version=OPSET, dynamo=False, input_names=["input"]
        )
        quant_pre_process(str(plain), str(ready), skip_symbolic_shape=True)
        quantize_static(
            str(ready),
            str(path),
            _Photos(images.numpy()),
            quant_format=QuantFormat.QDQ,
            per_channel=True,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
        )
    reference = Reference(path, path.name)
    rows = [list(reference.run({"input": row[None]}).values()) for row in samples.numpy()]
    _write_samples(path, samples.numpy(), [np.concatenate(parts) for parts in zip(*rows, strict=True)])


class _Photos(CalibrationDataReader):
    """The calibration images, one at a time."""

    def __init__(self, images: NDArray[np.float32]) -> None:
        self._rows = iter(images)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        row = next(self._rows, None)
        return None if row is None else {"input": row[None]}


def _as_tuple(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _write_samples(path: Path, x: NDArray[np.float32], outputs: Sequence[NDArray[np.float32]]) -> None:
    names = ["y", *(f"y{i}" for i in range(1, len(outputs)))]
    np.savez_compressed(path.with_suffix(".npz"), x=x, **dict(zip(names, outputs, strict=True)))
