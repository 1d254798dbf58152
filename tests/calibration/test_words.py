"""The words of -p."""

import pytest

from drpai_qat.calibration.calibration_options import CalibrationOptions
from drpai_qat.calibration.recipe import Recipe
from drpai_qat.core.errors import OptionError


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (None, Recipe()),
        ("az True", Recipe()),
        ("-az", Recipe()),
        ("-az False", Recipe(symmetric=True)),
        ("--calibrate_method Percentile", Recipe(method="percentile")),
        ("--opts activation_zeropoint True percentile_value 99.9", Recipe(share=99.9)),
        ("--opts activation_zeropoint False -az True --calibrate_method MinMax", Recipe(method="minmax")),
    ],
)
def test_words_of_the_quantizer(words, wanted):
    assert CalibrationOptions().recipe(words) == wanted


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--turbo", "'--turbo' is no word of the built-in quantizer: it knows az"),
        ("az Maybe", "give True or False"),
        ("--calibrate_method Magic", "give mse, minmax"),
        ("--opts percentile_value", "has no value"),
        ("--opts percentile_value 7", "above 50"),
        ("az 'True", "can't be read"),
    ],
)
def test_unknown_words(words, says):
    with pytest.raises(OptionError, match=says):
        CalibrationOptions().recipe(words)


def test_our_own_option_comes_first():
    options = CalibrationOptions(calibrate_method="Entropy")
    assert options.recipe("--calibrate_method MinMax az False") == Recipe(method="entropy", symmetric=True)
