from __future__ import annotations

import numpy as np
import pytest

from preprocess import preprocess, reference_model
from tests.preprocess.building import fold, model, normal, ops, random_feeds
from tests.reference import reference

BASE = {"s": np.float32(0.02), "z": np.uint8(100)}
STATS = {"g": np.abs(normal(4)) + 1, "b": normal(4), "m": normal(4), "v": np.abs(normal(4)) + 1}
TRAINING = """<ir_version: 8, opset_import: ["" : 15]>
net (float[8,4,3] x) => (float[8,4,3] y) <float ratio = {0.5}, bool yes = {1}>
{
  q = QuantizeLinear (x, s, z)
  d = DequantizeLinear (q, s, z)
  n, m2, v2 = BatchNormalization <training_mode=1> (d, g, b, m, v)
  o, mask = Dropout (n, ratio, yes)
  y = Relu (o)
}"""


def test_identities_vanish_but_names_of_the_interface_stay() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y, float[2,4] w)
{
  i = Identity (x)
  q = QuantizeLinear (i, s, z)
  d = DequantizeLinear (q, s, z)
  w = Identity (d)
  r = Relu (d)
  y = Dropout (r)
}"""
    result = fold(model(text, **BASE))
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Relu": 1}
    assert [one.name for one in result.model.graph.output] == ["y", "w"]


def test_one_tensor_for_two_outputs_keeps_an_identity() -> None:
    text = """
net (float[2,4] x) => (float[2,4] y, float[2,4] w)
{
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, s, z)
  w = Identity (y)
}"""
    assert ops(fold(model(text, **BASE)).model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "Identity": 1}


def test_training_export_gets_its_inference_form() -> None:
    source = model(TRAINING, **BASE, **STATS)
    result = preprocess(source)
    assert ops(result.model) == {"QuantizeLinear": 1, "DequantizeLinear": 1, "BatchNormalization": 1, "Relu": 1}
    feeds = random_feeds(source)
    d = np.clip(np.rint(feeds["x"] / BASE["s"]) + 100, 0, 255)
    shape = (1, 4, 1)
    scaled = (d - 100) * BASE["s"] - STATS["m"].reshape(shape)
    expected = scaled / np.sqrt(STATS["v"] + 1e-5).reshape(shape) * STATS["g"].reshape(shape) + STATS["b"].reshape(
        shape
    )
    np.testing.assert_allclose(reference(result.model, feeds)[0], np.maximum(expected, 0), rtol=1e-5, atol=1e-5)


def test_reference_of_a_training_export_is_its_inference_form() -> None:
    source = model(TRAINING, **BASE, **STATS)
    feeds = random_feeds(source)
    runnable = reference_model(source)
    assert ops(runnable)["BatchNormalization"] == 1
    np.testing.assert_array_equal(reference(runnable, feeds)[0], reference(preprocess(source).model, feeds)[0])


def test_reference_of_anything_else_is_the_source() -> None:
    source = model(
        TRAINING.replace(" <training_mode=1>", "").replace("n, m2, v2", "n").replace(", yes", ""), **BASE, **STATS
    )
    assert reference_model(source) is source


@pytest.mark.parametrize("names", [("", ""), ("same", "same")])
def test_nodes_get_names_of_their_own(names: tuple[str, str]) -> None:
    text = """
net (float[2,4] x) => (float[2,4] y)
{
  q = QuantizeLinear (x, s, z)
  y = DequantizeLinear (q, s, z)
}"""
    source = model(text, **BASE)
    for one, name in zip(source.graph.node, names, strict=True):
        one.name = name
    found = [one.name for one in preprocess(source).model.graph.node]
    assert len(set(found)) == 2
    assert all(found)
