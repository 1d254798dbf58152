"""The order of the passes is a contract: each reason for a place in the lists has a small model here that needs it.

Every model is folded in the order of the lists, then with one pass moved behind the other, or left out: that must
break it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from drpai_qat.core.errors import DrpaiQatError
from preprocess import validate
from preprocess.activations import clip_before_quantize
from preprocess.affine import fold_affine_steps
from preprocess.biases import canonical_biases
from preprocess.blocked_weights import split_blocks
from preprocess.canonicalization import PIPELINES
from preprocess.channel_grids import fold_depthwise_scales, scale_channels_outside
from preprocess.clamps import write_clamps
from preprocess.clips import merge_clips
from preprocess.constants import fold_constants, unshare_small_constants
from preprocess.custom_quantizers import translate_custom_quantizers
from preprocess.data_movement import dequantize_before_moves
from preprocess.dead_channels import blank_dead_channels
from preprocess.detection import require_fake_quant
from preprocess.dynamic import translate_dynamic
from preprocess.fake_quantize import translate_fake_quantize
from preprocess.float_interface import use_float_interface
from preprocess.fused_operators import translate_fused_operators
from preprocess.inference_form import name_nodes, remove_identities
from preprocess.int8_weights import canonical_weights
from preprocess.layer_norm import write_layer_norm
from preprocess.loops import write_out_loops
from preprocess.lost_sums import refuse_lost_sums
from preprocess.misfits import refuse_misfits
from preprocess.opening import open_graph
from preprocess.padding import explicit_pads, fold_pads
from preprocess.pairs import drop_repeated_grids, match_pairs, merge_equal_nodes
from preprocess.passlog import Note, Pass, PassLog, run
from preprocess.precision import remove_idle_casts, use_float32
from preprocess.qonnx import translate_qonnx
from preprocess.qoperators import translate_qoperators
from preprocess.quantize_nodes import complete_quantize_nodes
from preprocess.recover_weights import recover_weights
from preprocess.served_forms import write_served_forms
from preprocess.shape_inference import make_shapes_static
from preprocess.sizes import refuse_too_large
from preprocess.views import merge_views, sink_views
from preprocess.warnings import warn_if_never_calibrated
from preprocess.weights import fold_weight_fake_quant
from preprocess.written_out import recognize_arithmetic
from tests.preprocess.building import HEAD, constant, node, normal, ops, weights_of

Folded = tuple[onnx.ModelProto, list[Note]]


@dataclass(frozen=True)
class Case:
    """A small model, and what its canonical graph must be.

    Attributes:
        text: the model; opset 13 unless it has a head of its own.
        constants: its initializers.
        ops: operators of the canonical graph, checked if given.
        holds: anything else that must be true.
        refused: the message of the error that is due instead.
    """

    text: str
    constants: Mapping[str, object]
    ops: dict[str, int] | None = None
    holds: Callable[[onnx.ModelProto, list[Note]], bool] = lambda made, log: True
    refused: str | None = None
    head: str = field(default=HEAD)

    def check(self, passes: tuple[Pass, ...]) -> None:
        """Fold the model with `passes` and compare."""
        if self.refused is not None:
            with pytest.raises(DrpaiQatError, match=self.refused):
                self._folded(passes)
            return
        made, log = self._folded(passes)
        validate(made)
        assert self.ops is None or ops(made) == self.ops
        assert self.holds(made, log)

    def _folded(self, passes: tuple[Pass, ...]) -> Folded:
        source = onnx.parser.parse_model(self.head + self.text)
        source.graph.initializer.extend(
            onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in self.constants.items()
        )
        log = PassLog(has_data=True)
        graph = run(passes, open_graph(source, log), log)
        return gs.export_onnx(graph), log.notes


def vector(text: str) -> str:
    """A network on 4 x 16 values."""
    return f"net (float[4,16] x) => (float[4,16] y)\n{{\n{text}\n}}"


def image(text: str, channels: int = 4) -> str:
    """A network from a quantized 4-channel image `d` of 6 x 6 pixels to one of `channels` channels."""
    return (
        f"net (float[1,4,6,6] x) => (float[1,{channels},6,6] y)\n{{\n"
        f"q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n{text}\n}}"
    )


def nearly(value: object) -> np.ndarray:
    """The next float32 up, as two exporters' roundings of one scale differ."""
    return np.nextafter(np.asarray(value, np.float32), np.float32(9))


def domain(name: str) -> str:
    """Head of a file with another domain."""
    return f'<ir_version: 8, opset_import: ["" : 13, "{name}" : 1]>\n'


GRID = {"s": np.float32(0.0625), "z": np.uint8(100)}
LSQ = {"s": np.float32(0.0625), "minus": np.float32(-8), "plus": np.float32(7)}
PAIR = {"QuantizeLinear": 1, "DequantizeLinear": 1}
BYTES = np.random.default_rng(3).integers(-127, 128, (4, 1, 3, 3)).astype(np.int8)
SCALES = np.array([0.01, 0.02, 0.004, 0.03], np.float32)
CHANNELS = {
    "p": np.full(4, 30, np.uint8), "s": SCALES, "w": BYTES,
    "sw": np.float32(0.01), "zw": np.int8(0),
}  # fmt: skip
LAYER = {**GRID, "w": BYTES.reshape(4, 9)[:, :4].reshape(4, 4, 1, 1), "sw": np.float32(0.01), "zw": np.int8(0)}
BATCHNORM = {name: np.abs(normal(4, seed=at)) + 1 for at, name in enumerate(("g", "b", "m", "v"))}
DEPTHWISE = """net (float[1,4,6,6] x) => (float[1,4,4,4] y)
{
  q = QuantizeLinear <axis=1> (x, s, p)
  d = DequantizeLinear <axis=1> (q, s, p)
  r = DequantizeLinear (w, sw, zw)
  y = Conv <group=4> (d, r BIAS)
}"""
TRAINED = np.array([[0, 2, -4, 2, 4, 0, -2, 4], [1, -3, 127, 5, -8, 0, 2, 9]], np.float32)
"""Integers of two channels; those of the first have a common divisor."""
KERAS = """net (float[2,3,8] x) => (float[2,3,8] y)
{
  q = QuantizeLinear (x, s, z)
  r = DequantizeLinear (q, s, z)
  f = Reshape (r, folded)
  mean = ReduceMean <axes = [0,2,3], keepdims = 1> (f)
  d = Sub (f, mean)
  v = ReduceSumSquare <axes = [0,2,3], keepdims = 0> (d)
  m = Squeeze (mean, axes)
  var = Div (v, count)
  n = BatchNormalization <epsilon = 0.001> (f, ones, zeros, m, var)
  k = Reshape (n, back)
  y = Mul (k, g)
}"""
NORMALIZED = {
    "folded": np.array([1, -1, 8, 1], np.int64), "axes": np.array([0, 2, 3], np.int64), "ones": np.ones(6, np.float32),
    "zeros": np.zeros(6, np.float32), "back": np.array([2, 3, 8], np.int64), "count": np.float32(8), "g": normal(8),
}  # fmt: skip
TWO_READERS = """net ({0}[1,6,6,4] x) => (float[1,6,6,4] y)
{{
  {1}
  t = Transpose <perm = [0,3,1,2]> (q)
  a = DequantizeLinear (t, s, z)
  b = DequantizeLinear (t, s, z)
  ta = Transpose <perm = [0,2,3,1]> (a)
  tb = Transpose <perm = [0,2,3,1]> (b)
  n = Softmax (ta)
  y = Add (n, tb)
}}"""


def _bias_is_int32(made: onnx.ModelProto, log: list[Note]) -> bool:
    name = node(made, "Conv").input[2]
    maker = next((one for one in made.graph.node if name in one.output), None)
    return maker is not None and constant(made, maker.input[0]).dtype == np.int32


def _most_readers(made: onnx.ModelProto) -> int:
    names = [name for one in made.graph.node for name in one.input]
    return max(map(names.count, names))


def _trained_integers(made: onnx.ModelProto, log: list[Note]) -> bool:
    q = weights_of(made, "Gemm")[0]
    return bool((np.abs(q if q.shape == TRAINED.shape else q.T) == np.abs(TRAINED)).all())


CASES: dict[str, Case] = {
    "an Identity that stays is named": Case(
        vector("q = QuantizeLinear (x, s, z)\n y = DequantizeLinear (q, s, z)\n w = Identity (y)")
        .replace("[4,16] y)", "[4,16] y, float[4,16] w)"),
        GRID, holds=lambda made, log: {"Identity_w"} == {one.node for one in log},
    ),
    "Identity within written-out fake-quant": Case(
        vector("v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n i = Identity (n)\n y = Mul (i, s)"),
        LSQ, {**PAIR, "Clip": 1},
    ),
    "batch norm exported in training mode": Case(
        image("y, m2, v2 = BatchNormalization <training_mode = 1> (d, g, b, m, v)"), {**GRID, **BATCHNORM},
        {**PAIR, "BatchNormalization": 1}, head=HEAD.replace("13", "15"),
    ),
    "constants of a type that onnxruntime cannot compute with": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n k = Mul (a, a)\n"
               "c = Cast <to = 1> (k)\n y = Pow (d, c)"),
        {**GRID, "a": np.asarray(1.5, ml_dtypes.bfloat16)}, {**PAIR, "Pow": 1},
    ),
    "a zero point in a Constant node that all share": Case(
        vector("z = Constant <value = uint8 {100}> ()\n"
               + "\n".join(f"q{at} = QuantizeLinear ({'x' if at == 0 else f'd{at - 1}'}, s{at}, z)\n"
                           f"d{at} = DequantizeLinear (q{at}, s{at}, z)" for at in range(3)) + "\n y = Relu (d2)"),
        {f"s{at}": np.float32(0.02 + 0.01 * at) for at in range(3)},
        holds=lambda made, log: _most_readers(made) <= 4,
    ),
    "FakeQuantize with ranges in Constant nodes": Case(
        vector("low = Constant <value = float {-1}> ()\n high = Constant <value = float {1.55}> ()\n"
               "y = org.openvinotoolkit.FakeQuantize <levels = 256> (x, low, high, low, high)"),
        {}, PAIR, head=domain("org.openvinotoolkit"),
    ),
    "a dialect in the body of a loop": Case(
        vector("""y = Loop <body = b (int64 i, bool c, float[4,16] state) => (bool going, float[4,16] next) {
            bits = Constant <value = float {8}> ()
            next = qonnx.custom_op.general.Quant (state, s, zero, bits)
            going = Identity (c)
        }> (two, true, x)"""),
        {"s": np.float32(0.0625), "zero": np.float32(0), "two": np.int64(2), "true": np.array(True)},
        {"QuantizeLinear": 1, "DequantizeLinear": 1}, head=domain("qonnx.custom_op.general"),
    ),
    "a toolkit's quantizer with parameters in Constant nodes": Case(
        vector("s = Constant <value = float {0.0625}> ()\n z = Constant <value = int64 {0}> ()\n"
               "l = Constant <value = int64 {-128}> ()\n h = Constant <value = int64 {127}> ()\n"
               "y = mqbench.FixedPerTensorAffine (x, s, z, l, h)"),
        {}, PAIR, head=domain("mqbench"),
    ),
    "shape arithmetic behind a toolkit's quantizer": Case(
        vector("a = mqbench.FixedPerTensorAffine (x, s, z, low, high)\n h = Shape (a)\n y = Reshape (a, h)"),
        {"s": np.float32(0.0625), "z": np.int64(0), "low": np.int64(-128), "high": np.int64(127)},
        head=domain("mqbench"), holds=lambda made, log: ops(made)["Shape"] == 0,
    ),
    "shape arithmetic behind FakeQuantize": Case(
        vector("a = org.openvinotoolkit.FakeQuantize <levels = 256> (x, low, high, low, high)\n"
               "h = Shape (a)\n y = Reshape (a, h)"),
        {"low": np.float32(-1), "high": np.float32(1.55)}, head=domain("org.openvinotoolkit"),
        holds=lambda made, log: ops(made)["Shape"] == 0,
    ),
    "integer operators with scales in Constant nodes": Case(
        vector("s = Constant <value = float {0.0625}> ()\n z = Constant <value = uint8 {100}> ()\n"
               "b = Constant <value = float {0.03125}> ()\n q = QuantizeLinear (x, s, z)\n"
               "m = com.microsoft.QGemm (q, s, z, w, t, k, i, b, z)\n y = DequantizeLinear (m, b, z)"),
        {"w": np.eye(16, dtype=np.int8) * 64, "t": np.float32(0.01), "k": np.int8(0),
         "i": np.arange(16, dtype=np.int32)},
        {"QuantizeLinear": 2, "DequantizeLinear": 4, "Gemm": 1}, head=domain("com.microsoft"),
    ),
    "shape arithmetic behind fused operators": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n"
               "m = com.microsoft.QuickGelu <alpha = 1.0> (d)\n h = Shape (m)\n y = Reshape (m, h)"),
        GRID, head=domain("com.microsoft"), holds=lambda made, log: ops(made)["Shape"] == 0,
    ),
    "shape arithmetic behind dynamic quantization": Case(
        vector("t = Constant <value = float {0.0625}> ()\n m = com.microsoft.DynamicQuantizeMatMul (x, w, t)\n"
               "h = Shape (m)\n y = Reshape (m, h)"),
        {"w": np.eye(16, dtype=np.int8) * 64}, head=domain("com.microsoft"),
        holds=lambda made, log: ops(made)["MatMul"] == 1 and ops(made)["Shape"] == 0,
    ),
    "block-wise weights": Case(
        "net (float[4,16] x) => (float[4,4] y)\n{\nq = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n"
        "b = DequantizeLinear <axis = 0, block_size = 8> (w, t)\n y = MatMul (d, b)\n}",
        {**GRID, "w": np.arange(-32, 32, dtype=np.int8).reshape(16, 4),
         "t": np.arange(1, 9, dtype=np.float32).reshape(2, 4)},
        {"QuantizeLinear": 1, "DequantizeLinear": 3, "Slice": 2, "MatMul": 2, "Add": 1},
        head=HEAD.replace("13", "21").replace("8", "10"),
    ),
    "a Cast to the type that is inferred": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n r = Relu (d)\n y = Cast <to = 1> (r)"),
        GRID, {**PAIR, "Relu": 1},
    ),
    "a Cast within written-out fake-quant": Case(
        vector("v = Div (x, s)\n c = Clip (v, minus, plus)\n i = Cast <to = 1> (c)\n n = Round (i)\n y = Mul (n, s)"),
        LSQ, {**PAIR, "Clip": 1},
    ),
    "a limit by choices, expanded to a shape": Case(
        vector("h = Shape (x)\n e = Expand (top, h)\n g = Greater (x, top)\n w = Where (g, e, x)\n c = Relu (w)\n"
               "v = Div (c, s)\n n = Round (v)\n y = Mul (n, s)"),
        {"s": np.float32(0.0625), "top": np.float32(3)}, holds=lambda made, log: ops(made)["QuantizeLinear"] == 1,
    ),
    "a product as Einsum, whose shape is computed": Case(
        "net (float[4,16] x) => (float[4,16] y)\n{\n q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n"
        "h = Shape (d)\n r = Reshape (d, h)\n v = Div (w, step)\n n = Round (v)\n f = Mul (n, step)\n"
        "y = Einsum <equation = \"ij,jk->ik\"> (r, f)\n}",
        {**GRID, "w": normal(16, 16), "step": np.float32(0.05)},
        holds=lambda made, log: weights_of(made, "MatMul")[0].shape == (16, 16),
    ),
    "a dead channel": Case(
        image("f = DequantizeLinear <axis = 0> (w, ws, wz)\n y = Conv (d, f)"),
        {**GRID, "w": LAYER["w"], "ws": np.array([0.01, 0, 0.02, 0.03], np.float32), "wz": np.zeros(4, np.int8)},
        holds=lambda made, log: not weights_of(made, "Conv")[0][1].any(),
    ),
    "Quant with parameters in Constant nodes": Case(
        vector("s = Constant <value = float {0.0625}> ()\n z = Constant <value = float {0}> ()\n"
               "b = Constant <value = float {8}> ()\n d = qonnx.custom_op.general.Quant (x, s, z, b)\n"
               "h = Shape (d)\n y = Reshape (d, h)"),
        {}, head=domain("qonnx.custom_op.general"), holds=lambda made, log: ops(made)["Shape"] == 0,
    ),
    "prepared but never calibrated": Case(
        vector("r = Neg (x)\n q = QuantizeLinear (r, s, z)\n d = DequantizeLinear (q, s, z)\n e = Neg (d)\n"
               "p = QuantizeLinear (e, s, k)\n y = DequantizeLinear (p, s, k)"),
        {"s": np.float32(1), "z": np.uint8(100), "k": np.uint8(90)},
        holds=lambda made, log: any(one.action == "warning" for one in log),
    ),
    "written-out fake-quant by channel": Case(
        vector("r = Neg (x)\n v = Div (r, t)\n c = Clip (v, minus, plus)\n n = Round (c)\n m = Mul (n, t)\n"
               "e = Neg (m)\n w = Div (e, t)\n k = Clip (w, minus, plus)\n o = Round (k)\n y = Mul (o, t)"),
        {"t": np.linspace(0.01, 0.05, 16).astype(np.float32), "minus": LSQ["minus"], "plus": LSQ["plus"]},
        holds=lambda made, log: not any(one.action == "warning" for one in log),
    ),
    "nothing but written-out fake-quant": Case(
        vector("v = Div (x, s)\n c = Clip (v, minus, plus)\n n = Round (c)\n y = Mul (n, s)"), LSQ, {**PAIR, "Clip": 1}
    ),
    "no fake-quant": Case(vector("y = Relu (x)"), {}, refused="no fake-quant"),
    "a scale that depends on a shape": Case(
        vector("n = Size (x)\n f = Cast <to = 1> (n)\n s = Div (one, f)\n"
               "q = QuantizeLinear (x, s, z)\n y = DequantizeLinear (q, s, z)"),
        {"one": np.float32(1), "z": np.uint8(100)}, PAIR,
    ),
    "a scale of one element, and no zero point": Case(
        vector("q = QuantizeLinear (x, s)\n y = DequantizeLinear (q, s)"), {"s": np.array([0.02], np.float32)}, PAIR
    ),
    "automatic padding": Case(
        image("r = Relu (d)\n y = Conv <auto_pad = \"SAME_UPPER\"> (r, w)"), {**GRID, "w": normal(4, 4, 3, 3)},
        holds=lambda made, log: [one.name for one in node(made, "Conv").attribute if "pad" in one.name] == ["pads"],
    ),
    "weights behind Q/DQ, batch norm behind the layer": Case(
        image("qw = QuantizeLinear (w, s, z)\n dw = DequantizeLinear (qw, s, z)\n c = Conv (d, dw)\n"
              "y = BatchNormalization (c, g, b, m, v)"),
        {**GRID, "w": normal(4, 4, 1, 1), **BATCHNORM}, {"QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1},
    ),
    "a range behind moved integers": Case(
        vector("q = QuantizeLinear (x, s, z)\n t = Transpose (q)\n c = Clip (t, , top)\n"
               "y = DequantizeLinear (c, s, z)")
        .replace("(float[4,16] y)", "(float[16,4] y)"),
        {**GRID, "top": np.uint8(120)}, {"QuantizeLinear": 2, "DequantizeLinear": 2, "Clip": 1, "Transpose": 1},
    ),
    "moved integers at an output": Case(
        vector("q = QuantizeLinear (x, s, z)\n t = Gather (q, rows)\n y = DequantizeLinear (t, s, z)"),
        {**GRID, "rows": np.array([2, 0, 1, 3], np.int64)}, {**PAIR, "Gather": 1},
    ),
    "a Cast between the halves of a per-channel pair": Case(
        image("q2 = QuantizeLinear <axis = 1> (d, t, p)\n c = Cast <to = 6> (q2)\n"
              "y = DequantizeLinear <axis = 1> (c, t, k)"),
        {**GRID, "t": CHANNELS["s"], "p": CHANNELS["p"], "k": np.full(4, 30, np.int32)},
        {"QuantizeLinear": 2, "DequantizeLinear": 2, "Div": 1, "Mul": 1},
    ),
    "a range between two roundings of one scale": Case(
        vector("q = QuantizeLinear (x, s, z)\n c = Clip (q, , top)\n y = DequantizeLinear (c, t, z)"),
        {**GRID, "top": np.uint8(120), "t": nearly(GRID["s"])}, {**PAIR, "Clip": 1},
    ),
    "two readers with two roundings of one scale": Case(
        vector("q = QuantizeLinear (x, s, z)\n a = DequantizeLinear (q, s, z)\n b = DequantizeLinear (q, t, z)\n"
               "r = Relu (a)\n y = Add (r, b)"),
        {**GRID, "t": nearly(GRID["s"])}, {**PAIR, "Relu": 1, "Add": 1},
    ),
    "a per-channel pair behind a layer": Case(
        image("dw = DequantizeLinear (w, sw, zw)\n c = Conv (d, dw)\n q2 = QuantizeLinear <axis = 1> (c, t, p)\n"
              "y = DequantizeLinear <axis = 1> (q2, t, p)"),
        {**LAYER, "t": CHANNELS["s"], "p": CHANNELS["p"]},
        {"QuantizeLinear": 2, "DequantizeLinear": 3, "Conv": 1, "Mul": 1},
    ),
    "a grid that repeats behind another reader": Case(
        vector("q = QuantizeLinear (x, s, z)\n a = DequantizeLinear (q, s, z)\n r = Relu (a)\n"
               "q2 = QuantizeLinear (a, s, z)\n b = DequantizeLinear (q2, s, z)\n y = Add (r, b)"),
        GRID, {**PAIR, "Relu": 1, "Add": 1},
    ),
    "a factor below zero": Case(
        image("dw = DequantizeLinear (w, sw, zw)\n c = Conv (d, dw)\n y = Mul (c, k)"),
        {**GRID, "w": np.array([[0, 228, 9, 7]] * 4, np.uint8).reshape(4, 4, 1, 1), "sw": np.float32(0.01),
         "zw": np.uint8(100), "k": np.float32(-2)},
        holds=lambda made, log: not weights_of(made, "Conv")[2].any(),
    ),
    "a factor behind a layer with an int32 bias": Case(
        image("dw = DequantizeLinear (w, sw, zw)\n db = DequantizeLinear (b, sb, zb)\n c = Conv (d, dw, db)\n"
              "y = Mul (c, k)"),
        {**LAYER, "b": np.arange(4, dtype=np.int32) * 999, "sb": np.float32(0.0625) * np.float32(0.01),
         "zb": np.int32(0), "k": np.float32(3)},
        holds=_bias_is_int32,
    ),
    "a per-channel pair, a depthwise layer with an int32 bias": Case(
        DEPTHWISE.replace(" BIAS", ", b"), {**CHANNELS, "b": np.float32(0.07) * SCALES},
        holds=_bias_is_int32,
    ),
    "per-channel zero points, which take 16 bits": Case(
        DEPTHWISE.replace(" BIAS", ""), {**CHANNELS, "p": np.array([30, 0, 128, 255], np.uint8)},
        {"Div": 1, "Max": 1, "Min": 1, "QuantizeLinear": 1, "DequantizeLinear": 2, "Conv": 1},
        holds=lambda made, log: made.opset_import[0].version == 21,
    ),
    "a tensor that nothing could hold": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n e = Expand (d, far)\n"
               "r = ReduceSum <keepdims = 0> (e)\n y = Add (d, r)"),
        {**GRID, "far": np.array([10**12, 4, 16])}, refused=r"tensor e has 6\.4e\+13 values",
    ),
    "sums that float32 loses": Case(
        image("i = QuantizeLinear (w, sw, zw)\n k = DequantizeLinear (i, sw, zw)\n c = Conv (d, k)\n r = Relu (c)\n"
              "p = QuantizeLinear (r, st, z)\n y = DequantizeLinear (p, st, z)"),
        {**LAYER, "w": BYTES.reshape(4, 9)[:, :4].reshape(4, 4, 1, 1) * np.float32(0.01),
         "s": np.float32(1e20), "st": np.float32(0.02)},
        refused=r"node Conv_c \(Conv\), tensor s: scale = 1e\+20 makes sums .* of QuantizeLinear_p, spans 5.1",
    ),
    "a division by what may be 0": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n y = Div (one, d)"),
        {**GRID, "one": np.float32(1)}, holds=lambda made, log: any("range holds 0" in one.reason for one in log),
    ),
    "many tensors joined": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n"
               + "\n".join(f"m{i} = Mul (d, k{i})" for i in range(40))
               + f"\n y = Concat <axis = 0> ({', '.join(f'm{i}' for i in range(40))})")
        .replace("(float[4,16] y)", "(float[160,16] y)"),
        {**GRID, **{f"k{i}": np.float32(i + 1) for i in range(40)}}, {**PAIR, "Mul": 40, "Concat": 3},
    ),
    "an index outside": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n y = Gather <axis = 1> (d, i)"),
        {**GRID, "i": np.arange(1, 17)}, refused="index 16 is outside",
    ),
    "a size that depends on the data": Case(
        vector("q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n y = NonZero (d)")
        .replace("(float[4,16] y)", "(int64[n,m] y)"),
        GRID, refused="depends on the data",
    ),
    "float weights on a grid, batch norm behind the layer": Case(
        "net (float[3,8] x) => (float[3,2] y)\n{\n q = QuantizeLinear (x, s, z)\n d = DequantizeLinear (q, s, z)\n"
        "m = MatMul (d, w)\n y = Mul (m, k)\n}",
        {**GRID, "w": (TRAINED * np.float32(0.01)).T.copy(), "k": np.array([1.7, -0.3], np.float32)},
        holds=_trained_integers,
    ),
    "an int8 input behind a layout wrapper, read twice": Case(
        TWO_READERS.format("uint8", "").replace("(q)", "(x)"), GRID, {**PAIR, "Softmax": 1, "Add": 1}
    ),
    "bytes on a grid": Case(
        "net (uint8[4,16] x) => (float[4,16] y)\n{\n r = DequantizeLinear (x, s)\n y = Relu (r)\n}",
        {"s": np.array([0.02], np.float32)}, {**PAIR, "Relu": 1},
    ),
    "moved integers, read twice": Case(
        TWO_READERS.format("float", "q = QuantizeLinear (x, s, z)"), GRID, {**PAIR, "Softmax": 1, "Add": 1}
    ),
    "layer normalization by Keras": Case(KERAS, {**GRID, **NORMALIZED}, {**PAIR, "LayerNormalization": 1}),
    "a Cast within spelled-out layer normalization": Case(
        vector("q = QuantizeLinear (x, s, z)\n a = DequantizeLinear (q, s, z)\n m = ReduceMean <axes = [-1]> (a)\n"
               "d = Sub (a, m)\n f = Cast <to = 1> (d)\n p = Mul (f, f)\n v = ReduceMean <axes = [-1]> (p)\n"
               "e = Add (v, eps)\n r = Sqrt (e)\n y = Div (d, r)"),
        {**GRID, "eps": np.float32(1e-5)}, {**PAIR, "LayerNormalization": 1},
    ),
    "PRelu": Case(
        image("p = Relu (d)\n n = Neg (d)\n b = Relu (n)\n m = Mul (b, a)\n y = Add (p, m)"),
        {**GRID, "a": normal(4, 1, 1)}, {**PAIR, "PRelu": 1},
    ),
    "padding in front of a maximum and a minimum": Case(
        image("p = Pad (d, pads)\n a = Max (p, zero)\n b = Min (a, six)\n y = Conv (b, w)"),
        {**GRID, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "zero": np.float32(0), "six": np.float32(6),
         "w": normal(4, 4, 3, 3)},
        {**PAIR, "Clip": 1, "Conv": 1},
    ),
    "a bias behind a view": Case(
        "net (float[2,3,8] x) => (float[2,3,5] y)\n{\n f = Reshape (x, rows)\n q = QuantizeLinear (f, s, z)\n"
        "d = DequantizeLinear (q, s, z)\n p = MatMul (d, w)\n k = Reshape (p, back)\n y = Add (k, b)\n}",
        {**GRID, "rows": np.array([6, 8], np.int64), "back": np.array([2, 3, 5], np.int64),
         "w": normal(8, 5), "b": normal(5)},
        {**PAIR, "Gemm": 1, "Reshape": 2},
    ),
    "layout wrappers around an elementwise step": Case(
        image("t = Transpose <perm = [0,2,3,1]> (d)\n r = Relu (t)\n y = Transpose <perm = [0,3,1,2]> (r)"),
        GRID, {**PAIR, "Relu": 1},
    ),
    "padding in front of automatic padding": Case(
        image("p = Pad (d, pads)\n y = Conv <auto_pad = \"VALID\"> (p, w)"),
        {**GRID, "pads": np.array([0, 0, 1, 1, 0, 0, 1, 1], np.int64), "w": normal(4, 4, 3, 3)}, {**PAIR, "Conv": 1},
    ),
    "padding between layout wrappers": Case(
        image("t = Transpose <perm = [0,2,3,1]> (d)\n p = Pad (t, pads)\n u = Transpose <perm = [0,3,1,2]> (p)\n"
              "y = Conv (u, w)"),
        {**GRID, "pads": np.array([0, 1, 1, 0, 0, 1, 1, 0], np.int64), "w": normal(4, 4, 3, 3)}, {**PAIR, "Conv": 1},
    ),
}  # fmt: skip

PYTORCH, TENSORFLOW = ("pytorch",), ("tensorflow",)
BOTH = (*PYTORCH, *TENSORFLOW)
ORDER: tuple[tuple[tuple[str, ...], Pass, Pass, str], ...] = (
    (BOTH, name_nodes, remove_identities, "an Identity that stays is named"),
    (BOTH, remove_identities, recognize_arithmetic, "Identity within written-out fake-quant"),
    (BOTH, use_float32, fold_constants, "constants of a type that onnxruntime cannot compute with"),
    (BOTH, fold_constants, unshare_small_constants, "a zero point in a Constant node that all share"),
    (BOTH, write_out_loops, translate_qonnx, "a dialect in the body of a loop"),
    (BOTH, fold_constants, translate_custom_quantizers, "a toolkit's quantizer with parameters in Constant nodes"),
    (BOTH, translate_custom_quantizers, make_shapes_static, "shape arithmetic behind a toolkit's quantizer"),
    (BOTH, fold_constants, translate_fake_quantize, "FakeQuantize with ranges in Constant nodes"),
    (BOTH, translate_fake_quantize, make_shapes_static, "shape arithmetic behind FakeQuantize"),
    (BOTH, fold_constants, translate_qoperators, "integer operators with scales in Constant nodes"),
    (BOTH, translate_qoperators, make_shapes_static, "integer operators with scales in Constant nodes"),
    (BOTH, fold_constants, translate_dynamic, "shape arithmetic behind dynamic quantization"),
    (BOTH, translate_dynamic, make_shapes_static, "shape arithmetic behind dynamic quantization"),
    (BOTH, translate_fused_operators, make_shapes_static, "shape arithmetic behind fused operators"),
    (BOTH, make_shapes_static, refuse_too_large, "a tensor that nothing could hold"),
    (BOTH, make_shapes_static, refuse_misfits, "an index outside"),
    (BOTH, fold_weight_fake_quant, refuse_lost_sums, "sums that float32 loses"),
    (BOTH, make_shapes_static, remove_idle_casts, "a Cast to the type that is inferred"),
    (BOTH, make_shapes_static, explicit_pads, "automatic padding"),
    (BOTH, make_shapes_static, complete_quantize_nodes, "a scale that depends on a shape"),
    (BOTH, remove_idle_casts, recognize_arithmetic, "a Cast within written-out fake-quant"),
    (BOTH, make_shapes_static, write_clamps, "a limit by choices, expanded to a shape"),
    (BOTH, write_clamps, recognize_arithmetic, "a limit by choices, expanded to a shape"),
    (BOTH, make_shapes_static, write_served_forms, "a product as Einsum, whose shape is computed"),
    (BOTH, write_served_forms, recover_weights, "a product as Einsum, whose shape is computed"),
    (BOTH, blank_dead_channels, complete_quantize_nodes, "a dead channel"),
    (BOTH, fold_constants, translate_qonnx, "Quant with parameters in Constant nodes"),
    (BOTH, translate_qonnx, make_shapes_static, "Quant with parameters in Constant nodes"),
    (BOTH, warn_if_never_calibrated, recognize_arithmetic, "written-out fake-quant by channel"),
    (BOTH, recognize_arithmetic, require_fake_quant, "nothing but written-out fake-quant"),
    (TENSORFLOW, use_float_interface, dequantize_before_moves, "an int8 input behind a layout wrapper, read twice"),
    (BOTH, make_shapes_static, write_layer_norm, "layer normalization by Keras"),
    (BOTH, remove_idle_casts, write_layer_norm, "a Cast within spelled-out layer normalization"),
    (TENSORFLOW, write_layer_norm, sink_views, "layer normalization by Keras"),
    (TENSORFLOW, merge_clips, fold_pads, "padding in front of a maximum and a minimum"),
    (TENSORFLOW, explicit_pads, fold_pads, "padding in front of automatic padding"),
    (TENSORFLOW, sink_views, merge_views, "layout wrappers around an elementwise step"),
    (TENSORFLOW, sink_views, fold_affine_steps, "a bias behind a view"),
    (TENSORFLOW, dequantize_before_moves, merge_views, "moved integers, read twice"),
    (TENSORFLOW, fold_pads, merge_views, "padding between layout wrappers"),
    (BOTH, split_blocks, fold_weight_fake_quant, "block-wise weights"),
    (BOTH, recover_weights, fold_affine_steps, "float weights on a grid, batch norm behind the layer"),
    (BOTH, fold_weight_fake_quant, fold_affine_steps, "weights behind Q/DQ, batch norm behind the layer"),
    (PYTORCH, dequantize_before_moves, remove_identities, "moved integers at an output"),
    (PYTORCH, dequantize_before_moves, clip_before_quantize, "a range behind moved integers"),
    (BOTH, clip_before_quantize, scale_channels_outside, "a Cast between the halves of a per-channel pair"),
    (BOTH, clip_before_quantize, match_pairs, "a range between two roundings of one scale"),
    (BOTH, match_pairs, merge_equal_nodes, "two readers with two roundings of one scale"),
    (BOTH, drop_repeated_grids, merge_equal_nodes, "a grid that repeats behind another reader"),
    (BOTH, scale_channels_outside, fold_affine_steps, "a per-channel pair behind a layer"),
    (BOTH, fold_affine_steps, canonical_weights, "a factor below zero"),
    (BOTH, fold_affine_steps, canonical_biases, "a factor behind a layer with an int32 bias"),
    (
        BOTH,
        fold_depthwise_scales,
        canonical_biases,
        "a per-channel pair, a depthwise layer with an int32 bias",
    ),
)
"""Pipelines, a pass, the pass that must come later, and the case that shows it."""

ROWS = [
    pytest.param(qat_type, first, then, case, id=f"{qat_type}: {first.__name__} before {then.__name__}")
    for qat_types, first, then, case in ORDER
    for qat_type in qat_types
]
PLACES = [
    pytest.param(qat_type, at, id=f"{qat_type}: {at} {one.__name__}")
    for qat_type in BOTH
    for at, one in enumerate(PIPELINES[qat_type])
]


def breaks(case: str, passes: tuple[Pass, ...]) -> bool:
    """True if `passes` don't give what the case wants."""
    try:
        CASES[case].check(passes)
    except (AssertionError, DrpaiQatError, LookupError, StopIteration, pytest.fail.Exception):
        return True
    return False


@pytest.mark.parametrize(("qat_type", "first", "then", "case"), ROWS)
def test_a_pass_comes_before_what_needs_it(qat_type: str, first: Pass, then: Pass, case: str) -> None:
    passes = PIPELINES[qat_type]
    at = passes.index(first)
    behind = passes.index(then, at)
    CASES[case].check(passes)
    assert breaks(case, (*passes[:at], *passes[at + 1 : behind + 1], first, *passes[behind + 1 :]))


@pytest.mark.parametrize(("qat_type", "at"), PLACES)
def test_a_pass_is_needed_where_it_stands(qat_type: str, at: int) -> None:
    passes = PIPELINES[qat_type]
    without = (*passes[:at], *passes[at + 1 :])
    likely = [case for _, first, then, case in ORDER if passes[at] in (first, then)]
    assert any(breaks(case, without) and not breaks(case, passes) for case in (*likely, *CASES))
