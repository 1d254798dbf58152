"""Indices that come from data stay inside their tensors, and integers divide without ending the process."""

import numpy as np
import onnx
import onnx.parser
import pytest

from preprocess import preprocess
from tests.lowering.running import compiled, execute, lowered, model
from tests.reference import reference

TABLE = np.arange(12, dtype=np.float32).reshape(4, 3)
FAR = np.array([0, 3, 4, -4, -5, 2**40, -(2**40)], np.int64)


def test_indices_outside_are_clamped():
    source = model(
        "(int64[7] i, int64[4,3] e) => (float[7,3] a, float[4,3] b, float[7,3] c, float[4,3] d, float[4,3] f)",
        """a = Gather<axis = 0>(t, i)
           b = GatherElements<axis = 0>(t, e)
           rows = Unsqueeze(i, last)
           c = GatherND(t, rows)
           d = ScatterElements<axis = 0>(t, e, u)
           f = ScatterND(t, rows, v)""",
        t=TABLE, u=TABLE + 1, v=np.linspace(1, 2, 21, dtype=np.float32).reshape(7, 3), last=np.array([1]),
    )  # fmt: skip
    far = {"i": FAR, "e": np.resize(FAR, (3, 4)).T}
    inside = {name: np.clip(np.where(one < 0, one + 4, one), 0, 3) for name, one in far.items()}
    for got, want in zip(compiled(source, far), reference(source, inside), strict=True):
        np.testing.assert_array_equal(got, want)


def test_coordinates_are_clamped_to_their_own_axes():
    source = model("(int64[3,2] i) => (float[3] y)", "y = GatherND(t, i)", t=TABLE)
    (got,) = compiled(source, {"i": np.array([[9, -1], [-9, 9], [1, 2]])})
    np.testing.assert_array_equal(got, TABLE[[3, 0, 1], [2, 2, 2]])


def test_pictures_and_places_of_other_operators_are_clamped():
    """RoiAlign reads the picture that it is told, MaxUnpool writes where it is told."""
    source = model(
        "(int64[3] b, int64[1,1,2,2] i) => (float[3,1,2,2] r, float[1,1,4,4] m)",
        """r = RoiAlign<output_height = 2, output_width = 2>(pictures, rois, b)
           m = MaxUnpool<kernel_shape = [2, 2], strides = [2, 2]>(pooled, i)""",
        pictures=np.arange(32, dtype=np.float32).reshape(2, 1, 4, 4), pooled=np.ones((1, 1, 2, 2), np.float32),
        rois=np.array([[0, 0, 3, 3]] * 3, np.float32),
    )  # fmt: skip
    far = {"b": np.array([-7, 1, 2**33]), "i": np.array([-5, 3, 16, 2**33]).reshape(1, 1, 2, 2)}
    inside = {"b": np.array([0, 1, 1]), "i": np.array([0, 3, 15, 15]).reshape(1, 1, 2, 2)}
    for got, want in zip(compiled(source, far), reference(source, inside), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-6)


def test_scatter_of_old_files_is_clamped(tmp_path):
    """Opset 10 calls it Scatter."""
    text = """<ir_version: 8, opset_import: ["" : 10]> g (float[4,3] i) => (float[4,3] y) {
        e = Cast<to = 7>(i)
        y = Scatter<axis = 0>(t, e, u)
    }"""
    source = onnx.parser.parse_model(text)
    source.graph.initializer.extend(onnx.numpy_helper.from_array(TABLE + n, name) for n, name in enumerate("tu"))
    network = lowered(preprocess(source, may_be_float=True).model)
    far = np.array([0, 3, 4, -4, -5, 2**20, -(2**20)]).repeat(2)[:12].reshape(4, 3).astype(np.float32)
    inside = np.clip(np.where(far < 0, far + 4, far), 0, 3)
    np.testing.assert_array_equal(execute(network, {"i": far})[0], reference(source, {"i": inside})[0])


@pytest.mark.parametrize(
    ("axis", "shape"), [(1, (1, 2, 3, 2)), (3, (1, 4, 2, 5)), (-2, (1, 1, 6, 5)), (1, (1, 4, 6, 5))]
)
def test_scatter_into_a_part(axis, shape):
    """TVM's kernel took the indices to be as large as the data along the other axes."""
    text = f"""<ir_version: 8, opset_import: ["" : 16]> g (float[1,4,6,5] x) => (float[1,4,6,5] y) {{
        y = ScatterElements<axis = {axis}, reduction = "add">(x, i, u)
    }}"""
    generator = np.random.default_rng(3)
    source = onnx.parser.parse_model(text)
    constants = {"i": generator.integers(-4, 4, shape), "u": generator.normal(0, 1, shape).astype(np.float32)}
    source.graph.initializer.extend(onnx.numpy_helper.from_array(one, name) for name, one in constants.items())
    x = {"x": generator.normal(0, 1, (1, 4, 6, 5)).astype(np.float32)}
    got = execute(lowered(preprocess(source, may_be_float=True).model), x)[0]
    np.testing.assert_allclose(got, reference(source, x)[0], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("edge", ["zeros", "border", "reflection"])
@pytest.mark.parametrize("how", ["linear", "nearest"])
def test_grid_sample_reads_its_picture_alone(how, edge):
    """Wherever it is told to: its values, what lies between them, zero, or what is not a number."""
    far = [0.3, -1.0, 1.3, 1e3, -1e9, 2.2e9, 1e20, -3e38, np.inf, -np.inf, np.nan]
    grid = np.array([[[(x, y) for x in far] for y in far]], np.float32)
    source = model(
        f"(float[1,1,4,5] x, float[1,{len(far)},{len(far)},2] g) => (float[1,1,{len(far)},{len(far)}] y)",
        f'y = GridSample<mode = "{how}", padding_mode = "{edge}">(x, g)',
    )
    picture = np.random.default_rng(0).uniform(1, 2, (1, 1, 4, 5)).astype(np.float32)
    (got,) = compiled(source, {"x": picture, "g": grid})
    least = 0 if edge == "zeros" else 1
    assert (np.isnan(got) | ((least <= got) & (got <= 2 + 1e-6))).all()
    want = reference(source, {"x": picture, "g": grid})[0]
    np.testing.assert_allclose(got[..., :4, :4], want[..., :4, :4], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("op", "want"), [("Div", [7, -2, 0, -5]), ("Mod", [0, 1, 0, 0])])
def test_integers_divide_by_anything(op, want):
    least = np.iinfo(np.int32).min
    x, d = np.array([7, -8, least, 5], np.int32), np.array([0, 3, -1, -1], np.int32)
    source = model("(int32[4] x, int32[4] d) => (int32[4] y)", f"y = {op}(x, d)")
    (got,) = compiled(source, {"x": x, "d": d})
    want[2] = least if op == "Div" else 0
    np.testing.assert_array_equal(got, want)
