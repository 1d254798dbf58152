"""Networks with other types at their ends: in onnxruntime they give the integers of the canonical model's reals."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

import drpai_qat
from drpai_qat.core.errors import DeploymentError
from drpai_qat.graph.edges import edge_types, with_edges
from tests.lowering.running import grid, model, qdq
from tests.reference import reference

X = np.array([[-9.0, -1.27, -0.013, 0.0, 0.005, 0.5, 1.3, 9.0]], np.float32)


def types(found: onnx.ModelProto) -> dict[str, str]:
    return {name: TensorProto.DataType.Name(kind) for name, kind in edge_types(found).items()}


def run(found: onnx.ModelProto, *arrays: np.ndarray) -> list[np.ndarray]:
    onnx.checker.check_model(found, full_check=True)
    return reference(found, {value.name: one for value, one in zip(found.graph.input, arrays, strict=True)})


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
@pytest.mark.parametrize("limited", ["", "l = Clip(x, low, high)\n"])
def test_int8_edges_hold_the_integers_of_both_grids(dtype, limited):
    """Whatever the grid's type: int8 is what --io says, and the distance of 128 is in the zero point."""
    middle = 3 if dtype == "int8" else 131
    canonical = model(
        "(float[1,8] x) => (float[1,8] y)",
        limited + qdq("l" if limited else "x", "a") + "t = Tanh(a)\n" + qdq("t", "b") + "y = Identity(b)",
        **grid("a", 0.01, middle, dtype), **grid("b", 0.008, middle, dtype), low=-0.5, high=0.7,
    )  # fmt: skip
    edged, notes = with_edges(canonical, "int8", {})
    assert types(edged) == {"x": "INT8", "y": "INT8"}
    assert not notes
    integers = np.clip(np.rint(X / np.float32(0.01)) + 3, -128, 127).astype(np.int8)
    (wanted,), (found,) = run(canonical, X), run(edged, integers)
    assert found.dtype == np.int8
    assert np.array_equal((found.astype(np.float32) - 3) * np.float32(0.008), wanted)


@pytest.mark.parametrize(
    ("body", "names"),
    [
        ("y = Tanh(x)", ["x", "y"]),
        (qdq("x", "a") + qdq("x", "b") + "y = Add(a, b)", ["x", "y"]),
        (qdq("x", "a") + "y = Add(a, x)", ["x", "y"]),
        (qdq("x", "c") + "y = Tanh(c)", ["x", "y"]),
        (qdq("x", "a") + "t = Tanh(a)\n" + qdq("t", "b") + "j = Concat<axis=0>(a, b)\n y = ReduceMax(j, first)", ["y"]),
    ],
    ids=["no grid", "two grids", "also read as reals", "a grid for each channel", "joined grids"],
)
def test_what_has_no_single_grid_stays_float32_and_is_named(body, names):
    canonical = model(
        "(float[1,8] x) => (float[1,8] y)", body, **grid("a", 0.01, 0), **grid("b", 0.02, 0),
        sc=np.full(8, 0.5, np.float32), zc=np.zeros(8, np.int8), first=np.zeros(1, np.int64),
    )  # fmt: skip
    edged, notes = with_edges(canonical, "int8", {})
    assert [note.node for note in notes] == names
    assert all(note.action == "warning" for note in notes)
    assert [name for name, kind in types(edged).items() if kind == "FLOAT"] == names


def test_source_edges_are_those_of_the_file():
    canonical = model(
        "(float[1,8] image, float[1,8] half, float[1,8] plain) => (float[1,8] y, float[1,8] z)",
        qdq("image", "a") + "s = Add(half, plain)\n m = Mul(a, s)\n" + qdq("m", "y", "b") + "z = Add(a, plain)",
        **grid("a", 1.0, 0), **grid("b", 0.5, 100),
    )  # fmt: skip
    source = {"image": TensorProto.UINT8, "half": TensorProto.FLOAT16, "y": TensorProto.UINT8, "z": TensorProto.DOUBLE}
    edged, notes = with_edges(canonical, "source", source)
    assert not notes
    assert types(edged) == {"image": "UINT8", "half": "FLOAT16", "plain": "FLOAT", "y": "UINT8", "z": "DOUBLE"}
    image, half, plain = np.arange(8, dtype=np.uint8)[None] * 30, X.astype(np.float16), X[:, ::-1].copy()
    y, z = run(edged, image, half, plain)
    wanted = run(canonical, image.astype(np.float32), half.astype(np.float32), plain)
    assert np.array_equal((y.astype(np.float32) - 100) * np.float32(0.5), wanted[0])
    assert np.array_equal(z, wanted[1].astype(np.float64))


def test_a_sixteen_bit_grid_keeps_its_bits():
    canonical = model("(float[1,8] x) => (float[1,8] y)", qdq("x", "a") + "y = Tanh(a)", **grid("a", 1e-4, 0, "int16"))
    assert types(with_edges(canonical, "int8", {})[0])["x"] == "INT16"


def test_deep_and_wide_graphs_are_walked_once():
    """Two thousand operators in a row, with two ways through each pair: paths are not counted, and nothing recurses."""
    lines, name = [], "x"
    for at in range(1000):
        lines.append(f"i{at} = Identity({name}) m{at} = Max({name}, i{at})")
        name = f"m{at}"
    canonical = model("(float[1,8] x) => (float[1,8] y)", " ".join(lines) + qdq(name, "y", "a"), **grid("a", 0.01, 0))
    edged, notes = with_edges(canonical, "int8", {})
    assert not notes
    assert types(edged) == {"x": "INT8", "y": "INT8"}


def test_compiled_networks_take_integers_and_reals(tmp_path: Path):
    """Both give what the network with float32 edges gives, bit for bit; the check and its layers pass."""
    network = Path(__file__).parents[1] / "models" / "tf_cnn_op13.onnx"
    folders = {io: tmp_path / io for io in ("float32", "int8")}
    for io, folder in folders.items():
        assert drpai_qat.compile(
            network, qat_type="tensorflow", samples=2, check="layers", output_dir=folder, io=io
        ).passed
    reals, integers = (drpai_qat.load(folder) for folder in folders.values())
    (x,), (y,) = integers.inputs, integers.outputs
    assert (x.dtype, y.dtype) == ("int8", "int8")
    assert x.quantization is not None
    assert y.quantization is not None
    feed = np.random.default_rng(0).uniform(-0.2, 1.2, (3, *x.shape[1:])).astype(np.float32)
    wanted = reals.run({x.name: feed})[y.name]
    assert np.array_equal(integers.run({x.name: feed})[y.name], wanted)
    fed = integers.run_integers({x.name: x.quantization.quantize(feed)})[y.name]
    assert fed.dtype == np.int8
    assert np.array_equal(y.quantization.dequantize(fed), wanted)
    with pytest.raises(DeploymentError, match="int16, not int8"):
        integers.run({x.name: feed.astype(np.int16)})
