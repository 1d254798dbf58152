from __future__ import annotations

from pathlib import Path

import pytest

from tests.samples.board_runner import build_runner


@pytest.fixture(scope="session")
def runner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The board's C++ runner, with sanitizers."""
    return build_runner(tmp_path_factory.mktemp("runner"))
