"""Samples that the user gives: what is taken, and one clear line for what is not."""

import hashlib
import zipfile

import numpy as np
import pytest

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data.given_samples import read_samples
from drpai_qat.data.sample_options import SampleOptions
from drpai_qat.data.samples import choose_samples
from tests.small_models import qdq_model

X = TensorInfo("x", (2, 3), "float32")
V = TensorInfo("v:0", (2,), "float32")
IDS = TensorInfo("ids", (1, 4), "int64")


def cut(*inputs, **arrays):
    return read_samples({name.replace("__", ":"): value for name, value in arrays.items()}).cut(inputs)


def test_a_longer_batch_is_cut_into_the_models():
    data = np.arange(18.0).reshape(6, 3)
    first, _, last = cut(X, x=data)
    assert first["x"].dtype == np.float32
    np.testing.assert_array_equal(first["x"], data[:2])
    np.testing.assert_array_equal(last["x"], data[4:])


def test_samples_may_have_an_axis_of_their_own():
    data = np.arange(12, dtype=np.float16).reshape(2, 2, 3)
    found = cut(X, x=data)
    assert len(found) == 2
    np.testing.assert_array_equal(found[1]["x"], data[1])


def test_several_inputs_of_other_types():
    found = cut(X, V, IDS, x=np.zeros((4, 3)), v__0=np.arange(4.0), ids=np.arange(8).reshape(2, 4))
    assert len(found) == 2
    np.testing.assert_array_equal(found[1]["v:0"], [2, 3])
    assert found[1]["ids"].dtype == np.int64


@pytest.mark.parametrize(
    ("arrays", "says"),
    [
        ({"x": np.zeros((2, 4))}, r"samples: input 'x' has shape \[2, 4\]: the network takes \[2, 3\]"),
        ({"x": np.zeros((3, 3))}, r"has shape \[3, 3\]"),
        ({"x": np.zeros((2, 3, 2))}, r"has shape \[2, 3, 2\]"),
        ({"x": np.zeros(6)}, r"has shape \[6\]"),
        ({"x": np.zeros((0, 3))}, r"has no samples"),
        ({"x": np.zeros((2, 3), np.uint8)}, "input 'x' is uint8, not float32: convert it as in training"),
        ({"x": np.array([["a"] * 3] * 2)}, "is <U1, not float32"),
        ({"x": np.full((2, 3), np.nan)}, "holds NaN or infinite values"),
        ({"x": np.full((2, 3), 1e300)}, "holds NaN or infinite values"),
        ({"y": np.zeros((2, 3))}, "unknown array 'y': the network's input is x"),
        ({}, "no array 'x': the network's input is x"),
        ({"x": np.zeros((2, 3)), "arr_0": np.zeros(1)}, "unknown array 'arr_0'"),
    ],
)
def test_what_does_not_fit(arrays, says):
    with pytest.raises(OptionError, match=says):
        cut(X, **arrays)


def test_different_numbers_of_samples():
    with pytest.raises(OptionError, match=r"\(2 for 'x', 1 for 'v:0'\)"):
        cut(X, V, x=np.zeros((4, 3)), v__0=np.zeros(2))


def test_file_and_folder_hold_the_same(tmp_path):
    x = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    np.savez(tmp_path / "some.npz", x=x)
    (tmp_path / "folder").mkdir()
    np.save(tmp_path / "folder/x.npy", x)
    file, folder = read_samples(tmp_path / "some.npz"), read_samples(str(tmp_path / "folder"))
    np.testing.assert_array_equal(file.arrays["x"], x)
    np.testing.assert_array_equal(folder.arrays["x"], x)
    assert (file.name, folder.name) == ("some.npz", "folder")
    assert file.sha256 == hashlib.sha256((tmp_path / "some.npz").read_bytes()).hexdigest()
    before = folder.sha256
    np.save(tmp_path / "folder/x.npy", x + 1)
    assert read_samples(tmp_path / "folder").sha256 != before


def test_the_hash_of_arrays_is_that_of_their_content():
    one, other = np.zeros((2, 3)), np.zeros((3, 2))
    assert read_samples({"x": one}).sha256 == read_samples({"x": one.tolist()}).sha256
    assert read_samples({"x": one}).sha256 != read_samples({"x": other}).sha256


def test_unreadable(tmp_path):
    def refused(name, says):
        with pytest.raises(OptionError, match=says) as caught:
            read_samples(tmp_path / name)
        assert "\n" not in str(caught.value)

    refused("none.npz", "no such file or folder")
    (tmp_path / "empty").mkdir()
    refused("empty", r"no \.npy file in it")
    (tmp_path / "text.csv").write_text("1,2")
    refused("text.csv", "write it with numpy.savez")
    (tmp_path / "text.npz").write_text("1,2")
    refused("text.npz", r"--samples text\.npz: can't be read")
    np.savez(tmp_path / "whole.npz", x=np.zeros(1000))
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[:500])
    refused("cut.npz", "can't be read")
    (tmp_path / "flipped.npz").write_bytes(content[:400] + b"\xff" + content[401:])
    refused("flipped.npz", "can't be read")
    np.savez(tmp_path / "pickled.npz", x=np.array([{}], object))
    refused("pickled.npz", "can't be read: .*pickle")
    header = b"[" * 2000  # numpy reads it as Python
    (tmp_path / "empty/x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    refused("empty", r"x\.npy can't be read")
    np.save(tmp_path / "single.npy", np.zeros(3))
    (tmp_path / "single.npy").rename(tmp_path / "single.npz")
    refused("single.npz", r"a \.npy file under another name")
    with zipfile.ZipFile(tmp_path / "other.npz", "w") as archive:
        archive.writestr("data.pkl", b"x")
    refused("other.npz", r"'data\.pkl' in it is no array")
    (tmp_path / "swapped").mkdir()
    (tmp_path / "swapped/x.npy").write_bytes(content)
    refused("swapped", r"x\.npy is a \.npz file under another name")
    (tmp_path / "swapped/x.npy").write_bytes(b"\x93NUMPY")
    refused("swapped", r"x\.npy can't be read")


def test_the_first_ones_are_taken():
    given = read_samples({"x": np.random.default_rng(0).normal(size=(5, 3, 8, 8))})
    assert len(choose_samples(qdq_model(), given, SampleOptions())) == 5
    two = choose_samples(qdq_model(), given, SampleOptions(check_samples=2))
    np.testing.assert_array_equal(two[1]["x"], given.arrays["x"][1:2].astype(np.float32))
    with pytest.raises(OptionError, match="--check_samples 6: --samples holds 5"):
        choose_samples(qdq_model(), given, SampleOptions(check_samples=6))


def test_random_ones_otherwise():
    assert len(choose_samples(qdq_model(), None, SampleOptions())) == 4
    assert len(choose_samples(qdq_model(), None, SampleOptions(samples=2))) == 2
