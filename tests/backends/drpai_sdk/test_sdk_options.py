import pytest

from drpai_qat.backends.drpai_sdk.sdk_options import SdkOptions
from drpai_qat.core.errors import OptionError


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"drp_compiler_dir": "T", "quantization_tool": "Q", "quantization_option": "az True"}, "-d, -q/-c, -p:"),
        ({"drp_compiler_version": "100"}, "-v:"),
        ({"record_dir": "x", "num_frame": 3, "images": "i"}, "-r, -n, --images:"),
        ({"cpu_data_type": "float16"}, "float16"),
        ({"level": 0}, "--level 0"),
    ],
)
def test_nothing_asked_for_is_ignored(given, named):
    with pytest.raises(OptionError, match=named) as caught:
        SdkOptions(**given)
    assert "drop" in str(caught.value) or "without" in str(caught.value)


def test_what_the_builtin_compiler_does_anyway_is_accepted():
    assert SdkOptions(cpu_data_type="float32", level=1).level == 1
