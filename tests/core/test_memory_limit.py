import pytest

from drpai_qat.core.errors import ModelError, OptionError
from drpai_qat.core.memory_limit import MemoryLimit, parsed_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("500M", 500 * 2**20), ("8G", 8 * 2**30), ("1.5 GB", 3 * 2**29), ("2GiB", 2**31), ("4096", 4096), ("1t", 2**40)],
)
def test_sizes(text, size):
    assert parsed_size(text) == MemoryLimit.of(text).bytes == size


@pytest.mark.parametrize("text", ["", "G", "-1G", "0", "8 apples", "1e9G", "nan"])
def test_what_is_no_size(text):
    with pytest.raises(OptionError, match="is no size"):
        parsed_size(text)


def test_more_than_the_limit_is_refused():
    MemoryLimit(1000).require(1000, "it")
    with pytest.raises(ModelError, match=r"^it takes 3\.0 GB, and 2\.0 GB may be taken: .* --max-memory$"):
        MemoryLimit(2**31).require(3 * 2**30, "it")


def test_the_default_is_less_than_the_machine_has():
    assert 2**20 < MemoryLimit.of(None).bytes < 2**50
