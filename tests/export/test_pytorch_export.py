"""drpai_qat.export.pytorch: every way PyTorch prepares a model for QAT becomes a file that computes the same.

The expectations are structural (which nodes, which ranges) and numeric: framework against onnxruntime.
"""

from __future__ import annotations

import copy

import numpy as np
import onnx
import pytest

from drpai_qat import export
from drpai_qat.core.errors import DeploymentError, ModelError

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402
from torch.ao import quantization as tq  # noqa: E402
from torch.ao.nn.quantized import FloatFunctional  # noqa: E402

pytestmark = pytest.mark.slow

EXAMPLE = torch.linspace(-1.0, 1.0, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


class Net(nn.Module):
    """Convolution, batch norm, ReLU, residual sum, linear layer; fusable."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.dequant = tq.QuantStub(), tq.DeQuantStub()
        self.conv = nn.Conv2d(3, 5, 3, padding=1, bias=False)
        self.bn = nn.BatchNorm2d(5)
        self.relu = nn.ReLU()
        self.conv2 = nn.Conv2d(5, 5, 1)
        self.add = FloatFunctional()
        self.fc = nn.Linear(5, 4)

    def forward(self, x):
        x = self.relu(self.bn(self.conv(self.quant(x))))
        x = self.add.add(x, self.conv2(x))
        return self.dequant(self.fc(x.mean((2, 3))))


def fake_quant(qmin, qmax, dtype, scheme=torch.per_tensor_affine, observer=tq.MovingAverageMinMaxObserver, **kwargs):
    return tq.FakeQuantize.with_args(
        observer=observer, quant_min=qmin, quant_max=qmax, dtype=dtype, qscheme=scheme, **kwargs
    )


PER_CHANNEL_WEIGHT = fake_quant(
    -128, 127, torch.qint8, torch.per_channel_symmetric, tq.MovingAveragePerChannelMinMaxObserver, ch_axis=0
)
QUINT8 = fake_quant(0, 255, torch.quint8)
RECIPES = {
    "reduced range": tq.QConfig(fake_quant(0, 255, torch.quint8, reduce_range=True), PER_CHANNEL_WEIGHT),
    "fused observer": tq.get_default_qat_qconfig("x86"),
    "4 bits": tq.QConfig(fake_quant(0, 15, torch.quint8), fake_quant(-8, 7, torch.qint8, torch.per_tensor_symmetric)),
    "-127..127": tq.QConfig(QUINT8, fake_quant(-127, 127, torch.qint8, torch.per_tensor_symmetric)),
    "weights with a zero point": tq.QConfig(QUINT8, fake_quant(0, 255, torch.quint8)),
}


def prepared(qconfig=RECIPES["reduced range"], fuse=False):
    torch.manual_seed(0)
    model = Net().train()
    if fuse:
        model = tq.fuse_modules_qat(model, [["conv", "bn", "relu"]])
    model.qconfig = qconfig
    tq.prepare_qat(model, inplace=True)
    for _ in range(3):
        model(EXAMPLE)
    return model


def nodes(path, op_type):
    return [node for node in onnx.load(path).graph.node if node.op_type == op_type]


@pytest.mark.parametrize("fuse", [False, True], ids=["unfused", "fused"])
@pytest.mark.parametrize("qconfig", RECIPES.values(), ids=RECIPES.keys())
def test_each_range_becomes_a_pair_and_the_file_computes_the_same(qconfig, fuse, tmp_path):
    model = prepared(qconfig, fuse)
    used = sum(
        isinstance(m, tq.FakeQuantizeBase) and bool(torch.isfinite(m.activation_post_process.min_val).all())
        for m in model.modules()
    )

    exported = export.pytorch(model, EXAMPLE, tmp_path / "net.onnx")

    assert exported.exporter == "torchscript"
    assert exported.sqnr_db > 60.0
    assert len(nodes(tmp_path / "net.onnx", "QuantizeLinear")) == used
    assert len(nodes(tmp_path / "net.onnx", "DequantizeLinear")) == used


def test_a_narrow_range_is_clipped_on_the_integers(tmp_path):
    export.pytorch(prepared(RECIPES["4 bits"]), EXAMPLE, tmp_path / "net.onnx")

    model = onnx.load(tmp_path / "net.onnx")
    values = {node.output[0]: node.attribute[0].t for node in model.graph.node if node.op_type == "Constant"}
    limits = {
        tuple(int(onnx.numpy_helper.to_array(values[name])) for name in node.input[1:])
        for node in model.graph.node
        if node.op_type == "Clip"
    }
    assert limits == {(0, 15), (-8, 7)}


def test_the_model_is_left_as_it_was(tmp_path):
    model = prepared()
    before = copy.deepcopy(model.state_dict())

    export.pytorch(model, EXAMPLE, tmp_path / "net.onnx")

    assert model.training
    assert all(bool(m.observer_enabled[0]) for m in model.modules() if isinstance(m, tq.FakeQuantizeBase))
    assert before.keys() == model.state_dict().keys()
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_fx_model_and_its_converted_form(tmp_path):
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_qat_fx

    torch.manual_seed(0)
    model = prepare_qat_fx(Net().train(), tq.get_default_qat_qconfig_mapping("x86"), (EXAMPLE,))
    for _ in range(3):
        model(EXAMPLE)
    assert export.pytorch(model, EXAMPLE, tmp_path / "fx.onnx").sqnr_db > 60.0
    assert export.pytorch(convert_fx(copy.deepcopy(model).eval()), EXAMPLE, tmp_path / "int.onnx").sqnr_db > 30.0


@pytest.mark.parametrize("converted", [False, True], ids=["prepared", "converted"])
def test_pt2e_model(converted, tmp_path):
    pytest.importorskip("torchao")
    from torchao.quantization.pt2e.quantize_pt2e import convert_pt2e, prepare_qat_pt2e
    from torchao.quantization.pt2e.quantizer import x86_inductor_quantizer as x86

    torch.manual_seed(0)
    config = x86.get_default_x86_inductor_quantization_config(is_qat=True)
    graph = torch.export.export(Net().train(), (EXAMPLE,)).module()
    model = prepare_qat_pt2e(graph, x86.X86InductorQuantizer().set_global(config))
    for _ in range(3):
        model(EXAMPLE)
    if converted:
        model = convert_pt2e(model)

    exported = export.pytorch(model, EXAMPLE, tmp_path / "net.onnx")

    assert exported.exporter == ("dynamo" if converted else "torchscript")
    assert exported.sqnr_db > 60.0
    assert nodes(tmp_path / "net.onnx", "DequantizeLinear")


def test_learnable_ranges_keep_what_was_learned(tmp_path):
    from torch.ao.quantization._learnable_fake_quantize import _LearnableFakeQuantize as Learnable

    activation = Learnable.with_args(
        observer=tq.MovingAverageMinMaxObserver,
        quant_min=0,
        quant_max=255,
        dtype=torch.quint8,
        qscheme=torch.per_tensor_affine,
        scale=0.1,
        zero_point=0.0,
    )
    model = prepared(tq.QConfig(activation, PER_CHANNEL_WEIGHT))
    learned = 0.0317
    with torch.no_grad():
        model.quant.activation_post_process.scale.fill_(learned)

    assert export.pytorch(model, EXAMPLE, tmp_path / "net.onnx").sqnr_db > 60.0

    graph = onnx.load(tmp_path / "net.onnx").graph
    first = next(node for node in graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "input")
    scale = next(tensor for tensor in graph.initializer if tensor.name == first.input[1])
    assert onnx.numpy_helper.to_array(scale) == pytest.approx(learned)


def test_the_dynamo_exporter_steps_in_where_torchscript_ends(tmp_path):
    exported = export.pytorch(prepared(), EXAMPLE, tmp_path / "net.onnx", opset=21)

    assert exported.exporter == "dynamo"
    assert exported.sqnr_db > 60.0
    assert onnx.load(tmp_path / "net.onnx").opset_import[0].version >= 21
    assert nodes(tmp_path / "net.onnx", "QuantizeLinear")


@pytest.mark.parametrize("opset", [13, 21], ids=["torchscript", "dynamo"])
def test_an_open_batch_takes_any_batch(opset, tmp_path):
    import onnxruntime

    path = tmp_path / "net.onnx"
    model = prepared()
    export.pytorch(model, EXAMPLE[:1], path, opset=opset, dynamic_batch=True)

    batch = torch.cat([EXAMPLE, EXAMPLE.flip(3)])
    actual = onnxruntime.InferenceSession(str(path)).run(None, {"input": batch.numpy()})[0]
    model.apply(tq.disable_observer).eval()
    np.testing.assert_allclose(actual, model(batch).detach().numpy(), atol=0.02)


def test_names_can_be_given(tmp_path):
    export.pytorch(prepared(), EXAMPLE, tmp_path / "net.onnx", input_names=["image"], output_names=["score"])

    graph = onnx.load(tmp_path / "net.onnx").graph
    assert [graph.input[0].name, graph.output[0].name] == ["image", "score"]


class Ends(nn.Module):
    """Two inputs, one optional flag, outputs in a dict, functional sums; any of it may stop an exporter."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.quant2 = tq.QuantStub(), tq.QuantStub()
        self.conv = nn.Conv2d(3, 5, 3, padding=1)
        self.fc = nn.Linear(5, 4)

    def forward(self, image, offset, halve=None):
        x = self.conv(self.quant(image)) + self.quant2(offset)
        x = x * 0.5 if halve else x
        return {"score": self.fc(x.mean((2, 3))), "maps": [x, None]}


@pytest.mark.parametrize("kind", ["tuple", "dict", "arrays"])
def test_inputs_by_place_or_name_and_outputs_in_a_dict(kind, tmp_path):
    torch.manual_seed(0)
    offset = torch.rand(2, 5, 8, 8)
    model = Ends().train()
    model.qconfig = RECIPES["reduced range"]
    tq.prepare_qat(model, inplace=True)
    model(EXAMPLE, offset)
    example = {
        "tuple": (EXAMPLE, offset),
        "dict": {"offset": offset, "halve": True, "image": EXAMPLE},
        "arrays": [EXAMPLE.numpy(), offset.numpy()],
    }[kind]

    assert export.pytorch(model, example, tmp_path / "net.onnx").sqnr_db > 30.0

    graph = onnx.load(tmp_path / "net.onnx").graph
    inputs = ["offset", "image"] if kind == "dict" else ["input_0", "input_1"]
    assert [value.name for value in graph.input] == inputs
    assert [value.name for value in graph.output] == ["score", "maps_0"]


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_wrappers_come_off(wrap, tmp_path):
    exported = export.pytorch(wrap(prepared()), EXAMPLE, tmp_path / "net.onnx")
    assert (exported.exporter, exported.notes) == ("torchscript", ())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_are_exported_as_float32(dtype, tmp_path):
    exported = export.pytorch(prepared().to(dtype), EXAMPLE.to(dtype), tmp_path / "net.onnx")
    assert exported.sqnr_db > 60.0
    assert "parameters are exported as float32" in str(exported)
    assert onnx.load(tmp_path / "net.onnx").graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_what_is_no_model_or_does_not_run_is_told_in_one_line(tmp_path):
    path = tmp_path / "net.onnx"
    for given, example, message in (
        (prepared().state_dict(), EXAMPLE, "this is a state dict: build the model"),
        (len, EXAMPLE, r"a torch\.nn\.Module can be exported, this is builtin_function"),
        (torch.jit.trace(prepared().eval(), EXAMPLE), EXAMPLE, "TorchScript model: export the nn.Module"),
        (prepared(), torch.zeros(2, 4, 8, 8), "does not run on example_inputs: RuntimeError: .*expected input"),
        (prepared(), None, "example_inputs is NoneType: give a tensor"),
        (prepared(), (None,), "holds no tensor"),
        (nn.Sequential(prepared(), nn.LSTM(4, 3)), EXAMPLE[0], "does not run"),
    ):
        with pytest.raises(ModelError, match=message) as raised:
            export.pytorch(given, example, path)
        assert "\n" not in str(raised.value)
    hooked = prepared()
    hooked.samples = (number for number in range(3))
    with pytest.raises(ModelError, match=r"can't be copied for export: TypeError: .*generator"):
        export.pytorch(hooked, EXAMPLE, path)
    integers = Ends().train()
    integers.qconfig = tq.get_default_qat_qconfig("x86")
    tq.prepare_qat(integers, inplace=True)
    integers(EXAMPLE, EXAMPLE.new_zeros(2, 5, 8, 8))
    with pytest.raises(ModelError, match="before convert"):
        export.pytorch(tq.convert(integers.eval()), (EXAMPLE, EXAMPLE.new_zeros(2, 5, 8, 8)), path)
    assert list(tmp_path.iterdir()) == []


class Mixed(nn.Module):
    """Layers that prepare_qat leaves alone, and one whose weights a parametrization quantizes."""

    def __init__(self) -> None:
        super().__init__()
        self.quant, self.conv = tq.QuantStub(), nn.Conv2d(3, 4, 3)
        self.up, self.fixed = nn.ConvTranspose2d(4, 4, 2), nn.ConvTranspose2d(4, 4, 2)
        self.cell, self.head = nn.GRUCell(4, 4), nn.Linear(4, 2)

    def forward(self, x):
        x = self.fixed(self.up(self.conv(self.quant(x)))).mean((2, 3))
        return self.head(self.cell(x))


def test_layers_that_stay_float_are_named_with_what_to_do(tmp_path):
    model = Mixed().train()
    model.qconfig = tq.get_default_qat_qconfig("x86")
    model.head.qconfig = None
    tq.prepare_qat(model, inplace=True)
    grid = {"quant_min": -128, "quant_max": 127, "dtype": torch.qint8, "qscheme": torch.per_tensor_symmetric}
    of_weights = tq.FakeQuantize(tq.MovingAverageMinMaxObserver, **grid)
    torch.nn.utils.parametrize.register_parametrization(model.fixed, "weight", of_weights)
    model(EXAMPLE)
    notes = export.pytorch(model, EXAMPLE, tmp_path / "net.onnx").notes
    assert [note.partition(":")[0] for note in notes] == [
        "up (ConvTranspose2d) stays float32", "cell (GRUCell) stays float32", "head (Linear) stays float32",
    ]  # fmt: skip
    assert ["register_parametrization" in notes[0], "nn.Linear" in notes[1], "qconfig" in notes[2]] == [True] * 3


def test_switched_off_fake_quant_is_named(tmp_path):
    model = prepared()
    model.fc.apply(tq.disable_fake_quant)
    exported = export.pytorch(model, EXAMPLE, tmp_path / "net.onnx")
    assert "2 fake-quant modules were switched off" in str(exported)

    model.apply(tq.disable_fake_quant)
    with pytest.raises(ModelError, match="switched off"):
        export.pytorch(model, EXAMPLE, tmp_path / "net.onnx")


def test_refusals_name_the_cause_and_leave_no_file(tmp_path):
    path = tmp_path / "net.onnx"
    with pytest.raises(ModelError, match="no fake-quant: call prepare_qat"):
        export.pytorch(Net(), EXAMPLE, path)

    untrained = Net().train()
    untrained.qconfig = RECIPES["reduced range"]
    with pytest.raises(ModelError, match=r"quant\.activation_post_process never saw data"):
        export.pytorch(tq.prepare_qat(untrained), EXAMPLE, path)

    class Broken(nn.Module):
        """Has an operator that ONNX lacks."""

        def __init__(self) -> None:
            super().__init__()
            self.net = prepared()

        def forward(self, x):
            return torch.special.airy_ai(self.net(x))

    with pytest.raises(ModelError, match=r"torchscript: .*airy_ai.*dynamo: "):
        export.pytorch(Broken(), EXAMPLE, path)

    with pytest.raises(DeploymentError, match="make it before"):
        export.pytorch(prepared(), EXAMPLE, tmp_path / "missing" / "net.onnx")
    assert list(tmp_path.iterdir()) == []
