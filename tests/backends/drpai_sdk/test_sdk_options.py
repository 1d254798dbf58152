from __future__ import annotations

from typing import Any

import pytest

from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.core.errors import OptionError


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"drp_compiler_version": "092"}, "-v '092' is unknown: give 091 or 100"),
    ],
)
def test_what_would_give_another_result_is_refused(given: dict[str, Any], named: str) -> None:
    with pytest.raises(OptionError, match=named):
        SdkOptions(**given)


def test_without_the_tools_options_of_theirs_are_said_to_change_nothing() -> None:
    options = SdkOptions(
        quantization_option="az True", drp_compiler_version="091", cpu_data_type="float16", level=0, offload_ops="o"
    )
    assert not options.uses_tools
    assert [line.split(":")[0] for line in options.remarks()] == [
        "-f float16", "-v 091", "--offload_ops", "--level 0",
    ]  # fmt: skip


def test_with_a_tool_they_have_one() -> None:
    tools: tuple[dict[str, Any], ...] = ({"drp_compiler_dir": "T"}, {"quantization_tool": "Q"})
    for tool in tools:
        options = SdkOptions(quantization_option="az True", drp_compiler_version="091", level=0, **tool)
        assert options.uses_tools
        assert list(options.remarks()) == []
    assert SdkOptions(drp_compiler_dir="T").operator_set == "100"


def test_what_the_builtin_compiler_does_anyway_needs_no_word() -> None:
    assert list(SdkOptions(cpu_data_type="float32", level=1).remarks()) == []
