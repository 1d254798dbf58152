import json

from tests.report.building import check, report


def test_json(tmp_path):
    one = report(check([[1, 2, 3]], layers=()))
    one.write(tmp_path)
    content = json.loads((tmp_path / "report.json").read_text())
    assert content["check"]["outputs"][0]["sqnr_db"] is None
    assert content["check"]["outputs"][0]["exact"] is True
    assert content["coverage"][2] == {
        "node": "c3", "op": "Conv", "compute": "float32", "macs": 100, "reason": "input has no range",
    }  # fmt: skip
    assert content["notes"][0] == {"action": "skipped", "where": "fq7", "reason": "no consumer"}
    assert "out" not in content


def test_sizes():
    assert report().to_json()["size"] == {
        "deploy.so": 600_000,
        "kernels": 0,
        "deploy.params": 2_400_000,
        "weights": 2_000_000,
        "params_bytes_a_weight": 1.2,
        "workspace": 400_000,
        "largest_live_activations": 50_000,
        "live_activations_by_step": [30_000, 50_000, 10_000],
    }
