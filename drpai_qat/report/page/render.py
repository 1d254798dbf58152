"""From content and pictures to one HTML file: the only module that knows jinja2.

Everything is escaped by the template engine; the page's own policy allows its style and its script by their hashes and
nothing else, so that a name out of a model could not run even if it were not.
"""

from __future__ import annotations

import base64
import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import replace
from functools import cache, partial
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

from drpai_qat.report.page import charts, layout, words

_MOST_BOXES = 1500
"""A picture of more would be no picture."""

_MOST_SHARING = 4
"""Layers that are named where code is shared."""

_HISTOGRAM = 128
"""Width of a small histogram; the template's own coordinates."""

_NAME = 30
"""Characters of a layer's name in a box."""


class OtherContentError(Exception):
    """Content of another version's page."""


def render(content: dict[str, Any], pictures: Sequence[str] = ()) -> str:
    """The page.

    Args:
        content: see drpai_qat.report.page.content.
        pictures: of the samples, as data URIs; "" for those without.
    Raises: OtherContentError: it lacks what the page shows.
    """
    layers = content["layers"]
    plots = _plots(content)
    told = content | {"plots": {plot.key: plot.values for plot in plots}}
    style, script = (_part(name) for name in ("page.css", "page.js"))
    try:
        return _environment().get_template("page.html").render(
            content,
            pictures=list(pictures),
            style=Markup(style),
            script=Markup(script),
            style_hash=_hash(style),
            script_hash=_hash(script),
            data=Markup(_json(told)),
            plots=plots,
            all_exact=_all_exact(layers),
            picture=layout.arrange([one["inputs"] for one in layers]) if 1 < len(layers) <= _MOST_BOXES else None,
            shared=partial(_shared, [one["name"] for one in layers]),
            short=partial(short, common=common_start([one["name"] for one in layers])),
            chart=charts,
            box=layout,
        )  # fmt: skip
    except jinja2.UndefinedError as error:
        raise OtherContentError(str(error)) from None


def _shared(names: Sequence[str], others: Sequence[int]) -> str:
    """Which layers share code, for a tooltip."""
    shown = ", ".join(f"{i} {short(names[i])}" for i in others[:_MOST_SHARING])
    more = f" and {len(others) - _MOST_SHARING} more" if len(others) > _MOST_SHARING else ""
    return f"with {shown}{more}"


def _plots(content: dict[str, Any]) -> list[charts.Plot]:
    """Those that there are numbers for."""
    layers = content["layers"]
    kinds = [one["compute"] for one in layers]
    made = []
    errors = [one["accumulated"] for one in layers]
    if any(errors) and not _all_exact(layers):
        values = [_sqnr(one) for one in errors]
        note = (
            "Integers of the deployed network in one piece beside onnxruntime's, with the errors of all layers before."
        )
        made.append(charts.dots("sqnr", "SQNR", "dB", values, lambda v: f"{v:.0f} dB", note=note))
        shares = [None if one is None else 1 - one["unequal"] / max(one["count"], 1) for one in errors]
        made.append(charts.dots("exact", "Equal integers", "share of the tensor", shares, words.percent, full=1.0))
    if any(one["macs"] for one in layers):
        made.append(
            charts.bars("macs", "Work", "multiply-accumulates", [one["macs"] for one in layers], kinds, words.si)
        )
    if content["timed"]:
        times = [one["milliseconds"] for one in layers]
        made.append(
            charts.bars("time", "Time", f"milliseconds on {content['timed']}", times, kinds, words.milliseconds)
        )
    if any(one["parameters"] for one in layers):
        sizes = [one["parameters"] for one in layers]
        made.append(charts.bars("bytes", "Parameters", "bytes", sizes, kinds, words.size))
    if any(content["memory"]):
        live = content["memory"]
        plot = charts.bars("memory", "Memory", "bytes of activations in use", live, ["int8"] * len(live), words.size)
        made.append(replace(plot, over="kernel"))
    return made


def _all_exact(layers: Sequence[dict[str, Any]]) -> bool:
    errors = [one["accumulated"] for one in layers if one["accumulated"]]
    return bool(errors) and all(one["exact"] for one in errors)


def _sqnr(errors: dict[str, Any] | None) -> float | None:
    if errors is None:
        return None
    if errors["exact"]:
        return math.inf
    return -math.inf if errors["sqnr_db"] is None else float(errors["sqnr_db"])


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_part), autoescape=True, trim_blocks=True, lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )  # fmt: skip
    environment.filters |= {
        "si": words.si,
        "size": words.size,
        "percent": words.percent,
        "operator": words.operator,
        "real": words.real,
        "milliseconds": words.milliseconds,
        "shape": words.shape,
        "histogram": partial(charts.histogram, width=_HISTOGRAM),
        "begun": lambda text: text[:1].upper() + text[1:],
        "roots": lambda counts: [math.sqrt(count) for count in counts],
        "product": math.prod,
    }
    return environment


@cache
def _part(name: str) -> str:
    return (files(__package__) / "template" / name).read_text(encoding="utf-8")


def short(name: str, longest: int = _NAME, common: str = "") -> str:
    """A layer's name that fits: without its operator, with which exporters end it, and cut in the middle.

    Args:
        common: what all names begin with, and is left out.
    """
    parts = name.removeprefix(common).strip("/").split("/")
    if len(parts) > 1 and parts[-1][:1].isupper():
        del parts[-1]
    kept = [part for part, following in zip(parts, [*parts[1:], ""], strict=True) if not _repeats(part, following)]
    text = "/".join(kept)
    if len(text) <= longest:
        return text
    head = longest // 3
    return f"{text[:head]}…{text[len(text) - (longest - head - 1) :]}"


def common_start(names: Sequence[str]) -> str:
    """The path that all names begin with, as "model/"; "" for none."""
    parted = [name.split("/") for name in names if name.count("/") > name.startswith("/")]
    count = 0
    for parts in zip(*(one[:-1] for one in parted), strict=False):
        if len(set(parts)) > 1:
            break
        count += 1
    return "/".join(parted[0][:count]) + "/" if count and len(parted) > 1 else ""


def _repeats(part: str, following: str) -> bool:
    """Torch names the module within each of its children: /layer1/layer1.0/conv1."""
    return following.startswith(f"{part}.")


def _json(content: dict[str, Any]) -> str:
    """JSON that neither ends the element it stands in nor begins another."""
    text = json.dumps(content, separators=(",", ":"), allow_nan=False, ensure_ascii=True)
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
