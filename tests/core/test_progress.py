import io
import re

import pytest
from rich.console import Console

from drpai_qat.core.progress import Live, Plain, Silent, for_console


def test_plain_text_where_it_is_not_a_terminal():
    text = io.StringIO()
    stages = for_console(Console(file=text))
    assert isinstance(stages, Plain)
    with stages.stage("folding [bold]"):
        pass
    assert re.fullmatch(r"\[ {2,3}\d+\.\d s\] folding \[bold\]\n", text.getvalue())


def test_a_clock_in_a_terminal():
    text = io.StringIO()
    stages = for_console(Console(file=text, force_terminal=True))
    assert isinstance(stages, Live)
    with stages.stage("folding"):
        pass
    assert "folding" in text.getvalue()
    assert re.search(r"0:00:\d\d", text.getvalue())


def test_seconds_add_up_even_when_a_stage_fails():
    stages = Silent()
    with stages.stage("a"):
        pass
    with pytest.raises(ValueError, match="no"), stages.stage("b"):
        raise ValueError("no")
    with stages.stage("a"):
        pass
    assert list(stages.seconds) == ["a", "b"]
