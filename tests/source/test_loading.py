import contextlib
import os

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from drpai_qat.core.errors import ModelError
from drpai_qat.source.loading import load
from tests.small_models import qdq_model


def refused(path, *says):
    """The one line of a refused file, which holds every text of `says`."""
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.isprintable()
    for text in says:
        assert text in message
    return message


@pytest.fixture
def model_file(tmp_path):
    def save(model, name="m.onnx"):
        path = tmp_path / name
        path.write_bytes(model.SerializeToString())
        return path

    return save


def test_good_file(model_file):
    model = qdq_model()
    source = load(model_file(model))
    assert source.model == model
    assert len(source.sha256) == 64


class TestNotAModel:
    def test_missing(self, tmp_path):
        refused(tmp_path / "none.onnx", "none.onnx", "no such file")

    def test_folder(self, tmp_path):
        refused(tmp_path, "folder")

    def test_empty(self, tmp_path):
        (tmp_path / "e.onnx").touch()
        refused(tmp_path / "e.onnx", "empty")

    @pytest.mark.parametrize(
        ("content", "says"),
        [
            (b"PK\x03\x04" + b"\0" * 50, "zip"),
            (b"\x89HDF\r\n\x1a\n" + b"\0" * 50, "HDF5"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git-lfs"),
            (b"<!DOCTYPE html><html></html>", "HTML"),
            (b"\x1c\0\0\0TFL3" + b"\0" * 50, "tf2onnx"),
            (b"hello, world\n" * 20, "not an ONNX model"),
            (bytes(range(256)) * 4, "not an ONNX model"),
            (b"\0" * 100, "not an ONNX model"),
        ],
    )
    def test_other_formats(self, tmp_path, content, says):
        path = tmp_path / "x.onnx"
        path.write_bytes(content)
        refused(path, "x.onnx", says)

    def test_not_regular(self, tmp_path):
        os.mkfifo(tmp_path / "pipe.onnx")
        refused(tmp_path / "pipe.onnx", "not a regular file")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root reads everything")
    def test_unreadable(self, model_file):
        path = model_file(qdq_model())
        path.chmod(0)
        refused(path, "Permission denied")

    def test_truncated_anywhere(self, model_file):
        """No cut makes a traceback, and none is taken for the whole model."""
        path = model_file(qdq_model())
        content = path.read_bytes()
        for size in range(1, len(content) - 1, 7):
            path.write_bytes(content[:size])
            refused(path)

    def test_bytes_flipped_anywhere(self, model_file):
        """Damage either goes unnoticed (a weight, a name) or is a named error."""
        path = model_file(qdq_model())
        content = path.read_bytes()
        generator = np.random.default_rng(0)
        for _ in range(300):
            damaged = bytearray(content)
            for position in generator.integers(0, len(content), 3):
                damaged[position] = generator.integers(0, 256)
            path.write_bytes(bytes(damaged))
            with contextlib.suppress(ModelError):
                load(path)


def external(tmp_path, **changes):
    """A model whose w0 lies in w.bin, with entries of its external_data changed."""
    model = qdq_model()
    tensor = next(one for one in model.graph.initializer if one.name == "w0")
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    entries = {"location": "w.bin", "offset": "0", "length": str(len(tensor.raw_data))} | changes
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        if value is not None:
            tensor.external_data.add(key=key, value=value)
    path = tmp_path / "m.onnx"
    path.write_bytes(model.SerializeToString())
    return path


class TestExternalData:
    def test_loaded(self, tmp_path):
        loaded = load(external(tmp_path)).model
        wanted = qdq_model()
        for ours, theirs in zip(loaded.graph.initializer, wanted.graph.initializer, strict=True):
            np.testing.assert_array_equal(numpy_helper.to_array(ours), numpy_helper.to_array(theirs))

    def test_length_may_be_left_out(self, tmp_path):
        """Then it is that of the tensor, however much is behind it."""
        path = external(tmp_path, length=None, offset=None)
        os.truncate(tmp_path / "w.bin", 2**40)
        loaded = load(path).model
        wanted = next(one for one in qdq_model().graph.initializer if one.name == "w0")
        assert next(one.raw_data for one in loaded.graph.initializer if one.name == "w0") == wanted.raw_data

    def test_missing(self, tmp_path):
        path = external(tmp_path)
        (tmp_path / "w.bin").unlink()
        refused(path, "w.bin", "missing", "'w0'")

    @pytest.mark.parametrize("location", ["/etc/passwd", "../w.bin", "sub/../../w.bin"])
    def test_outside(self, tmp_path, location):
        (tmp_path / "inner").mkdir()
        (tmp_path / "w.bin").write_bytes(b"\0" * 500)
        refused(external(tmp_path / "inner", location=location), "outside the model's folder")

    def test_link_out(self, tmp_path):
        (tmp_path / "inner").mkdir()
        path = external(tmp_path / "inner")
        (tmp_path / "inner" / "w.bin").rename(tmp_path / "w.bin")
        (tmp_path / "inner" / "w.bin").symlink_to("../w.bin")
        refused(path, "link out of the model's folder")

    def test_folder_instead_of_file(self, tmp_path):
        (tmp_path / "d").mkdir()
        refused(external(tmp_path, location="d"), "not a regular file")

    @pytest.mark.parametrize(
        "changes",
        [
            {"offset": "-8"},
            {"offset": "99999999999"},
            {"offset": "400"},
            {"length": "99999999999"},
            {"length": "-1"},
            {"length": "4"},
            {"offset": "abc"},
            {"location": ""},
            {"location": "w\0.bin"},
        ],
    )
    def test_lying_entries(self, tmp_path, changes):
        refused(external(tmp_path, **changes), "w0")

    def test_over_two_gigabytes(self, tmp_path):
        path = external(tmp_path)
        model = onnx.load(path, load_external_data=False)
        tensor = next(one for one in model.graph.initializer if one.name == "w0")
        del tensor.dims[:]
        tensor.dims.extend([600_000_000])
        del tensor.external_data[:]
        tensor.external_data.add(key="location", value="w.bin")
        with (tmp_path / "w.bin").open("wb") as file:
            file.truncate(2_400_000_000)  # sparse
        path.write_bytes(model.SerializeToString())
        refused(path, "2 GB")


class TestTensors:
    @pytest.mark.parametrize(
        "dims", [[4, 3, 3, 300], [2**62, 2**62], [-1, 3, 3, 3], [4, 3, 3, 2], [0, 3, 3, 3], [4, 3, 3]]
    )
    def test_dims_that_lie(self, model_file, dims):
        model = qdq_model()
        tensor = next(one for one in model.graph.initializer if one.name == "w0")
        del tensor.dims[:]
        tensor.dims.extend(dims)
        refused(model_file(model), "w0", "damaged")

    def test_dims_that_lie_about_values(self, model_file):
        model = qdq_model()
        tensor = next(one for one in model.graph.initializer if one.name == "sx")
        tensor.CopyFrom(helper.make_tensor("sx", TensorProto.FLOAT, [], [0.02]))
        tensor.dims.extend([10**12])
        refused(model_file(model), "sx", "damaged")

    def test_dims_that_lie_in_a_constant_node(self, model_file):
        model = qdq_model()
        value = helper.make_tensor("v", TensorProto.FLOAT, [1], [1.0])
        value.dims[0] = 2**40
        model.graph.node.insert(0, helper.make_node("Constant", [], ["k"], value=value, name="konst"))
        refused(model_file(model), "konst", "damaged")

    def test_unknown_type(self, model_file):
        model = qdq_model()
        model.graph.initializer[0].data_type = 99
        refused(model_file(model), "unknown data type")

    @pytest.mark.parametrize("kind", ["INT4", "UINT4", "BFLOAT16", "FLOAT8E4M3FN", "COMPLEX64", "BOOL", "INT2"])
    def test_every_type_is_measured(self, model_file, kind):
        number = getattr(TensorProto, kind)
        model = qdq_model()
        model.ir_version = 13
        model.graph.initializer.append(helper.make_tensor("spare", number, [3], [1, 0, 1]))
        load(model_file(model))


class TestGraph:
    @pytest.mark.parametrize("text", [b"GlobalAveragePool", b"kernel_shape", b"dr", b"net"])
    def test_names_that_are_not_text(self, tmp_path, text):
        content = qdq_model().SerializeToString()
        assert text in content
        (tmp_path / "m.onnx").write_bytes(content.replace(text, b"\xff" * len(text), 1))
        refused(tmp_path / "m.onnx", "not text")

    def test_attributes_that_are_not_text(self, model_file):
        model = qdq_model()
        conv = next(node for node in model.graph.node if node.op_type == "Conv")
        conv.attribute.append(helper.make_attribute("auto_pad", b"\xff\xfe"))
        refused(model_file(model), "not text")

    def test_dangling(self, model_file):
        model = qdq_model()
        model.graph.node[0].input[0] = "nowhere"
        refused(model_file(model), "nowhere", "nothing makes")

    def test_output_without_maker(self, model_file):
        model = qdq_model()
        model.graph.output[0].name = "z"
        refused(model_file(model), "'z'")

    def test_cycle(self, model_file):
        model = qdq_model()
        relu = next(node for node in model.graph.node if node.op_type == "Relu")
        relu.input[0] = "dr"
        refused(model_file(model), "cycle", "Relu")

    def test_node_that_feeds_itself(self, model_file):
        model = qdq_model()
        model.graph.node[-1].input[0] = "y"
        refused(model_file(model), "cycle")

    def test_made_twice(self, model_file):
        model = qdq_model()
        model.graph.node.append(helper.make_node("Relu", ["x"], ["r"], name="again"))
        refused(model_file(model), "'r'", "made twice", "again")

    def test_unsorted_is_sorted(self, model_file):
        model = qdq_model()
        wanted = [node.output[0] for node in model.graph.node]
        nodes = list(reversed(model.graph.node))
        copies = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
        del model.graph.node[:]
        model.graph.node.extend(copies)
        loaded = load(model_file(model)).model
        onnx.checker.check_model(loaded)
        assert sorted(node.output[0] for node in loaded.graph.node) == sorted(wanted)

    def test_odd_names_stay_on_one_line(self, model_file):
        model = qdq_model()
        model.graph.node[0].input[0] = "no\nwhere\x1b[31m [bold]"
        refused(model_file(model), "[bold]")

    def test_no_inputs_or_outputs_or_nodes(self, model_file):
        for field in ("input", "output", "node"):
            model = qdq_model()
            model.graph.ClearField(field)
            refused(model_file(model))

    def test_unknown_operators_are_left_to_preprocess(self, model_file):
        """Which reads some, and refuses others by name."""
        model = qdq_model()
        model.graph.node[3].op_type = "Rleu"
        assert load(model_file(model)).model.graph.node[3].op_type == "Rleu"

    def test_graph_without_a_name(self, model_file):
        model = qdq_model()
        model.graph.name = ""
        load(model_file(model))

    @pytest.mark.parametrize("field", ["shape", "elem_type", "type"])
    def test_outputs_that_declare_nothing(self, model_file, field):
        model = qdq_model()
        declared = onnx.ValueInfoProto.FromString(model.graph.output[0].SerializeToString())
        value = model.graph.output[0]
        if field == "type":
            value.ClearField("type")
        else:
            value.type.tensor_type.ClearField(field)
        assert load(model_file(model)).model.graph.output[0].type == declared.type

    def test_inputs_without_a_shape_are_left_to_the_options(self, model_file):
        model = qdq_model()
        model.graph.input[0].type.tensor_type.ClearField("shape")
        load(model_file(model))

    def test_future_ir(self, model_file):
        model = qdq_model()
        model.ir_version = 999
        refused(model_file(model), "update onnx")

    @pytest.mark.parametrize(
        ("kind", "says"),
        [
            (TensorProto.BOOL, "bool"),
            (TensorProto.UINT16, "uint16"),
            (TensorProto.STRING, "string"),
            (TensorProto.UNDEFINED, "type"),
            (99, "99"),
        ],
    )
    def test_input_types(self, model_file, kind, says):
        model = qdq_model()
        model.graph.input[0].type.tensor_type.elem_type = kind
        refused(model_file(model), "'x'", says)

    def test_sequence_input(self, model_file):
        model = qdq_model()
        inner = helper.make_tensor_type_proto(TensorProto.FLOAT, [1])
        model.graph.input[0].type.CopyFrom(helper.make_sequence_type_proto(inner))
        refused(model_file(model), "sequence")

    def test_initializers_listed_as_inputs(self, model_file):
        """IR version 3 lists every initializer as an input."""
        model = qdq_model()
        for tensor in model.graph.initializer:
            model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
        load(model_file(model))
