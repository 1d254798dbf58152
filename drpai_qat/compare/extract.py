"""The smallest model that still shows a difference, with its inputs: to attach to a bug report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx

from drpai_qat.compare.arrangement import arranged
from drpai_qat.compare.layers import LayerComparison
from drpai_qat.compare.lite_side import LiteSide
from drpai_qat.compare.matching import Matching, Pair
from drpai_qat.compare.onnx_side import FED, OnnxSide
from drpai_qat.compare.structure import Feeds, Side, frontier
from drpai_qat.core.errors import OptionError
from drpai_qat.core.text import listed, one_line
from drpai_qat.deployment.folder import staged

_README = """\
One layer of {a} (A) and {b} (B), cut out by drpai-qat compare: {tensor}, computed by {op} {node}.

{files}
  inputs.npz    what it is fed, by input name, as A has it
  a.npy b.npy   what A and B make of that, as reals: they differ in {different} of {count} values, by up to {most:.3g}
"""


def extract(a: Side, b: Side, matching: Matching, sample: Feeds, tensor: str, folder: Path) -> None:
    """Write the folder.

    Args:
        tensor: A's name of a compared tensor, or B's.
    Raises: OptionError: there is no such tensor. DeploymentError: the folder can't be written.
    """
    pair = next((one for one in matching.points if tensor in (one.ours, one.theirs)), None)
    if pair is None:
        names = one_line(listed([one.ours for one in matching.points], 3))
        raise OptionError(f"--extract {tensor}: no compared tensor has this name: there are {names}")
    comparison = LayerComparison(a, b, matching)
    reference = a.exposed([one.ours for one in matching.points])(sample)
    found = b.cut([one.theirs for one in matching.points], [pair.theirs])(
        {**matching.feeds(sample, b.inputs), **comparison.fed(reference)}
    )[pair.theirs]
    ours = np.asarray(reference[pair.ours])
    theirs = np.asarray(arranged(found, pair.order, ours.shape))
    with staged(folder) as out:
        files = _write_a(a, matching.points, pair, sample, reference, out)
        files += _write_b(b, matching.points, pair, out)
        np.save(out / "a.npy", ours)
        np.save(out / "b.npy", theirs)
        apart = np.abs(theirs.astype(np.float64) - ours)
        one = a.structure.tensors[pair.ours]
        text = _README.format(
            a=a.name, b=b.name, tensor=pair.ours, op=one.op, node=one.node, files="\n".join(files),
            different=int((apart > 0).sum()), count=apart.size, most=float(apart.max(initial=0)),
        )  # fmt: skip
        (out / "README.txt").write_text(text, encoding="utf-8")


def _write_a(side: Side, points: Sequence[Pair], pair: Pair, sample: Feeds, values: Feeds, out: Path) -> list[str]:
    """A's layer with its inputs."""
    fed = _upstream(side, [one.ours for one in points], pair.ours)
    inputs = {name: np.asarray(value) for name, value in sample.items()}
    if isinstance(side, OnnxSide):
        model = side.cut_model(fed, [pair.ours])
        onnx.save(model, out / "a.onnx")
        taken = {value.name for value in model.graph.input}
        inputs = {name: value for name, value in inputs.items() if name in taken}
        inputs |= {side.integers_of(name) + FED: side.feed(name, values[name]) for name in fed}
        _save(out, {name: value for name, value in inputs.items() if name in taken})
        return ["  a.onnx        A's layer"]
    _save(out, {name + FED: values[name] for name in fed} or inputs)
    return _write_lite(side, fed, pair.ours, out / "a.tflite", "A")


def _save(out: Path, arrays: Feeds) -> None:
    np.savez(out / "inputs.npz", **arrays)  # type: ignore[arg-type]


def _write_b(side: Side, points: Sequence[Pair], pair: Pair, out: Path) -> list[str]:
    fed = _upstream(side, [one.theirs for one in points], pair.theirs)
    if isinstance(side, OnnxSide):
        onnx.save(side.cut_model(fed, [pair.theirs]), out / "b.onnx")
        return ["  b.onnx        B's layer"]
    return _write_lite(side, fed, pair.theirs, out / "b.tflite", "B")


def _write_lite(side: Side, fed: Sequence[str], name: str, path: Path, label: str) -> list[str]:
    if not isinstance(side, LiteSide):
        return []
    path.write_bytes(side.cut_file(fed, [name]))
    return [f"  {path.name:13} {label}'s layer"]


def _upstream(side: Side, points: Sequence[str], name: str) -> list[str]:
    return sorted(frontier(side.structure, name, frozenset(points)))
