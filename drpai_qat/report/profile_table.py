"""A profile for people: the layers that take longest, and kinds of kernels, within 80 columns."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator

from rich.console import Console
from rich.text import Text

from drpai_qat.core.text import one_line, shortened
from drpai_qat.report.profile import Profile

_MOST_LAYERS = 15


def show(profile: Profile, console: Console, most: int = _MOST_LAYERS) -> None:
    """Print a profile.

    Args:
        most: layers that are listed, the slowest first; 0: all.
    """
    for text in _facts(profile):
        for line in textwrap.wrap(one_line(text, 1000), 80, break_on_hyphens=False):
            console.print(Text(line), soft_wrap=True)
    console.print()
    header, *rows = _layers(profile, most) if profile.layers else _kernels(profile, most)
    console.print(Text(header, style="bold"), soft_wrap=True)
    for row in rows:
        console.print(Text(row), soft_wrap=True)


def _facts(profile: Profile) -> list[str]:
    threads = "" if profile.threads is None else f", {profile.threads} thread{'s' if profile.threads > 1 else ''}"
    facts = [
        f"{profile.model} for {profile.target} on {profile.where}{threads}, {profile.loops} runs",
        f"a run takes {_time(profile.whole_us)}: {_time(profile.kernels_us)} in {len(profile.kernels)} kernels, "
        f"{_time(profile.calls_us)} in TVM's {profile.calls} calls",
    ]
    if profile.ceiling is not None and profile.macs:
        rate = profile.macs / profile.whole_us / 1000
        facts.append(
            f"{rate:.1f} GMAC/s, {rate / profile.ceiling:.0%} of what the instructions could do "
            f"({profile.ceiling:.1f} GMAC/s)"
        )
    if not profile.layers:
        facts.append("no report.json of this network: kernels are not told by layer")
    if profile.disturbed:
        facts.append(
            f"kernels and calls add up to {profile.sum_us / profile.whole_us:.0%} of the whole: other programs are "
            "running; measure again"
        )
    return facts


def _layers(profile: Profile, most: int) -> Iterator[str]:
    yield _line("layer", "operator", "in", "time", "share", "GMAC/s", "of it")
    ordered = sorted(profile.layers, key=lambda one: -one.us)
    for one in ordered[: most or None]:
        rate = f"{one.gmacs:.1f}" if one.macs else ""
        part = f"{one.gmacs / profile.ceiling:.0%}" if one.macs and profile.ceiling else ""
        yield _line(one.name, one.op, one.compute, _time(one.us), _share(one.us, profile), rate, part)
    yield from _rest([one.us for one in ordered], most, profile, "layers")
    yield _calls(profile)


def _kernels(profile: Profile, most: int) -> Iterator[str]:
    kinds: dict[str, list[float]] = {}
    for one in profile.kernels:
        kinds.setdefault(one.kind, []).append(one.us)
    yield _line("kernels", "number", "", "time", "share")
    ordered = sorted(kinds.items(), key=lambda item: -sum(item[1]))
    for kind, times in ordered[: most or None]:
        yield _line(kind, str(len(times)), "", _time(sum(times)), _share(sum(times), profile))
    yield from _rest([sum(times) for _, times in ordered], most, profile, "kinds")
    yield _calls(profile)


def _rest(times: list[float], most: int, profile: Profile, what: str) -> Iterator[str]:
    hidden = times[most:] if most else []
    if hidden:
        yield _line(f"{len(hidden)} more {what}", "", "", _time(sum(hidden)), _share(sum(hidden), profile))


def _calls(profile: Profile) -> str:
    """What no kernel takes."""
    return _line("calls (TVM's machine)", "", "", _time(profile.calls_us), _share(profile.calls_us, profile))


def _line(name: str, op: str, compute: str, time: str, share: str, rate: str = "", part: str = "") -> str:
    """80 columns."""
    name, op = shortened(one_line(name), 29), shortened(one_line(op), 12)
    return f"{name:29} {op:12} {compute:7} {time:>9} {share:>6} {rate:>6} {part:>5}".rstrip()


def _share(us: float, profile: Profile) -> str:
    return f"{us / profile.sum_us:.1%}" if profile.sum_us else ""


def _time(us: float) -> str:
    return f"{us / 1000:.2f} ms" if us >= 1000 else f"{us:.1f} us"
