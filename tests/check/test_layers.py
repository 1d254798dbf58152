"""The cut model, run by onnxruntime itself, must give its own integers back: the cut loses and adds nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from drpai_qat.check.certificate import Certificate
from drpai_qat.check.choices import Choice, find_choices
from drpai_qat.check.layers import LayerCheck, assembled, cut_at_quantizers, fed, integer_limits, reference_run
from drpai_qat.data.samples import make_samples
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.ranges import find_bounds, find_grids
from drpai_qat.graph.rewrite import hoist_fake_quant
from drpai_qat.runtimes.onnxruntime import Reference
from preprocess import preprocess
from tests.lowering.running import grid, model, qdq
from tests.small_models import qdq_model

MODELS = Path(__file__).parents[1] / "models"


@pytest.fixture
def canonical():
    return preprocess(qdq_model(), "pytorch").model


def certificates(model, cut, pieces, count=2, seed=0) -> tuple[Certificate, ...]:
    check, reference = LayerCheck(model, cut), reference_run(model, cut, "reference")
    for sample in make_samples(model, count, seed):
        wanted = reference(sample)
        assert [name for name, _ in check.add(sample, wanted, pieces(fed(cut, sample, wanted)))]
    return check.certificates()


def test_cut_is_valid_and_complete(canonical):
    cut = cut_at_quantizers(canonical)
    onnx.checker.check_model(cut.model)
    assert len(cut.tensors) == 3
    assert {value.name for value in cut.model.graph.output} == {*cut.tensors, "y"}
    assert {value.name for value in cut.model.graph.input} == {"x", *(f"{name}/fed" for name in cut.tensors)}
    assert cut.makers[cut.tensors[0]] == "input x"
    assert cut.makers[cut.tensors[1]].startswith("Relu")
    assert cut.makers["y"].startswith("DequantizeLinear")


def test_reference_is_certified(canonical):
    cut = cut_at_quantizers(canonical)
    found = certificates(canonical, cut, Reference(cut.model, "cut").run)
    assert [one.tensor for one in found] == [*cut.tensors, "y"]
    assert all(one.certified for one in found)
    assert [one.count for one in found] == [2 * 192, 2 * 256, 2 * 4, 2 * 4]


def test_an_error_shows_in_its_own_layer_only(canonical):
    """The convolution's weights are changed in the cut model: what comes after still gets the right integers."""
    cut = cut_at_quantizers(canonical)
    for tensor in cut.model.graph.initializer:
        if len(tensor.dims) == 4:
            tensor.CopyFrom(onnx.numpy_helper.from_array(-onnx.numpy_helper.to_array(tensor), tensor.name))
    found = certificates(canonical, cut, Reference(cut.model, "cut").run)
    assert [one.certified for one in found] == [True, False, True, True]
    assert found[1].max_lsb > 1


def test_one_wrong_integer_is_found(canonical):
    cut = cut_at_quantizers(canonical)
    run = Reference(cut.model, "cut").run

    def faulty(feeds):
        found = run(feeds)
        found[cut.tensors[1]].reshape(-1)[77] ^= 1
        return found

    found = certificates(canonical, cut, faulty, count=1)
    assert [one.wrong for one in found] == [0, 1, 0, 0]


ROUNDING = model(
    "(float[1,6] x) => (float[1,6] y)", qdq("x", "a") + qdq("a", "y"), **grid("a", 1.0, 0), **grid("y", 1.0, 0)
)


@pytest.mark.parametrize(("distance", "verdict"), [(2.0**-21, "1 tie"), (2.0**-9, "1 wrong")])
def test_a_tie_is_told_from_a_wrong_integer(distance, verdict):
    cut = cut_at_quantizers(ROUNDING)
    sample = {"x": np.array([[0.2, 2.5 - distance, 3.7, 4.1, 5.3, 6.0]], np.float32)}
    wanted = reference_run(ROUNDING, cut, "reference")(sample)
    found = {name: value.copy() for name, value in Reference(cut.model, "cut").run(fed(cut, sample, wanted)).items()}
    assert found["q_a"][0, 1] == 2
    found["q_a"][0, 1] = 3
    check = LayerCheck(ROUNDING, cut)
    list(check.add(sample, wanted, found))
    first, *others = check.certificates()
    assert first.verdict == verdict
    assert first.distance == pytest.approx(distance)
    assert all(one.verdict == "equal" for one in others)


def test_pieces_put_together_are_the_network(canonical):
    cut = cut_at_quantizers(canonical)
    (sample,) = make_samples(canonical, 1, 3)
    wrong = {name: np.zeros_like(value) for name, value in reference_run(canonical, cut, "r")(sample).items()}
    together = assembled(Reference(cut.model, "cut").run, cut, sample, wrong)
    np.testing.assert_array_equal(together["y"], Reference(canonical, "whole").run(sample)["y"])


def test_the_scores_behind_a_class_are_found():
    body = qdq("x", "a") + "i = ArgMax<axis=1, keepdims=1>(a)\n y = Squeeze(i, one)"
    source = model("(float[1,6] x) => (int64[1] y)", body, one=np.array([1]), **grid("a", 1.0, 0))
    assert find_choices(source) == {"y": Choice("a", 1, 1)}
    assert find_choices(ROUNDING) == {}
    cut = cut_at_quantizers(source)
    check = LayerCheck(source, cut)
    sample = {"x": np.array([[0, 3, 9, 9, 1, 2]], np.float32)}
    wanted = reference_run(source, cut, "reference")(sample)
    list(check.add(sample, wanted, {**wanted, "y": np.array([3])}))
    assert [one.verdict for one in check.certificates()] == ["equal", "1 tie"]


def test_operators_that_are_not_evaluated_are_named():
    source = model("(float[1,1,4,4] x) => (float[1,1,2,2] y)", qdq("x", "a") + "y = LpPool<kernel_shape=[3,3]>(a)",
                   **grid("a", 1.0, 0))  # fmt: skip
    cut = cut_at_quantizers(source)
    found = certificates(source, cut, Reference(cut.model, "cut").run)
    assert [one.verdict for one in found] == ["equal", "not evaluated"]
    assert "LpPool" in found[1].missing


def test_float_outputs_are_not_cut():
    model = qdq_model()
    del model.graph.node[:]
    model.graph.node.append(onnx.helper.make_node("Relu", ["x"], ["y"]))
    assert cut_at_quantizers(model).tensors == ()


def test_every_seed_has_the_same_verdict(tmp_path):
    """Compiled once; four seeds. Each float32 computation flips other ties, and none of them is wrong."""
    from drpai_qat.backends.cpu import targets
    from drpai_qat.backends.cpu.cache import KernelCache
    from drpai_qat.backends.cpu.compilation import _compile_here
    from drpai_qat.core.progress import Silent
    from drpai_qat.runtimes.network import Network
    from drpai_qat.source.loading import load
    from drpai_qat.source.static_shapes import specialize

    loaded = load(MODELS / "pt_fuse_mbv2.onnx")
    canonical = preprocess(specialize("m", loaded.model, ()), "pytorch").model
    cut = cut_at_quantizers(canonical)
    network = _compile_here(
        cut.model, Network, targets.host(), tmp_path, KernelCache.of_user(), exact_sums=True, progress=Silent()
    )
    for seed in range(4):
        assert all(one.certified for one in certificates(canonical, cut, network.run_integers, count=1, seed=seed))


@pytest.mark.parametrize(
    ("bounded", "limits"),
    [
        ("b = Clip(x, low, high)", (-2, 8)),
        ("a = Max(x, lows) b = Min(highs, a)", (-4, 10)),
        ("a = Min(x, high) b = Clip(a, low)", (-2, 8)),
        ("a = Min(x, high) b = Max(a, tops)", (2, 12)),
        ("a = Clip(x, low, high) b = Max(a, x)", (-128, 127)),
        ("b = Max(x, x)", (-128, 127)),
    ],
)
def test_limits_in_front_of_a_grid_are_those_behind_it(bounded, limits):
    """A range of each channel ends at the widest: AIMET's and ours of per-channel activations are Max and Min."""
    graph = model(
        "(float[1,2,2,2] x) => (float[1,2,2,2] y)",
        f"{bounded} q = QuantizeLinear(b, scale, zero) y = DequantizeLinear(q, scale, zero)",
        scale=np.float32(0.5), zero=np.int8(0), low=np.float32(-1), high=np.float32(4),
        lows=np.array([-1, -2], np.float32).reshape(1, 2, 1, 1), highs=np.array([4, 5], np.float32).reshape(1, 2, 1, 1),
        tops=np.array([6, 1], np.float32).reshape(1, 2, 1, 1),
    ).graph  # fmt: skip
    maker = {name: node for node in graph.node for name in node.output}
    (quantize,) = (node for node in graph.node if node.op_type == "QuantizeLinear")
    assert integer_limits(quantize, maker, {tensor.name: tensor for tensor in graph.initializer}) == limits


def test_pieces_have_the_ranges_of_the_whole(models: Path) -> None:
    """Grids that follow from ranges, such as those of sums, would be others; what is fed stays within 0..127."""
    whole = preprocess(onnx.load(models / "pt_up_resnet.onnx"), "pytorch").model
    graphs = [hoist_fake_quant(read_graph(one)) for one in (whole, cut_at_quantizers(whole).model)]
    bounds = [find_bounds(graph, find_grids(graph, "uint8")) for graph in graphs]
    sums = [node.output for node in graphs[0].nodes if node.op == "Add"]
    assert sums
    assert [bounds[1][name] for name in sums] == [bounds[0][name] for name in sums]
