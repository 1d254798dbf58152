import pytest

from drpai_qat.core.text import listed, one_line, seconds


def test_one_line():
    assert one_line("a\n  b\tc") == "a b c"
    assert one_line("\x1b[31mred\x00") == "\\x1b[31mred\\x00"
    assert len(one_line("x" * 1000)) == 300
    assert one_line("größer 日本") == "größer 日本"


@pytest.mark.parametrize(("value", "text"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (12.4, "12 s"), (185, "3 min 05 s")])
def test_seconds(value, text):
    assert seconds(value) == text


def test_listed():
    assert listed(["a", "b"]) == "a, b"
    assert listed(list("abcdefg"), 3) == "a, b, c and 4 more"
