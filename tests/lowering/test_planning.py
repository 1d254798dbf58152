"""What is decided of a network before any kernel is written: each convolution once, and what its input looks like."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest

from drpai_qat.graph import layer_weights
from drpai_qat.graph.canonical import read_graph
from drpai_qat.graph.parts import Masked, Planes
from drpai_qat.graph.rewrite import hoist_fake_quant
from drpai_qat.kernels.isa import AVX2, AVX512_VNNI, NEON_DOTPROD, Isa
from drpai_qat.lowering import arithmetic, lower
from drpai_qat.lowering.network_plan import ConvPlan, NetworkPlan
from drpai_qat.lowering.planning import plan_network
from preprocess import preprocess
from tests.lowering.running import compiled, computes, grid, kernels, lowered, model, qdq
from tests.reference import reference

GRIDS = grid("a", 2**-4, 128) | grid("b", 2**-6, 0) | grid("y", 2**-2, 120)


def plan(source: onnx.ModelProto, isa: Isa = AVX512_VNNI) -> NetworkPlan:
    return plan_network(hoist_fake_quant(read_graph(source)), isa)


def weight(name: str, *shape: int, largest: int = 60) -> dict[str, np.ndarray]:
    values = np.random.default_rng(1).integers(-largest, largest + 1, shape)
    return quantized(name, values.astype(np.int8), 2.0**-10)


def quantized(name: str, values: np.ndarray, scale: float) -> dict[str, np.ndarray]:
    """Integers q<name>, with one scale and zero point per output channel."""
    scales, zeros = np.full(len(values), scale, np.float32), np.zeros(len(values), values.dtype)
    return {f"q{name}": values, f"s{name}": scales, f"z{name}": zeros}


def layer(name: str, source: str, attributes: str = "") -> str:
    return (
        f"w{name} = DequantizeLinear<axis=0>(q{name}, s{name}, z{name})\n{name} = Conv{attributes}({source}, w{name})\n"
    )


def behind_a_convolution(reader: str, **weights: np.ndarray) -> onnx.ModelProto:
    """A 1x1 convolution makes b, 32 channels of 16x16, of which `reader` makes c; other grids among the weights win."""
    body = qdq("x", "a") + layer("p", "a") + qdq("p", "b") + reader + qdq("c", "y")
    signature = "(float[1,16,16,16] x) => (float[1,32,16,16] y)"
    return model(signature, body, **(GRIDS | weight("p", 32, 16, 1, 1) | weights))


def residual(reader: str, **weights: np.ndarray) -> onnx.ModelProto:
    """s = a + b, on grids of their own, of which `reader` makes c."""
    body = qdq("x", "a") + "r = Relu(x)\n" + qdq("r", "b") + "s = Add(a, b)\n" + reader + qdq("c", "y")
    out_channels, channels = next(iter(weights.values())).shape[:2]
    signature = f"(float[1,{channels},6,6] x) => (float[1,{out_channels},6,6] y)"
    return model(signature, body, **GRIDS, **weights)


PADDED = "<pads=[1,1,1,1]>"


def dense(largest: int = 60) -> onnx.ModelProto:
    return behind_a_convolution(layer("c", "b", PADDED), **weight("c", 32, 32, 3, 3, largest=largest))


def test_each_convolution_is_planned_once(models, monkeypatch):
    """Its weights are expanded once, and its arithmetic chosen once, whatever asks for them while nodes are lowered."""
    canonical = preprocess(onnx.load(models / "pt_fuse_mbv2.onnx")).model
    made = plan_network(hoist_fake_quant(read_graph(canonical)), AVX512_VNNI)
    parts = sum(len(one.reads) - 1 for one in made.convolutions.values())
    parts += sum(len(layers) - 1 for layers in made.matrices.values())
    expanded, planned = [], []
    expand = layer_weights._integer_weights

    def expand_and_count(*args):
        expanded.append(args[0])
        return expand(*args)

    monkeypatch.setattr(layer_weights, "_integer_weights", expand_and_count)

    class Counted(arithmetic.LayerPlan):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            planned.append(self)

    monkeypatch.setattr(arithmetic, "LayerPlan", Counted)
    coverage = lower(canonical, AVX512_VNNI).coverage
    assert sum(node.op == "Conv" for node in coverage) == 16
    others = sum(node.op in ("Gemm", "MatMul") for node in coverage)
    assert (len(expanded), len(planned)) == (16 + others, 16 + others + parts)


def test_a_producer_writes_the_padding_that_its_readers_share():
    made = plan(dense())
    (read,) = made.convolutions["c"].reads
    assert made.forms["b"] == read.form
    assert (read.form.pads, read.form.channels, read.form.grid) == ((1, 1, 1, 1), 32, made.grids["b"])
    two = behind_a_convolution(
        layer("d", "b") + layer("e", "b", PADDED) + "c = Add(d, e)\n",
        **weight("d", 32, 32, 1, 1), **weight("e", 32, 32, 3, 3),
    )  # fmt: skip
    assert "b" not in plan(two).forms  # one reads the plain image, the other a padded one


def test_a_producer_widens_what_is_multiplied_as_int16():
    """Full-range weights leave vpmaddubsw's int16, and the zero point is in the middle: no guarded product either."""
    wide = behind_a_convolution(
        layer("c", "b", "<pads=[0,1,1,0]>"), **(weight("c", 32, 32, 2, 2, largest=127) | grid("b", 2**-6, 128))
    )
    form = plan(wide, AVX2).forms["b"]
    assert form.grid is not None
    assert (form.dtype, form.zero_point, form.grid.qmin, form.grid.qmax) == ("int16", 0, -128, 127)
    assert plan(wide, AVX512_VNNI).forms["b"].dtype == "uint8"
    assert plan(wide, NEON_DOTPROD).forms["b"].dtype == "int8"


@pytest.mark.parametrize(
    ("reader", "shape", "isa", "kernel"),
    [
        (layer("c", "b", PADDED), (32, 32, 3, 3), AVX512_VNNI, "direct"),
        (layer("c", "b", PADDED), (32, 32, 3, 3), AVX2, "winograd"),
        (layer("c", "b", "<pads=[1,1,1,1], group=32>"), (32, 1, 3, 3), AVX2, "depthwise"),
        (layer("c", "b", "<pads=[1,1,1,1], group=2>"), (32, 16, 3, 3), AVX2, "direct"),
    ],
)
def test_the_kernel_of_a_convolution(reader, shape, isa, kernel):
    source = behind_a_convolution(reader, **weight("c", *shape))
    made = plan(source, isa).convolutions["c"]
    assert made.kernel == kernel
    assert made.shape.channels * made.shape.groups == 32


def test_rows_of_few_channels_are_read_with_a_row_more():
    body = qdq("x", "a") + layer("c", "a", "<pads=[3,3,3,3]>") + qdq("c", "y")
    source = model("(float[1,3,16,16] x) => (float[1,24,16,16] y)", body, **GRIDS, **weight("c", 24, 3, 7, 7))
    made = plan(source).convolutions["c"]
    assert (made.reads[0].form.extra_rows, made.reads[0].form.channels) == (1, 3)
    assert (made.shape.channels, made.shape.kernel) == (21, (7, 1))


def ratios(made: ConvPlan) -> list[float]:
    return [made.ratio(read) for read in made.reads]


def test_the_parts_of_a_sum_are_reads_with_the_same_weights():
    made = plan(residual(layer("c", "s", PADDED), **weight("c", 24, 32, 3, 3)))
    convolution = made.convolutions["c"]
    assert [part.name for part in made.parts["s"]] == [read.name for read in convolution.reads] == ["a", "b"]
    assert ratios(convolution) == [1.0, 2**-2]
    first, second = (read.layer.weights for read in convolution.reads)
    np.testing.assert_array_equal(first, second)
    assert [read.form.zero_point for read in convolution.reads] == [128, 0]
    assert convolution.compute == "int8"


def test_a_reader_that_needs_floats_reads_the_whole_sum():
    """The second reader's weights are too large for int32 sums; the first one takes the parts all the same."""
    huge = quantized("d", np.full((24, 32, 1, 1), 2**30, np.int32), 2.0**-30)
    reader = layer("e", "s") + layer("d", "s") + "c = Add(e, d)\n"
    source = residual(reader, **weight("e", 24, 32, 1, 1), **huge)
    made = plan(source)
    reads = {name: [read.name for read in one.reads] for name, one in made.convolutions.items()}
    assert reads == {"e": ["a", "b"], "d": ["s"]}
    assert made.convolutions["d"].compute == "float32"
    assert kernels(lowered(source))["join"] == 1
    feeds = {"x": np.random.default_rng(2).normal(0, 2, (1, 32, 6, 6)).astype(np.float32)}
    np.testing.assert_array_equal(compiled(source, feeds)[0], reference(source, feeds)[0])


def test_a_sum_of_one_channel_is_no_depthwise_convolution():
    source = residual(layer("c", "s", PADDED), **weight("c", 1, 1, 3, 3))
    made = plan(source).convolutions["c"]
    assert (made.kernel, len(made.reads)) == ("direct", 2)
    feeds = {"x": np.random.default_rng(2).normal(0, 2, (1, 1, 6, 6)).astype(np.float32)}
    np.testing.assert_array_equal(compiled(source, feeds)[0], reference(source, feeds)[0])


def test_what_the_importer_leaves_in_float32_is_read_on_its_grid():
    """Gather with computed indices has no kernel of ours; its values still lie on the grid of its input."""
    body = qdq("x", "a") + "g = Gather<axis=2>(a, i)\n" + layer("c", "g") + qdq("c", "y")
    source = model("(float[1,32,6,6] x, int64[4] i) => (float[1,24,4,6] y)", body, **GRIDS, **weight("c", 24, 32, 1, 1))
    feeds = {
        "x": np.random.default_rng(2).normal(0, 2, (1, 32, 6, 6)).astype(np.float32), "i": np.asarray([5, 0, 2, 2]),
    }  # fmt: skip
    network = lowered(source)
    assert (computes(network)["Gather"], computes(network)["Conv"]) == ("tvm", "int8")
    np.testing.assert_array_equal(compiled(source, feeds)[0], reference(source, feeds)[0])


def behind_a_relu(
    operands: int, limit: str = "r = Relu(s)\n", attributes: str = PADDED, size: int = 6
) -> onnx.ModelProto:
    """r = relu(relu(a0 + a1) + a2 ...) of operands on grids of their own, read by a convolution."""
    body, terms, constants = "", [], grid("y", 2**-2, 120) | weight("c", 24, 32, 3, 3)
    for i in range(operands):
        body += f"x{i} = Mul(x, m{i})\n" + qdq(f"x{i}", f"a{i}")
        constants |= grid(f"a{i}", 0.061 * 0.7**i, 120 + i) | {f"m{i}": np.float32(0.9 - 0.2 * i)}
        terms.append(f"a{i}")
    total = terms[0]
    for i, term in enumerate(terms[1:], 1):
        last = i == operands - 1
        body += f"{'s' if last else f's{i}'} = Add({total}, {term})\n" + ("" if last else f"r{i} = Relu(s{i})\n")
        total = f"r{i}"
    body += limit + layer("c", "r", attributes) + qdq("c", "y")
    return model(f"(float[1,32,6,6] x) => (float[1,24,{size},{size}] y)", body, lo=0.0, hi=6.0, **constants)


@pytest.mark.parametrize("isa", [AVX2, AVX512_VNNI, NEON_DOTPROD], ids=lambda isa: isa.name)
def test_a_relu_keeps_the_parts_of_its_sum(isa):
    made = plan(behind_a_relu(2), isa)
    how = made.stored_parts["r"]
    assert how == Masked("s", ("a0", "a1"))
    reads = made.convolutions["c"].reads
    assert [read.name for read in reads] == ["r::0", "r::1"]
    assert [made.grids[read.name] for read in reads] == [made.grids["a0"], made.grids["a1"]]
    assert made.convolutions["c"].compute == "int8"


@pytest.mark.parametrize("source", [behind_a_relu(4), behind_a_relu(2, limit="r = Clip(s, lo, hi)\n")], ids=["4", "6"])
def test_what_has_too_many_parts_or_an_upper_limit_is_stored_in_bytes(source):
    made = plan(source)
    how = made.stored_parts["r"]
    assert isinstance(how, Planes)
    assert how.largest == 2**24 - 1
    grids = [made.grids[part.name] for part in made.parts["r"]]
    assert [one.scale / how.scale for one in grids] == [2**16, 2**8, 1]
    assert (how.zero_point, {one.dtype for one in grids}) == (0, {"uint8"})


def test_bytes_that_float32_would_outrun_are_not_stored():
    """Without VNNI, three passes of uint8 over a strided convolution take longer than float32."""
    source = behind_a_relu(4, attributes="<pads=[1,1,1,1], strides=[2,2]>", size=3)
    assert not plan(source, AVX2).stored_parts
    (conv,) = (one for one in lowered(source, "avx2").coverage if one.op == "Conv")
    assert (conv.compute, conv.reason) == ("float32", arithmetic.OUTRUN)
    assert conv.macs == 24 * 3 * 3 * 32 * 3 * 3  # each product once, whatever it is made of
    (conv,) = (one for one in lowered(source, "avx512-vnni").coverage if one.op == "Conv")
    assert (conv.compute, conv.macs) == ("int8", 24 * 3 * 3 * 32 * 3 * 3)
    assert plan(source, AVX512_VNNI).stored_parts
    assert plan(source, replace(AVX2, float_sums=False)).stored_parts  # stands in for a machine without float sums


def test_sums_in_int16_on_demand():
    made = plan_network(read_graph(behind_a_relu(2)), AVX512_VNNI, exact_sums=False)
    assert not made.stored_parts
    assert made.wide_grids["r"].dtype == "int16"
