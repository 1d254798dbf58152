"""Where tensors lie: no two that live together share a block, and little is wasted."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import tvm
from hypothesis import given, settings
from hypothesis import strategies as st
from tvm import relax

import drpai_qat
from drpai_qat.backends.cpu import memory, targets
from drpai_qat.backends.cpu.build import compile_module
from drpai_qat.backends.cpu.memory import Lifetime, PlanMemory, largest_live, place
from tests.lowering.running import grid, lowered, model, qdq

LIVES = st.builds(
    lambda size, first, length, outlives: Lifetime(size, first, 99 if outlives else first + length, outlives),
    st.integers(1, 10_000), st.integers(0, 40), st.integers(1, 12), st.sampled_from([False] * 9 + [True]),
)  # fmt: skip


@settings(max_examples=300)
@given(st.lists(LIVES, max_size=30))
def test_what_lives_together_lies_apart(tensors: list[Lifetime]) -> None:
    chosen, sizes = place(tensors)
    for number, size in enumerate(sizes):
        block = [tensor for tensor, where in zip(tensors, chosen, strict=True) if where == number]
        assert size == max(tensor.size for tensor in block)
        assert all(size <= 1.25 * tensor.size for tensor in block if tensor.outlives)
        for i, one in enumerate(block):
            assert not any(one.first <= other.last and other.first <= one.last for other in block[:i])
    assert largest_live(tensors) <= sum(sizes)


def test_a_chain_takes_two_blocks() -> None:
    chain = [Lifetime(100, step, step + 1) for step in range(10)]
    assert place(chain) == ([0, 1] * 5, [100, 100])
    assert largest_live(chain) == 200
    assert place([]) == ([], [])
    assert largest_live([]) == 0


def test_a_result_keeps_no_large_block() -> None:
    chosen, sizes = place([Lifetime(1000, 0, 1), Lifetime(100, 2, 9, outlives=True)])
    assert sizes == [1000, 100]
    chosen, sizes = place([Lifetime(1000, 0, 1), Lifetime(900, 2, 9, outlives=True)])
    assert (chosen, sizes) == ([0, 0], [1000])


def branches() -> object:
    """Two branches of different types that meet, one output from the middle."""
    body = (
        qdq("x", "a") + "r = Relu(a) s = Sigmoid(r)\n" + qdq("s", "b") + "p = MaxPool<kernel_shape = [2, 2]>(b)\n"
        "e = Exp(a) n = Neg(e)\n" + qdq("n", "c") + "m = MaxPool<kernel_shape = [2, 2]>(c) y = Concat<axis = 1>(p, m)\n"
    )
    grids = grid("a", 0.02, 128) | grid("b", 1 / 255, 0) | grid("c", 0.1, 255)
    return model("(float[1,8,9,9] x) => (float[1,16,8,8] y, float[1,8,9,9] n)", body, **grids)


@pytest.mark.parametrize("source", [branches()])
def test_the_same_results_as_with_memory_for_each(source: object, monkeypatch: pytest.MonkeyPatch) -> None:
    network = lowered(source)
    plan = PlanMemory()
    shared = compile_module(network.module, targets.host(), plan)
    monkeypatch.setattr(memory, "place", lambda tensors: (list(range(len(tensors))), [t.size for t in tensors]))
    apart = PlanMemory()
    own = compile_module(network.module, targets.host(), apart)
    assert plan.use.live == apart.use.live <= plan.use.workspace < apart.use.workspace
    assert len(plan.use.by_step) == network.module["main"].script().count("R.call_tir(")
    assert plan.use.by_step == apart.use.by_step
    assert max(plan.use.by_step) == plan.use.live
    x = np.random.default_rng(0).normal(0, 1, (1, 8, 9, 9)).astype(np.float32)
    results = [_run(executable, x, network.params.values()) for executable in (shared, own)]
    for one, other in zip(*results, strict=True):
        np.testing.assert_array_equal(one, other)


def _run(executable: relax.VMExecutable, x: np.ndarray, params: Iterable[tvm.runtime.Tensor]) -> list[np.ndarray]:
    machine = relax.VirtualMachine(executable, tvm.cpu())
    arguments = [tvm.runtime.tensor(value) for value in (x, *params)]
    held = [machine["main"](*arguments) for _ in range(3)]  # results that are kept keep their values
    first = [part.numpy() for part in held[0]]
    assert all(np.array_equal(a, b.numpy()) for more in held[1:] for a, b in zip(first, more, strict=True))
    return first


@pytest.mark.parametrize("name", ["pt_up_yolo", "mo_unet", "aimet_resnet_bn", "tf_deconv_op13"])
def test_the_report_says_it(models: Path, tmp_path: Path, name: str) -> None:
    report = drpai_qat.compile(models / f"{name}.onnx", output_dir=tmp_path / "out", check="none")
    use = report.size.memory
    # Blocks are given whole: parts of sums that a kernel writes together find none of their size (pt_up_yolo: 1.55).
    assert 0 < use.live <= use.workspace <= 1.6 * use.live
    size = json.loads((tmp_path / "out/report.json").read_text())["size"]
    assert size["deploy.params"] == (tmp_path / "out/deploy.params").stat().st_size
    assert size["largest_live_activations"] == use.live
