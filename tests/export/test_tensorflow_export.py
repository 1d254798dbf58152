"""drpai_qat.export.tensorflow: every way a tfmot model is made or loaded becomes a file that computes the same.

The expectations are structural (which nodes, which ranges) and numeric: framework against onnxruntime.
"""

from __future__ import annotations

import os

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from drpai_qat import export
from drpai_qat.core.errors import DeploymentError, ModelError, OptionError

os.environ["TF_USE_LEGACY_KERAS"] = "1"  # tfmot trains Keras 2 models only
tfmot = pytest.importorskip("tensorflow_model_optimization")
pytest.importorskip("tf2onnx")
import tensorflow as tf  # noqa: E402
import tf_keras as keras  # noqa: E402

from drpai_qat.export.tensorflow_fake_quant import grid_of  # noqa: E402

pytestmark = pytest.mark.slow

layers = keras.layers
SHAPE = (8, 8, 3)
EXAMPLE = np.linspace(-1.0, 1.0, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, *SHAPE)


def functional() -> keras.Model:
    """Convolution with batch norm, a depthwise one, a residual sum, a linear layer."""
    image = keras.Input(SHAPE, name="image")
    x = layers.Conv2D(6, 3, 2, padding="same", use_bias=False)(image)
    x = layers.ReLU()(layers.BatchNormalization()(x))
    y = layers.DepthwiseConv2D(3, padding="same", use_bias=False)(x)
    x = layers.Add()([x, layers.ReLU(6.0)(layers.BatchNormalization()(y))])
    return keras.Model(image, layers.Dense(4, name="scores")(layers.GlobalAveragePooling2D()(x)))


def trained(model: keras.Model, x: np.ndarray | list[np.ndarray] = EXAMPLE, steps: int = 3) -> keras.Model:
    """Quantize and train for a few steps."""
    keras.utils.set_random_seed(0)
    model = tfmot.quantization.keras.quantize_model(model)
    for _ in range(steps):
        model(x, training=True)
    return model


class FakeQuantConv(keras.layers.Layer):
    """A convolution with fake-quant written by hand, for the ranges that tfmot's default scheme never trains."""

    def __init__(self, bits: int = 8, narrow: bool = False, activation_bits: int = 8) -> None:
        super().__init__()
        self.options = {"num_bits": bits, "narrow_range": narrow}
        self.activation_bits = activation_bits

    def build(self, shape):
        self.kernel = self.add_weight("kernel", shape=(3, 3, shape[-1], 5))
        self.range = self.add_weight("range", shape=(2,), initializer=keras.initializers.Constant([-0.9, 1.1]))

    def call(self, x):
        x = tf.quantization.fake_quant_with_min_max_vars(x, *tf.unstack(self.range), num_bits=self.activation_bits)
        top = tf.reduce_max(tf.abs(self.kernel), [0, 1, 2])
        kernel = tf.quantization.fake_quant_with_min_max_vars_per_channel(self.kernel, -top, top, **self.options)
        return tf.quantization.fake_quant_with_min_max_args(tf.nn.conv2d(x, kernel, 1, "SAME"), -1.5, 2.5)


def nodes(path, op_type):
    return [node for node in onnx.load(path).graph.node if node.op_type == op_type]


def constants(path):
    return {one.name: numpy_helper.to_array(one) for one in onnx.load(path).graph.initializer}


def shapes(values):
    return [tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim) for value in values]


def test_weights_are_integers_and_activations_pairs(tmp_path):
    path = tmp_path / "net.onnx"
    exported = export.tensorflow(trained(functional()), path, example_inputs=EXAMPLE[:1])

    assert exported.exporter == "tf2onnx"
    assert exported.sqnr_db > 60.0
    assert exported.max_steps is not None
    assert exported.max_steps < 0.01
    assert exported.notes == ()
    values = constants(path)
    weights = {values[node.input[0]].shape: node for node in nodes(path, "DequantizeLinear") if node.input[0] in values}
    assert set(weights) == {(3, 3, 3, 6), (3, 3, 6, 1), (6, 4)}
    assert all(values[node.input[0]].dtype == np.int8 for node in weights.values())
    assert [(one.name, one.i) for one in weights[3, 3, 3, 6].attribute] == [("axis", 3)]
    assert values[weights[3, 3, 3, 6].input[1]].shape == (6,)
    assert values[weights[6, 4].input[1]].shape == ()
    assert np.abs(values[weights[3, 3, 3, 6].input[0]]).max(axis=(0, 1, 2)).tolist() == [127] * 6
    assert len(nodes(path, "QuantizeLinear")) == 6  # input, two ReLUs, sum, mean, scores


def test_the_interface_is_the_models_own(tmp_path):
    path = tmp_path / "net.onnx"
    model = trained(functional())
    export.tensorflow(model, path)
    graph = onnx.load(path).graph
    assert [one.name for one in (*graph.input, *graph.output)] == ["image", "quant_scores"]
    assert shapes((*graph.input, *graph.output)) == [(1, *SHAPE), (1, 4)]

    export.tensorflow(model, path, example_inputs=EXAMPLE, input_names=["x"], output_names=["y"], opset=17)
    graph = onnx.load(path).graph
    assert [one.name for one in (*graph.input, *graph.output)] == ["x", "y"]
    assert shapes((*graph.input, *graph.output)) == [(2, *SHAPE), (2, 4)]
    assert onnx.load(path).opset_import[0].version == 17


def test_it_compiles_into_integers(tmp_path):
    import drpai_qat

    export.tensorflow(trained(functional()), tmp_path / "net.onnx", example_inputs=EXAMPLE[:1])
    report = drpai_qat.compile(tmp_path / "net.onnx", qat_type="tensorflow", output_dir=tmp_path / "out")
    assert report.int8_mac_fraction == 1.0
    assert report.passed


def test_the_model_is_left_as_it_was(tmp_path):
    model = trained(functional())
    before = [np.copy(one) for one in model.get_weights()]
    export.tensorflow(model, tmp_path / "net.onnx")
    assert all(np.array_equal(one, old) for one, old in zip(model.get_weights(), before, strict=True))
    model(EXAMPLE, training=True)  # and trains on


def test_a_file_loads_as_what_was_saved(tmp_path):
    import onnxruntime

    model = trained(functional())
    expected = model.predict(EXAMPLE[:1], verbose=0)
    model.save(tmp_path / "net.h5")
    model.save(tmp_path / "saved")
    sources = [tmp_path / name for name in ("net.h5", "saved")]
    for source in [*sources, tf.saved_model.load(str(tmp_path / "saved"))]:
        exported = export.tensorflow(source, tmp_path / "net.onnx")
        session = onnxruntime.InferenceSession(str(exported.path))
        feeds = {session.get_inputs()[0].name: EXAMPLE[:1]}
        np.testing.assert_allclose(session.run(None, feeds)[0], expected, atol=0.02)
        assert len(nodes(exported.path, "QuantizeLinear")) == 6
        kept = [one for one in constants(exported.path).values() if one.dtype == np.int8 and one.ndim > 1]
        assert len(kept) == 3  # weights on their grids, in spite of the control edges of a SavedModel


def test_a_sequential_and_a_subclassed_model(tmp_path):
    path = tmp_path / "net.onnx"
    stack = [layers.InputLayer(SHAPE), layers.Conv2D(4, 3, activation="relu"), layers.Flatten(), layers.Dense(3)]
    assert export.tensorflow(trained(keras.Sequential(stack)), path).sqnr_db > 60.0

    class Wrapped(keras.Model):
        """Has no inputs of its own before it is called, and drops out in training."""

        def __init__(self) -> None:
            super().__init__()
            self.net, self.drop = trained(functional()), layers.Dropout(0.9)

        def call(self, x, training=False):
            return {"b": self.drop(self.net(x, training=training), training=training), "a": x}

    with pytest.raises(ModelError, match="never called, its input is unknown: give example_inputs"):
        export.tensorflow(Wrapped(), path)
    assert export.tensorflow(Wrapped(), path, example_inputs=EXAMPLE).sqnr_db > 60.0
    called = Wrapped()
    called(EXAMPLE)
    assert export.tensorflow(called, path).sqnr_db > 60.0
    assert [one.name for one in onnx.load(path).graph.output] == ["output_0", "output_1"]


def test_two_inputs_and_two_outputs(tmp_path):
    image, vector = keras.Input(SHAPE, name="image"), keras.Input((5,), name="vector")
    x = layers.Concatenate()([layers.Flatten()(layers.Conv2D(4, 3, activation="relu")(image)), vector])
    outputs = [layers.Dense(3, name="scores")(x), layers.Dense(1, name="size")(x)]
    example = [EXAMPLE, EXAMPLE.reshape(2, -1)[:, :5]]
    model = trained(keras.Model([image, vector], outputs), example)

    exported = export.tensorflow(model, tmp_path / "net.onnx", example_inputs=example)

    assert exported.sqnr_db > 60.0
    graph = onnx.load(exported.path).graph
    assert {one.name for one in graph.input} == {"image", "vector"}
    with pytest.raises(ModelError, match="has 2 inputs, example_inputs 1"):
        export.tensorflow(model, tmp_path / "net.onnx", example_inputs=example[:1])


@pytest.mark.parametrize(
    ("bits", "narrow", "limits"), [(4, False, (-8, 7)), (4, True, (-7, 7)), (8, True, (-127, 127)), (2, False, (-2, 1))]
)
def test_every_width_keeps_its_integers(bits, narrow, limits, tmp_path):
    path = tmp_path / "net.onnx"
    model = keras.Sequential([layers.InputLayer(SHAPE), FakeQuantConv(bits, narrow, activation_bits=4)])
    assert export.tensorflow(model, path, example_inputs=EXAMPLE[:1]).sqnr_db > 40.0

    values = constants(path)
    (weight,) = (values[node.input[0]] for node in nodes(path, "DequantizeLinear") if node.input[0] in values)
    assert limits[0] <= weight.min() <= limits[0] + 1  # the ends of a symmetric range are ties where zero is an integer
    assert limits[1] - 1 <= weight.max() <= limits[1]
    assert [tuple(int(values[name]) for name in node.input[1:]) for node in nodes(path, "Clip")] == [(0, 15)]


@pytest.mark.parametrize("bits", [9, 12, 16])
def test_wide_activations_are_compiled(bits, tmp_path):
    import drpai_qat

    path = tmp_path / "net.onnx"
    model = keras.Sequential([layers.InputLayer(SHAPE), FakeQuantConv(activation_bits=bits)])
    assert export.tensorflow(model, path, example_inputs=EXAMPLE[:1]).sqnr_db > 40.0
    values = constants(path)
    assert {values[node.input[2]].dtype.name for node in nodes(path, "QuantizeLinear")} == {"uint16", "uint8"}
    report = drpai_qat.compile(path, qat_type="tensorflow", output_dir=tmp_path / "out", check="layers")
    assert report.passed
    assert report.int8_mac_fraction == 1.0


@pytest.mark.parametrize("bits", [2, 3, 4, 7, 8])
@pytest.mark.parametrize("narrow", [False, True])
def test_grids_are_tensorflows(bits, narrow):
    random = np.random.default_rng(bits)
    for _ in range(50):
        low, high = np.sort(random.normal(size=2) * 10.0 ** random.integers(-3, 3)).astype(np.float32)
        x = random.uniform(2 * low - high, 2 * high - low, 300).astype(np.float32)
        grid = grid_of(low, high, bits, narrow, "node")
        q = np.clip(np.round(x / grid.scale) + grid.zero_point, grid.qmin, grid.qmax)
        ours = (q - grid.zero_point) * grid.scale
        theirs = tf.quantization.fake_quant_with_min_max_vars(x, low, high, bits, narrow).numpy()
        off = np.abs(ours - theirs) / grid.scale
        assert (off > 0.01).mean() < 0.01  # ties
        assert off.max() < 1.01


def test_what_is_always_zero_stays_zero(tmp_path):
    image = keras.Input(SHAPE)
    x = Quantized(-1.0, 1.0)(image)
    dead = Quantized(0.0, 0.0)(layers.ReLU()(x))  # TensorFlow makes zeros of everything
    exported = export.tensorflow(keras.Model(image, x + dead), tmp_path / "net.onnx", example_inputs=EXAMPLE)
    assert exported.max_error < 1.01 * 2 / 255  # a tie of the first quantizer; 1 if `dead` lived
    assert "always zero" in str(exported)


def test_a_float_model_is_exported_and_said_so(tmp_path):
    exported = export.tensorflow(functional(), tmp_path / "net.onnx")
    assert "no fake-quant in this model: exported in float32" in str(exported)
    assert exported.max_steps is None


def test_layers_that_tfmot_skips_are_named(tmp_path):
    image = keras.Input(SHAPE)
    x = layers.Conv2D(4, 3, activation="relu")(image)
    x = layers.ReLU()(layers.Conv2D(4, 3, name="skipped")(x))
    exported = export.tensorflow(trained(keras.Model(image, x)), tmp_path / "net.onnx", example_inputs=EXAMPLE)
    assert "1 of 2 layers have no fake-quant on their weights and stay float32" in str(exported)
    assert "skipped" in str(exported)


class Quantized(keras.layers.Layer):
    """A fake-quant of its input."""

    def __init__(self, low, high, bits=8) -> None:
        super().__init__()
        self.arguments = (low, high, bits)

    def call(self, x):
        low, high, bits = self.arguments
        return tf.quantization.fake_quant_with_min_max_vars(x, tf.reduce_min(x) if low is None else low, high, bits)


class Raising(keras.layers.Layer):
    """Fails when it is called."""

    def call(self, x):
        if x.shape[0] == 1:
            raise KeyError("no such layer")
        return x


def sequence(*members, shape=SHAPE):
    return keras.Sequential([layers.InputLayer(shape, name="image"), *members])


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: object(), "builtins.object is neither a tf_keras model nor a SavedModel"),
        (lambda: trained(functional(), steps=0), "never saw data: its range is 0..0; train the model"),
        (lambda: sequence(Quantized(None, 1.0)), "computes its range from the input"),
        (lambda: sequence(Quantized(1.0, float("nan"))), "range 1..nan can't be quantized to"),
        (lambda: sequence(layers.ReLU(), shape=(None, None, 3)), "'image' has open dimensions.*give example_inputs"),
        (lambda: sequence(layers.Lambda(tf.math.lgamma)), "Lgamma.* is not supported"),
        (lambda: "missing.h5", "missing.h5: no such file"),
        (lambda: sequence(Raising()), "can't be called with image float32\\[1, 8, 8, 3\\]: .*no such layer"),
    ],
)
def test_refusals_name_the_cause_and_leave_no_file(model, message, tmp_path):
    with pytest.raises(ModelError, match=message):
        export.tensorflow(model(), tmp_path / "net.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "says"), [("net.tflite", "whose training is gone"), ("net.pb", "SavedModel folder"), ("a.onnx", "already")]
)
def test_files_given_by_mistake(name, says, tmp_path):
    (tmp_path / name).write_bytes(b"TFL3")
    with pytest.raises(ModelError, match=f"^[^\n]*{says}[^\n]*$"):
        export.tensorflow(tmp_path / name, tmp_path / "net2.onnx")


def test_recurrent_layers_compile(tmp_path):
    """Keras writes them as a loop of a known number of steps, or as ONNX's operators."""
    import drpai_qat

    for layer in (layers.LSTM(5, return_sequences=True), layers.GRU(4), layers.SimpleRNN(3)):
        model = sequence(Quantized(-1.0, 1.0), layer, Quantized(-1.0, 1.0), shape=(6, 4))
        path = tmp_path / f"{type(layer).__name__}.onnx"
        assert export.tensorflow(model, path).sqnr_db > 40.0
        assert drpai_qat.compile(path, qat_type="tensorflow", output_dir=tmp_path / "out").passed


def test_grouped_convolutions(tmp_path):
    import drpai_qat

    image = keras.Input((8, 8, 8), name="image")
    model = trained(keras.Model(image, layers.Conv2D(8, 3, groups=4)(image)), np.zeros((1, 8, 8, 8), np.float32) + 0.5)
    assert export.tensorflow(model, tmp_path / "net.onnx").sqnr_db > 40.0
    assert drpai_qat.compile(tmp_path / "net.onnx", qat_type="tensorflow", output_dir=tmp_path / "out").passed


def test_a_keras_3_model_is_told_from_a_tf_keras_one(tmp_path):
    keras3 = pytest.importorskip("keras", minversion="3.0")
    model = keras3.Sequential([keras3.layers.Input(SHAPE), keras3.layers.ReLU()])
    with pytest.raises(ModelError, match=r"this is a Keras 3 model.*TF_USE_LEGACY_KERAS=1"):
        export.tensorflow(model, tmp_path / "net.onnx")


def test_refusals_of_files_and_options(tmp_path):
    model = trained(functional())
    with pytest.raises(DeploymentError, match="make it before"):
        export.tensorflow(model, tmp_path / "missing" / "net.onnx")
    with pytest.raises(OptionError, match="opset 12: tf2onnx writes 13 to 18"):
        export.tensorflow(model, tmp_path / "net.onnx", opset=12)
    with pytest.raises(ModelError, match=r"'image' has the shape \(None, 8, 8, 3\), its example \(2, 4, 4, 3\)"):
        export.tensorflow(model, tmp_path / "net.onnx", example_inputs=EXAMPLE[:, :4, :4])
    with pytest.raises(OptionError, match="input_names: a, b for 1 inputs"):
        export.tensorflow(model, tmp_path / "net.onnx", input_names=["a", "b"])
    (tmp_path / "damaged.h5").write_bytes(b"not HDF5")
    with pytest.raises(ModelError, match=r"damaged.h5 can't be loaded: .*load it yourself"):
        export.tensorflow(tmp_path / "damaged.h5", tmp_path / "net.onnx")
    assert [path.name for path in tmp_path.iterdir()] == ["damaged.h5"]
