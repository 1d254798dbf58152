from __future__ import annotations

import importlib.util

if importlib.util.find_spec("ai_edge_litert") is None:  # the extra tflite is not installed
    collect_ignore_glob = ["test_*.py"]
