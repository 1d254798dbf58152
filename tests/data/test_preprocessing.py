from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from drpai_qat.core.errors import OptionError
from drpai_qat.core.tensor_info import TensorInfo
from drpai_qat.data.image_files import UnreadableImageError, load_pixels, resized
from drpai_qat.data.image_input import image_input, recorded_input
from drpai_qat.data.preprocessing import PRESETS, Preprocessing, from_mapping, read_preprocessing

NCHW = TensorInfo("x", (1, 3, 32, 32), "float32")


def photo(height: int, width: int, channels: int = 3) -> np.ndarray:
    return np.random.default_rng(height).integers(0, 256, (height, width, channels), np.uint8)


class TestPresets:
    def test_imagenet_is_torchvisions(self):
        """Resize(256), CenterCrop(224), ToTensor, Normalize."""
        pixels = photo(300, 401)
        found = image_input([TensorInfo("x", (1, 3, 224, 224), "float32")], PRESETS["imagenet"], "here").array(pixels)
        resized = np.asarray(Image.fromarray(pixels).resize((int(256 * 401 / 300), 256), Image.Resampling.BILINEAR))
        left = round((resized.shape[1] - 224) / 2)
        want = (resized[16:240, left : left + 224] / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
        np.testing.assert_allclose(found, want.transpose(2, 0, 1), rtol=1e-5, atol=1e-6)

    def test_yolo_puts_the_whole_image_on_grey(self):
        found = image_input([NCHW], PRESETS["yolo"], "here").array(np.full((10, 20, 3), 255, np.uint8))
        assert found.shape == (3, 32, 32)
        assert (found[:, 8:24] == 1).all()
        np.testing.assert_allclose(found[:, [0, 7, 24, 31]], 114 / 255)

    @pytest.mark.parametrize(
        ("name", "value"), [("tf", [1, 0, -1]), ("none", [255, 127.5, 0]), ("caffe", [0 - 103.939, 0, 255 - 123.68])]
    )
    def test_arithmetic(self, name, value):
        pixels = np.zeros((32, 32, 3), np.uint8)
        pixels[..., 0] = 255
        found = image_input([NCHW], PRESETS[name], "here").array(pixels)
        assert found[:, 0, 0][[0, 2]] == pytest.approx([value[0], value[2]])

    def test_one_channel_has_the_mean_of_the_colours(self):
        found = image_input([TensorInfo("x", (1, 1, 8, 8), "float32")], PRESETS["imagenet"], "here")
        assert found.array(np.full((8, 8, 1), 255, np.uint8))[0, 4, 4] == pytest.approx((1 - 0.449) / 0.226, rel=1e-3)


def test_integer_inputs_take_pixels_as_they_are():
    pixels, info = photo(32, 32), TensorInfo("x", (1, 3, 32, 32), "uint8")
    found = image_input([info], PRESETS["none"], "here").array(pixels)
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, pixels.transpose(2, 0, 1))
    with pytest.raises(OptionError, match="--preprocess none"):
        image_input([info], PRESETS["imagenet"], "here")


def test_rows_are_scaled_before_columns_whatever_pillow_does():
    """Halves go up: rows of 1, 1, 0, 0 give 1; columns of a quarter each would give 0."""
    pixels = np.array([[0, 1], [1, 0], [0, 0], [0, 0]], np.uint8)[..., None]
    assert resized(pixels, (1, 1), "area").item() == 1


def test_an_image_that_scaling_would_make_huge_is_refused():
    taken = image_input([TensorInfo("x", (1, 3, 224, 224), "float32")], PRESETS["imagenet"], "here")
    with pytest.raises(OptionError, match="60000 x 1 pixels would have 15360000 x 256"):
        taken.array(photo(1, 60_000))


@pytest.mark.parametrize(
    ("shape", "layout", "taken"),
    [
        ((1, 8, 8, 3), "auto", "nhwc"),
        ((2, 1, 8, 8), "auto", "nchw"),
        ((1, 3, 8, 3), "auto", "nchw"),
        ((1, 3, 8, 3), "nhwc", "nhwc"),
        ((1, 28, 28), "auto", "nhwc"),
        ((1, 192), "auto", "nchw"),
    ],
)
def test_layouts(shape, layout, taken):
    how = Preprocessing(layout=layout, size=(8, 8) if len(shape) == 2 else None)
    found = image_input([TensorInfo("x", shape, "float32")], how, "here")
    assert found.preprocessing.layout == taken
    assert found.array(photo(9, 7)).shape == shape[1:]
    again = recorded_input(found.to_json(), [found.info], "out")
    assert again.preprocessing == found.preprocessing
    np.testing.assert_array_equal(again.array(photo(9, 7)), found.array(photo(9, 7)))


@pytest.mark.parametrize(
    "inputs", [[TensorInfo("x", (1, 10), "float32")], [NCHW, NCHW], [TensorInfo("x", (1, 7, 8, 9), "float32")]]
)
def test_a_network_without_one_image_is_refused(inputs):
    with pytest.raises(OptionError, match=r"--images I: the network takes x .* which is no image.*give arrays"):
        image_input(inputs, PRESETS["none"], "--images I")


class TestFiles:
    def test_yaml(self, tmp_path: Path):
        file = tmp_path / "mine.yaml"
        file.write_text("preset: caffe\nscale: 1/255\nmean: 0.5\nsize: 96\nresize: letterbox\n")
        found = read_preprocessing(file)
        assert found == Preprocessing(
            resize="letterbox", scale=1 / 255, mean=(0.5,), std=(1.0,), size=(96, 96), color="bgr"
        )

    @pytest.mark.parametrize(
        ("values", "says"),
        [
            ({"means": 1}, "means is unknown: did you mean mean?"),
            ({"std": [1, 0, 1]}, "divides by zero"),
            ({"mean": [1, 2]}, "one for each channel"),
            ({"mean": "half"}, "half is not a number"),
            ({"scale": "1/0"}, "not a number"),
            ({"size": [224]}, "height and width"),
            ({"resize": "zoom"}, "give stretch or crop or letterbox or center"),
            ({"preset": "vgg"}, "preset vgg is unknown"),
            ({"pad": 300}, "give 0 to 255"),
            ({"crop": 0}, "give the share"),
        ],
    )
    def test_what_means_nothing_is_named(self, values, says):
        with pytest.raises(OptionError, match=says):
            from_mapping(values, "--preprocess p.yaml")

    @pytest.mark.parametrize("text", ["- 1\n- 2\n", "mean: [1\n", ""])
    def test_other_files(self, tmp_path: Path, text):
        (tmp_path / "p.yaml").write_text(text)
        with pytest.raises(OptionError, match=r"^--preprocess p.yaml: no"):
            read_preprocessing(tmp_path / "p.yaml")


class TestPixels:
    @pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr", "I;16"])
    def test_modes(self, tmp_path: Path, mode):
        suffix = "jpg" if mode in ("CMYK", "YCbCr") else "png"
        if mode == "I;16":
            image = Image.fromarray(np.full((4, 6), 65535, np.uint16))
        else:
            image = Image.new("RGB", (6, 4), (255, 255, 255)).convert(mode)
        image.save(tmp_path / f"i.{suffix}")
        found = load_pixels(tmp_path / f"i.{suffix}")
        assert found.shape == (4, 6, {"1": 1, "L": 1, "I;16": 1, "LA": 4, "RGBA": 4}.get(mode, 3))
        assert found.min() >= 254

    def test_rotation_of_cameras(self, tmp_path: Path):
        image = Image.fromarray(photo(4, 6))
        exif = image.getexif()
        exif[0x0112] = 6
        image.save(tmp_path / "r.png", exif=exif)
        np.testing.assert_array_equal(load_pixels(tmp_path / "r.png"), np.rot90(photo(4, 6), -1))

    def test_damaged(self, tmp_path: Path):
        content = io.BytesIO()
        Image.fromarray(photo(64, 64)).save(content, "JPEG")
        for name, data in (("cut.jpg", content.getvalue()[:700]), ("text.jpg", b"no image"), ("empty.png", b"")):
            (tmp_path / name).write_bytes(data)
            with pytest.raises(UnreadableImageError):
                load_pixels(tmp_path / name)
