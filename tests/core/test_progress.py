import io
import re
import time
from itertools import count, pairwise

import pytest
from rich.console import Console

from drpai_qat.core import progress
from drpai_qat.core.console_progress import Live, Plain, for_console
from drpai_qat.core.isolation import run_isolated, start_isolated
from drpai_qat.core.progress import Silent, Tally, counted


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


def test_plain_text_tells_how_far_every_ten_seconds(monkeypatch):
    clock = count(0.0, 1.0)  # each look at it is 1 s after the last
    monkeypatch.setattr(time, "perf_counter", lambda: next(clock))
    text = io.StringIO()
    stages = Plain(Console(file=text))
    with stages.stage("compiling"):
        assert list(counted(range(40), 40, stages)) == list(range(40))
    lines = text.getvalue().splitlines()
    assert lines[0].endswith("] compiling")
    told = re.findall(r"\[ *(\S+) s\] compiling: (\d+) of 40, (\d+) s left\n", text.getvalue())
    assert len(told) == len(lines) - 1 >= 2
    times = [float(line[1:9].strip(" s")) for line in lines]
    for elapsed, done, left in told:
        each = (float(elapsed) - times[0]) / int(done)
        assert int(left) == pytest.approx(each * (40 - int(done)), rel=0.2)
    assert all(later - earlier >= 10 for earlier, later in pairwise(times))


def test_a_bar_in_a_terminal():
    text = io.StringIO()
    stages = for_console(Console(file=text, force_terminal=True, width=80))
    with stages.stage("folding"):
        pass
    assert "━" not in text.getvalue()
    with stages.stage("compiling"):
        progress.step(stages, 3, 7)
        progress.step(stages, 1, 0)  # no steps at all
        end = time.monotonic() + 5
        while "3 of 7" not in text.getvalue() and time.monotonic() < end:  # rich draws ten times a second
            time.sleep(0.05)
    with stages.stage("last"):
        pass
    assert "3 of 7" in text.getvalue()
    assert "━" in text.getvalue()


def test_stages_that_know_no_steps():
    class Own:
        def __init__(self):
            self.seconds = {}

        def stage(self, name):
            raise NotImplementedError

    for stages in (Own(), Silent()):
        assert list(counted([1, 2], 2, stages)) == [1, 2]


def test_steps_of_child_processes(tmp_path):
    told = []

    class Counting(Silent):
        def step(self, done, total):
            told.append((done, total))

    tally = Tally(tmp_path / "tally")

    def work():
        tally.begin(3)
        other = start_isolated(tally.add, tmp_path)
        tally.add()
        other.finish()
        time.sleep(0.6)  # longer than between two looks
        tally.add()

    run_isolated(work, tmp_path, tally.told(Counting()))
    assert (2, 3) in told
    assert told[-1] == (3, 3)


def test_seconds_add_up_even_when_a_stage_fails():
    stages = Silent()
    with stages.stage("a"):
        pass
    with pytest.raises(ValueError, match="no"), stages.stage("b"):
        raise ValueError("no")
    with stages.stage("a"):
        pass
    assert list(stages.seconds) == ["a", "b"]
