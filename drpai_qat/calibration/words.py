"""The words of -p, as users of the DRP-AI Quantizer know them, for the built-in quantizer.

az True, -az True, -az                       activations with a zero point (default); False: without
--calibrate_method MinMax                    also Percentile, Entropy, and our own
--opts activation_zeropoint True percentile_value 99.99
"""

from __future__ import annotations

import shlex
from typing import Any

from drpai_qat.calibration.recipe import METHODS
from drpai_qat.core.errors import OptionError

_KNOWN = (
    "az True|False, -az, --calibrate_method METHOD, --opts activation_zeropoint True|False, "
    "--opts percentile_value PERCENT"
)


def read_words(text: str) -> dict[str, Any]:
    """The fields of a Recipe that the words set.

    Raises: OptionError: a word or value is unknown; the message lists the known words.
    """
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise OptionError(f"-p {text!r} can't be read: {error}") from None
    found: dict[str, Any] = {}
    in_opts = False
    while words:
        word = words.pop(0)
        name = word.lstrip("-")
        if word == "--opts":
            in_opts = True
            continue
        in_opts = in_opts and not word.startswith("-")
        if name == "az" and not in_opts:
            bare = not words or words[0].startswith("-")
            found["symmetric"] = False if bare else not _truth(word, words)
        elif name == "calibrate_method" and not in_opts:
            found["method"] = _method(word, words)
        elif name == "activation_zeropoint":
            found["symmetric"] = not _truth(word, words)
        elif name == "percentile_value":
            found["share"] = _percent(word, words)
        else:
            raise OptionError(f"-p: {word!r} is no word of the built-in quantizer: it knows {_KNOWN}")
    return found


def _value(word: str, words: list[str]) -> str:
    if not words:
        raise OptionError(f"-p: {word!r} has no value: give one")
    return words.pop(0)


def _truth(word: str, words: list[str]) -> bool:
    value = _value(word, words)
    if value.lower() not in ("true", "false"):
        raise OptionError(f"-p: {word} {value!r}: give True or False")
    return value.lower() == "true"


def _method(word: str, words: list[str]) -> str:
    value = _value(word, words)
    if value.lower() not in METHODS:
        raise OptionError(f"-p: {word} {value!r} is unknown: give {', '.join(METHODS)}")
    return value.lower()


def _percent(word: str, words: list[str]) -> float:
    value = _value(word, words)
    try:
        share = float(value)
    except ValueError:
        share = -1.0
    if not 50 < share <= 100:
        raise OptionError(f"-p: {word} {value!r}: give a number above 50, up to 100")
    return share
