"""LayerNorm written as single steps runs as one kernel, unless something lies between them."""

from __future__ import annotations

import numpy as np
import pytest

from tests.lowering.running import assert_same_steps, compiled, grid, kernels, lowered, lsb, model, qdq, reference

FEEDS = {"x": np.random.default_rng(5).normal(1, 3, (2, 9, 40)).astype(np.float32)}
SCALES = {"g": np.linspace(0.5, 2, 40, dtype=np.float32), "b": np.linspace(-1, 1, 40, dtype=np.float32)}
SIGNATURE = "(float[2,9,40] x) => (float[2,9,40] y)"


def steps(mean: str = "ReduceMean<axes=[-1]>", square: str = "Pow(d, two)", after_root: str = "") -> str:
    return (
        f"m = {mean}(x)\nd = Sub(x, m)\np = {square}\nv = {mean}(p)\na = Add(v, eps)\nr = Sqrt(a)\n{after_root}"
        "n = Div(d, r)\nk = Mul(n, g)\no = Add(k, b)\n" + qdq("o", "y")
    )


def norm(body: str, signature: str = SIGNATURE, opset: int = 17):
    return model(signature, body, opset, eps=1e-5, two=2.0, **SCALES, **grid("y", 0.03, 128))


@pytest.mark.parametrize("square", ["Pow(d, two)", "Mul(d, d)"])
def test_seven_steps_and_what_follows_are_one_kernel(square):
    source = norm(steps(square=square))
    assert kernels(lowered(source)) == {"layer_norm": 1, "convert": 1}  # the output as float32
    assert_same_steps(source, FEEDS, 0.03, flips=0.002)


def test_a_quantizer_inside_is_kept():
    source = norm(steps(after_root="").replace("n = Div(d, r)", qdq("r", "rq", "y") + "n = Div(d, rq)"))
    assert kernels(lowered(source))["layer_norm"] == 0
    assert_same_steps(source, FEEDS, 0.03, flips=0.002)


@pytest.mark.parametrize(
    ("body", "outputs"),
    [
        (steps(), "float[2,9,40] y, float[2,9,1] r"),
        (steps() + "z = Neg(d)\n", "float[2,9,40] y, float[2,9,40] z"),
    ],
    ids=["output", "reader"],
)
def test_steps_that_others_read_stay(body, outputs):
    source = norm(body, f"(float[2,9,40] x) => ({outputs})")
    assert kernels(lowered(source))["layer_norm"] == 0
    got, wanted = compiled(source, FEEDS), reference(source, FEEDS)
    assert lsb(got[0], wanted[0], 0.03).max() <= 1
    np.testing.assert_allclose(got[1], wanted[1], rtol=1e-5, atol=1e-5)


def test_another_axis_stays():
    source = norm(steps(mean="ReduceMean<axes=[1]>"))
    assert kernels(lowered(source))["layer_norm"] == 0
    assert_same_steps(source, FEEDS, 0.03, flips=0.002)
