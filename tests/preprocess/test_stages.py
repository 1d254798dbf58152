"""What the lists of passes promise of the graph behind them, on every model of the corpus."""

from __future__ import annotations

from pathlib import Path

import onnx
import onnx_graphsurgeon as gs
import pytest

from preprocess import pytorch, tensorflow, validate
from preprocess.common import FINISH, FOLD, PREPARE
from preprocess.opening import open_graph
from preprocess.passlog import PassLog, run
from preprocess.validate import broken_invariants

MODELS = Path(__file__).parents[1] / "models"
NAMES = sorted({path.stem for path in MODELS.glob("*.onnx")})


@pytest.mark.parametrize("name", NAMES)
def test_every_stage_keeps_its_promise(name: str) -> None:
    source = onnx.load(MODELS / f"{name}.onnx")
    for one in source.graph.input:
        for dim in one.type.tensor_type.shape.dim:
            if not dim.dim_value:
                dim.dim_value = 1
    log = PassLog()
    graph = run(PREPARE, open_graph(source, log), log)
    assert list(broken_invariants(graph, {4, 5})) == []
    assert [one.name for one in graph.nodes if _reads_constants_alone(one)] == []
    own = tensorflow.OWN if source.producer_name == "tf2onnx" else pytorch.OWN
    graph = run(FOLD, run(own, graph, log), log)
    assert list(broken_invariants(graph)) == []
    validate(gs.export_onnx(run(FINISH, graph, log)))


def _reads_constants_alone(node: gs.Node) -> bool:
    quantization = ("QuantizeLinear", "DequantizeLinear")
    return node.op not in quantization and all(isinstance(one, gs.Constant) for one in node.inputs)
