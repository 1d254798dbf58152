"""Compiles QAT-trained ONNX models into INT8 networks that compute what was trained.

    import drpai_qat

    report = drpai_qat.compile("model.onnx", qat_type="pytorch", output_dir="out/model")
    print(drpai_qat.evaluate("out/model", data="photos/", against="model.onnx").accuracy())
    network = drpai_qat.load("out/model")
    outputs = network.run({"input": x})

Everything is imported on first use: `--help` and `import drpai_qat` load neither TVM nor onnxruntime.
"""

from __future__ import annotations

import importlib
import os
from typing import TYPE_CHECKING, Any

from drpai_qat.version import __version__

# onnxruntime would send usage data, and write into home and temporary folders; whoever wants that sets it to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")

if TYPE_CHECKING:
    from drpai_qat import export
    from drpai_qat.core.errors import DrpaiQatError
    from drpai_qat.evaluation.evaluate import evaluate
    from drpai_qat.pipeline import compile
    from drpai_qat.report.content import Report
    from drpai_qat.runtimes.network import Network, load

_PUBLIC = {
    "compile": "drpai_qat.pipeline",
    "evaluate": "drpai_qat.evaluation.evaluate",
    "load": "drpai_qat.runtimes.network",
    "Network": "drpai_qat.runtimes.network",
    "Report": "drpai_qat.report.content",
    "DrpaiQatError": "drpai_qat.core.errors",
}

__all__ = ["DrpaiQatError", "Network", "Report", "__version__", "compile", "evaluate", "export", "load"]


def __getattr__(name: str) -> Any:
    if name == "export":  # a module, so that drpai_qat.export.pytorch(...) works without an import of its own
        return importlib.import_module("drpai_qat.export")
    if name in _PUBLIC:
        value = getattr(importlib.import_module(_PUBLIC[name]), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
