"""Profiles: calls become kernels and layers, here and over RPC; nothing is said of how long they take."""

import json
import shutil
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from drpai_qat.cli.main import main
from drpai_qat.core.text import shortened
from drpai_qat.report import profile_table
from drpai_qat.report.profile import profile_of
from drpai_qat.runtimes.profiling import CallTimes, time_calls

REPORT: dict[str, Any] = {
    "kernels": [
        {"kind": "conv", "node": "/conv1/Conv"},
        {"kind": "onnx_where", "node": "/Where"},
        {"kind": "conv", "node": "/conv2/Conv"},
    ],
    "coverage": [
        {"node": "/conv1/Conv", "op": "Conv", "compute": "int8", "macs": 3_000_000},
        {"node": "/Where", "op": "Where", "compute": "tvm", "macs": 0},
        {"node": "/conv2/Conv", "op": "Conv", "compute": "float32", "macs": 1_000},
    ],
}


class Scripted:
    """A network of three steps, of which the second calls two kernels, at given nanoseconds."""

    TEXT = (
        "+vm.builtin.reshape\n-\n+conv_aa\n-\n"
        "+onnx_where_1\n+vm.builtin.alloc_tensor\n-\n+less_bb\n-\n+where_cc\n-\n-\n+conv_aa\n-\n"
    )
    TIMES = (0, 5, 10, 2010, 3000, 3001, 3002, 3010, 4010, 5000, 5500, 6000, 7000, 7250)

    def start(self, naming):
        self.naming = naming

    def run(self):
        return 8.2

    def plain_microseconds(self):
        return 7.5

    def idle(self):
        return 0.05

    def events(self, most):
        return np.asarray(self.TIMES[:most], np.int64), self.TEXT if self.naming else ""


def profile(report, where="this machine"):
    times = time_calls(Scripted(), 4)
    return profile_of(times, report, model="m.onnx", target="avx2", where=where, threads=1, ceiling=100.0)


def test_calls_become_kernels_and_kernels_layers():
    found = profile(REPORT)
    assert [(one.kernel, one.layer, one.us) for one in found.kernels] == [
        ("conv_aa", "/conv1/Conv", 1.95), ("less_bb", "/Where", 0.95), ("where_cc", "/Where", 0.45),
        ("conv_aa", "/conv2/Conv", 0.2),
    ]  # fmt: skip
    assert [(one.name, one.op, one.kernels, round(one.us, 6)) for one in found.layers] == [
        ("/conv1/Conv", "Conv", 1, 1.95), ("/Where", "Where", 2, 1.4), ("/conv2/Conv", "Conv", 1, 0.2),
    ]  # fmt: skip
    # 8.2 with the clock, less 3.75 in kernels as seen, less the 10 of 14 calls of the clock that lie outside of them
    assert (found.whole_us, found.calls) == (7.5, 7)
    assert (found.kernels_us, found.calls_us) == (pytest.approx(3.55), pytest.approx(3.95))
    assert not found.disturbed
    content = found.to_json()
    assert content["layers"][0]["gmac_per_s"] == pytest.approx(3000 / 1.95, abs=1e-3)
    shares = sum(one["share"] for one in content["layers"]) + content["calls_us"] / (3.55 + 3.95)
    assert shares == pytest.approx(1, abs=1e-4)
    assert sum(one["us"] for one in content["kernels"]) == pytest.approx(content["kernels_us"])


@pytest.mark.parametrize("report", [{}, {"kernels": REPORT["kernels"][:2], "coverage": REPORT["coverage"]}])
def test_without_the_report_of_this_network_kernels_alone_are_told(report):
    found = profile(report)
    assert found.layers == ()
    assert [one.kind for one in found.kernels] == ["conv", "less", "where", "conv"]


def test_the_fastest_runs_count():
    kernels = np.asarray([[9.0], [1.0], [50.0], [1.1], [0.9]])
    whole = np.asarray([60.0, 2.0, 2.0, 2.0, 70.0])
    times = CallTimes(("conv_aa",), (0,), ("conv_aa",), kernels, whole, whole, 1, 0.0)
    found = profile_of(times, {}, model="", target="", where="", threads=1, ceiling=None)
    assert found.kernels_us == pytest.approx(1.0)
    assert found.whole_us == pytest.approx(2.0)
    assert found.calls_us == pytest.approx(1.0)


def test_what_does_not_add_up_is_told():
    kernels, runs = np.full((3, 1), 5.0), np.ones(3)
    for clocked, whole, disturbed in ((12.0, 11.9, False), (30.0, 11.9, True), (12.0, 30.0, True)):
        times = CallTimes(("a_1",), (0,), ("a_1",), kernels, clocked * runs, whole * runs, 3, 0.02)
        found = profile_of(times, {}, model="", target="", where="", threads=1, ceiling=None)
        assert found.disturbed is disturbed


@pytest.mark.parametrize("report", [REPORT, {}])
def test_the_table_fits_80_columns(report, capsys):
    for most in (0, 1):
        profile_table.show(profile(report, where="some.host.of.a.board:9090"), Console(width=80), most)
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert any("more" in line for line in lines)
    assert any(line.startswith("calls (TVM's machine)") for line in lines)
    assert any(line.startswith("/Where" if report else "where") for line in lines)


def test_repeated_scopes_are_left_out_before_a_name_is_cut():
    name = "/features/features.3/conv/conv.0/conv.0.0/Conv"
    assert shortened(name, 80) == name
    assert shortened(name, 30) == "/features.3/conv.0.0/Conv"
    assert shortened("a" * 40 + "b" * 40, 11) == "aaaaa…bbbbb"


def test_a_compiled_network_is_profiled_and_compiled_again(small_output, tmp_path, capsys):
    folder = tmp_path / "out"
    shutil.copytree(small_output, folder)
    assert main(["profile", str(folder), "-n", "3", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    written = json.loads((folder / "profile.json").read_text())
    report = json.loads((folder / "report.json").read_text())
    assert printed == written
    assert written["schema_version"] == 1
    assert len(written["kernels"]) == len(report["kernels"])
    assert {one["name"] for one in written["layers"]} <= {one["node"] for one in report["coverage"]}
    assert all(one["layer"] for one in written["kernels"])
    assert written["ceiling_gmac_per_s"] > 0
    assert main(["profile", str(folder), "-n", "3"]) == 0
    assert "of what the instructions could do" in capsys.readouterr().out


def test_what_is_no_network_is_one_line(tmp_path, capsys):
    assert main(["profile", str(tmp_path)]) == 1
    assert len(capsys.readouterr().err.splitlines()) == 1
    assert main(["profile", str(tmp_path), "--rpc", "nowhere"]) == 1
    assert main(["profile", str(tmp_path), "--threads", "0"]) == 2
    assert main(["profile", str(tmp_path), "--rpc-key", "rzv2h"]) == 2
    assert main(["profile", str(tmp_path), "--rpc-tracker", "nowhere"]) == 1
