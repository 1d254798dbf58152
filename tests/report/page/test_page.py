"""report.html of a compilation: valid, complete without a script, harmless whatever the names in the model."""

import json
import re
import shutil
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import html5lib
import numpy as np
import onnx
import pytest

import drpai_qat
from drpai_qat.check.figures import compare_output
from drpai_qat.check.heads import Head
from drpai_qat.check.thresholds import Thresholds
from drpai_qat.deployment import manifest
from drpai_qat.report.layers import Layer
from drpai_qat.report.page.content import content_of
from drpai_qat.report.page.render import common_start, render, short
from drpai_qat.report.page.writing import add_times
from tests.report.building import check, report
from tests.small_models import qdq_model

HOSTILE = {"c": "<script>alert(1)</script>", "r": "a\"b'c & </script><!--", "p": "{{ 7*7 }}"}


def hostile_model():
    """With names that are HTML, quotes and templates."""
    model = qdq_model()
    for node in model.graph.node:
        node.name = HOSTILE.get(node.output[0], f"n_{node.output[0]}")
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = HOSTILE.get(name, name)
    return model


@pytest.fixture(scope="module")
def compiled(tmp_path_factory):
    """Folder, report, page."""
    folder = tmp_path_factory.mktemp("page")
    onnx.save(hostile_model(), folder / "<b>net.onnx")
    images = np.random.default_rng(0).uniform(0, 255, (3, 3, 8, 8)).astype(np.float32)
    made = drpai_qat.compile(
        folder / "<b>net.onnx", output_dir=folder / "out", qat_type="pytorch", samples={"x": images}, check="layers",
        thresholds=Thresholds(max_lsb=0.5),
    )  # fmt: skip
    return folder / "out", made, (folder / "out/report.html").read_text()


class Seen(HTMLParser):
    """Elements with their attributes, and the text outside of scripts."""

    def __init__(self, page):
        super().__init__(convert_charrefs=True)
        self.elements, self.text, self._inside = [], [], ""
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag):
        self._inside = ""

    def handle_data(self, data):
        if self._inside not in ("script", "style"):
            self.text.append(data)

    def all(self, tag):
        return [attributes for name, attributes in self.elements if name == tag]


def data_of(page):
    (text,) = re.findall(r'<script type="application/json" id="data">(.*?)</script>', page, re.S)
    return json.loads(text)


def valid(page):
    html5lib.HTMLParser(strict=True).parse(page)  # raises at the first error
    ids = [attributes["id"] for _, attributes in Seen(page).elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    return page


def test_valid_and_on_its_own(compiled):
    _, _, page = compiled
    seen = Seen(valid(page))
    for _, attributes in seen.elements:
        for name in ("src", "href", "action"):
            assert attributes.get(name, "#").startswith(("#", "data:image/png;"))
        assert "style" not in attributes  # the page's own policy forbids it
        assert not [name for name in attributes if name.startswith("on")]
    assert not re.search(r"https?://|url\(|@import", page)
    assert "default-src 'none'" in page
    targets = {attributes.get("id") for _, attributes in seen.elements}
    assert {link["href"][1:] for link in seen.all("a")} <= targets


def test_names_are_text(compiled):
    _, _, page = compiled
    seen = Seen(page)
    assert [one.get("type") for one in seen.all("script")] == ["application/json", None]
    text = "".join(seen.text)
    assert "<b>net.onnx" in text
    assert "49" not in [one.strip() for one in seen.text]
    titles = {one.get("title") for one in seen.all("th")}
    assert HOSTILE["c"] in titles
    names = [one["name"] for one in data_of(page)["layers"]]
    assert HOSTILE["c"] in names
    assert HOSTILE["p"] in names


def test_static_page_says_everything(compiled):
    _, made, page = compiled
    text = " ".join("".join(Seen(page).text).split())
    assert "drpai-qat compile '<b>net.onnx' -a -m pytorch --check layers --max_lsb 0.5" in text
    assert "drpai-qat 0" in text
    for heading in (
        "Check",
        "What runs in integers",
        "Layers",
        "Over the layers",
        "Ranges",
        "Graph",
        "Size and memory",
    ):
        assert heading in text
    rows = [one for one in Seen(page).all("tr") if one.get("id", "").startswith("layer-")]
    assert len(rows) == len(made.layers)
    assert len(Seen(page).all("img")) == 3  # the samples


def test_figures_are_those_of_report_json(compiled):
    folder, _, page = compiled
    facts = json.loads((folder / "report.json").read_text())
    shown = data_of(page)
    assert [one["name"] for one in shown["layers"]] == [one["name"] for one in facts["layers"]]
    assert sum(one["macs"] for one in facts["layers"]) == sum(one["macs"] for one in facts["coverage"])
    assert shown["layers"][0]["single"]["verdict"] == facts["check"]["layers"][1]["verdict"]
    used = {one["tensor"]: one for one in facts["check"]["used"]}
    assert used["qx"]["qmin"] == 0
    assert sum(used["qx"]["histogram"]) == 3 * 3 * 8 * 8
    assert len(facts["check"]["by_sample"]) == 3
    assert {one["tensor"] for one in facts["check"]["accumulated"]} == set(used)
    assert len(shown["steps"]) == len(facts["kernels"]) == len(facts["size"]["live_activations_by_step"])
    assert set(shown["steps"]) <= set(range(len(shown["layers"])))
    assert "report.html" in json.loads((folder / "deploy.json").read_text())["files"]


def test_times_come_in_later(compiled, tmp_path):
    folder = Path(shutil.copytree(compiled[0], tmp_path / "out"))
    first = compiled[1].layers[0].covers[0]
    for times in ({first: 1000.0, "unknown": 5.0}, {first: 3000.0}):
        add_times(folder, times, 2.5, "<this machine>")
    page = valid((folder / "report.html").read_text())
    assert "measured on &lt;this machine&gt;, 3 ms in all" in page
    assert 'data-plot="time"' in page
    assert len(Seen(page).all("img")) == 3
    assert manifest.read(folder).files["report.html"] == manifest.sha256(folder / "report.html")
    older = page.replace('"counts":', '"before":')
    assert older != page
    (folder / "report.html").write_text(older)
    assert not add_times(folder, {}, 0.0, "here")
    assert (folder / "report.html").read_text() == older
    (folder / "report.html").unlink()
    assert add_times(folder, {}, 0.0, "here")
    assert not (folder / "report.html").exists()


def page_of(one, target=None):
    content = content_of(
        one, target or {"name": "avx2", "machine": "x86_64"}, "drpai-qat compile x", {"drpai-qat": "1"}
    )
    return valid(render(content))


def test_verdicts():
    passed = page_of(report(check([[1, 2, 3]])))
    assert "equals the trained network bit for bit on 4 random inputs" in passed
    short_of = check([[1, 2, 9]], shortfalls=("y: SQNR 3.0 dB is below 30 dB",), uncertified="first at <t>")
    failed = page_of(report(short_of))
    assert "<b>Failed</b> The check fell short on 4 random inputs: y: SQNR 3.0 dB is below 30 dB" in failed
    assert "first at &lt;t&gt;" in failed
    near = compare_output("y", [np.array([1, 2, 3 + 2e-6])], [np.array([1.0, 2, 3])], None)
    told = page_of(report(replace(check([[1, 2, 3]]), outputs=(near,))))
    assert "dB SQNR, the last bits of float32 apart on 4 random inputs" in told
    amplified = page_of(report(replace(short_of, uncertified="", amplified="itself amplifies")))
    assert "<b>Passed</b>" in amplified
    assert "amplifies single roundings" in amplified
    assert "Nothing was checked" in page_of(report())
    few = page_of(replace(report(), min_int8=0.95))
    assert "<b>Failed</b> Too little runs in integers: 90.0% of multiply-accumulates run in integers" in few


def test_heads_and_what_calibration_cost():
    head = Head("y", 1, 4, 9, 51.0, 12.5)
    tensors = {"calibrated": ["a", "b"], "trained": [], "inherited": ["c"], "derived": []}
    fitted = {
        "kept": "best", "frames": 2, "drop_best": 1.25, "drop_fast": 2.5, "sqnr_db_best": 38.06, "sqnr_db_fast": 32.04,
    }  # fmt: skip
    told = {"tensors": tensors, "method": "minmax", "frames": 8, "data": "<photos>", "ptq": fitted}
    one = report(check([[1, 2, 3]], heads=(head,)))
    loss = check([[1, 2, 4]]).outputs
    text = page_of(replace(one, calibration=told, loss=loss, model={**one.model, "qat_type": "float"}))
    assert "y, channels 4 to 9" in text
    assert "equals the quantized model bit for bit" in text
    assert "Quantizing left 11.5 dB SQNR of the source file" in text
    assert "2 tensors by minmax, 8 frames of &lt;photos&gt;" in text
    assert "fitted weights kept: 38.1 dB on the average frame, 32.0 dB without, of 2 left aside" in text
    assert "beside model_int8.onnx in onnxruntime" in text


def test_what_is_not_in_integers_says_what_to_change():
    text = page_of(report())
    assert "100.0%" not in text
    assert "Left as it was: no consumer" in text


def test_board_has_a_bound_and_the_commands_that_count_and_measure():
    layers = (Layer("a", "Conv", "int8", 272_000_000), Layer("b", "Conv", "int16", 0, code=1100, sharing=(0,)))
    text = page_of(replace(report(), target="rzv2h", layers=layers), {"name": "rzv2h", "machine": "aarch64"})
    assert "counts.py out/net" in text
    assert "at least 10 ms</b> on one Cortex-A55 at 1.7 GHz, 2.5 ms on all 4" in text
    assert 'title="with 0 a">shared' in text
    assert "counts.py" not in page_of(report())
    assert "at least" not in page_of(report())


def test_short_names():
    assert short("/layer1/layer1.0/conv1/Conv") == "layer1.0/conv1"
    assert short("model/conv2d/Conv2D") == "model/conv2d"
    assert short("Gemm_3") == "Gemm_3"
    assert short("/a/b/c") == "a/b/c"
    assert len(short("x" * 90)) == 30
    names = ["/model/layer1/conv1/Conv", "/model/layer1/conv2/Conv", "/model/fc/Gemm", "Flatten_3"]
    assert common_start(names) == "/model/"
    assert [short(name, common="/model/") for name in names] == ["layer1/conv1", "layer1/conv2", "fc", "Flatten_3"]
    assert common_start(["/a/b", "/c/d"]) == "/"
    assert common_start(["a", "b"]) == ""
