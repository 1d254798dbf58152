"""No kernel executes more instructions than it did: a guard that no busy machine disturbs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from drpai_qat.backends.cpu import targets
from tests.callgrind.counts import BASELINE, NETWORKS, TARGETS, TOOLS, count, own_cost

MARGIN = 1.05
_AGAIN = "if it is meant to be so: python -m tests.callgrind.counts"


@pytest.mark.slow
@pytest.mark.parametrize("target", TARGETS)
def test_no_kernel_takes_more_instructions(target: str, tmp_path: Path) -> None:
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        pytest.fail(f"apt-get install {' '.join(missing)}")
    if not targets.TARGETS[target].runs_here:
        pytest.skip(f"this CPU has no {target}")
    before, now = json.loads(BASELINE.read_text())[target], count(target, tmp_path)
    assert list(now) == list(NETWORKS) == list(before), _AGAIN
    grown = {name: f"{before[name]} -> {now[name]}" for name in now if now[name] > MARGIN * before[name]}
    assert grown == {}, _AGAIN


def test_the_cost_of_a_library_alone() -> None:
    listing = """events: Ir
ob=/lib/libc.so
fn=memcpy
12 1000
ob=/tmp/out/deploy.so
fn=conv
3 20
+2 5
cob=/lib/libc.so
cfn=memcpy
calls=2 12
4 1000
* 7
ob=/lib/libc.so
fn=exit
1 50
"""
    assert own_cost(listing, "deploy.so") == 32
    assert own_cost(listing, "libc.so") == 1050
