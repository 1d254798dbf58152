"""Every operator of the exact evaluator: the values are those of onnx's node tests, and float64 all the way through."""

from __future__ import annotations

import functools
import warnings
from typing import Any

import numpy as np
import pytest
from onnx.backend.test.case.node import collect_testcases
from onnx.backend.test.case.test_case import TestCase

from drpai_qat.runtimes.exact import ExactNetwork, Missing
from drpai_qat.runtimes.exact.operators import OWN, TAKEN

OPERATORS = sorted({*OWN, *TAKEN})
"""QuantizeLinear is tested in test_exact.py: it hands out more than its output."""

NO_CASE = {"Cast", "Upsample"}
"""Node tests of Cast don't come as arrays; Upsample has left the newest opset."""

JUMPING = {"Ceil", "Constant", "Floor", "OneHot", "Range", "Round", "Sign"}
"""Their outputs don't follow small steps of the input: nothing to see there."""

HALF_PRECISION = 2e-3
"""What the node tests of float16 and bfloat16 computed in that type."""


@functools.cache
def cases() -> dict[str, list[TestCase]]:
    """Node tests of one node, by operator."""
    found: dict[str, list[TestCase]] = {}
    with warnings.catch_warnings(), np.errstate(all="ignore"):
        warnings.simplefilter("ignore")
        for case in collect_testcases(None):
            nodes = case.model.graph.node
            if len(nodes) == 1 and _plain(case):
                found.setdefault(nodes[0].op_type, []).append(case)
    return found


def _plain(case: TestCase) -> bool:
    arrays = [one for given, wanted in case.data_sets for one in (*given, *wanted)]
    return all(isinstance(one, np.ndarray | np.generic) and one.dtype.kind in "fiub" for one in arrays)


def evaluate(case: TestCase, given: list[Any]) -> list[Any]:
    names = [value.name for value in case.model.graph.input]
    network = ExactNetwork(case.model)
    found = network.run(dict(zip(names, given, strict=True)))
    return [found[name] for name in network.outputs]


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name not in NO_CASE])
def test_values_are_those_of_the_node_tests(operator: str) -> None:
    compared = 0
    for case in cases()[operator]:
        for given, wanted in case.data_sets:
            half = any(np.asarray(one).dtype == np.float16 for one in (*given, *wanted))
            tolerance = HALF_PRECISION if half else case.rtol
            for found, expected in zip(evaluate(case, list(given)), wanted, strict=True):
                if isinstance(found, Missing):
                    continue
                compared += 1
                assert found.shape == expected.shape, case.name
                ours, theirs = found.astype(np.float64), expected.astype(np.float64)
                np.testing.assert_allclose(ours, theirs, tolerance, max(case.atol, 1e-6), err_msg=case.name)
    assert compared


@pytest.mark.parametrize("operator", [name for name in OPERATORS if name not in NO_CASE | JUMPING])
def test_nothing_is_rounded_to_float32(operator: str) -> None:
    """A step of 1e-9 moves the outputs a hundredth as far as one of 1e-7: rounding to float32 would swallow it."""
    random = np.random.default_rng(0)
    for case in cases()[operator]:
        first, *others = (np.asarray(one) for one in case.data_sets[0][0])
        if first.dtype.kind != "f":
            continue
        direction = np.where(np.isfinite(first), first, 0) * random.uniform(-1, 1, first.shape)
        steady, near, far = (evaluate(case, [first + direction * size, *others]) for size in (0, 1e-9, 1e-7))
        for start, short, long in zip(steady, near, far, strict=True):
            if isinstance(start, Missing) or start.dtype.kind != "f" or not np.isfinite(start).all():
                continue
            assert start.dtype == np.float64
            np.testing.assert_allclose((short - start) * 100, long - start, rtol=0.02, atol=2e-9, err_msg=case.name)
