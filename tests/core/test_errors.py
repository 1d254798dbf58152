"""Errors lead to a heading of docs/troubleshooting.md that exists."""

import ast
import re
from pathlib import Path

from drpai_qat.core import errors
from drpai_qat.core.errors import DrpaiQatError, LoweringError, ModelError

ROOT = Path(__file__).parents[2]


def anchors() -> set[str]:
    """The page's headings as links have them."""
    titles = re.findall(r"^#+ (.+)$", (ROOT / errors.PAGE).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def stated() -> set[str]:
    """Every heading that code names."""
    found = set()
    for path in (path for room in ("drpai_qat", "preprocess") for path in (ROOT / room).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.keyword) and node.arg == "see" and isinstance(node.value, ast.Constant):
                found.add(str(node.value.value))
    return found


def test_each_heading_that_an_error_names_exists():
    classes = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, DrpaiQatError)]
    named = stated() | {kind.see for kind in classes if kind.see}
    assert len(named) >= 8
    assert named <= anchors()


def test_an_error_may_know_better_than_its_class():
    assert ModelError("it").see == "the-file-is-refused"
    assert ModelError("it", see="dynamic-shapes").see == "dynamic-shapes"
    assert str(LoweringError("it")) == "it"
