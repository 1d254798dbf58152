"""Text for people: whatever a file or a library says becomes one printable line."""

from __future__ import annotations

INSTALL_LINKER = "apt-get install gcc libc6-dev"
"""What to do where nothing links deploy.so for this machine."""

LONGEST = 300
"""Characters of somebody else's message that help; the rest is stack and state."""


def one_line(text: object, longest: int = LONGEST) -> str:
    """Make one line: white space becomes a space, control characters are escaped, long text is cut."""
    words = " ".join(str(text).split())
    printable = "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in words)
    return printable if len(printable) <= longest else printable[: longest - 1] + "…"


def seconds(value: float) -> str:
    """Elapsed time: "0.4 s", "12 s", "3 min 05 s"."""
    if value < 10:
        return f"{value:.1f} s"
    if value < 60:
        return f"{value:.0f} s"
    return f"{int(value) // 60} min {int(value) % 60:02d} s"


def listed(items: list[str], most: int = 5) -> str:
    """Join names with commas; "and 12 more" after `most`."""
    shown = ", ".join(items[:most])
    return shown if len(items) <= most else f"{shown} and {len(items) - most} more"


def shortened(name: str, longest: int) -> str:
    """Make a node's path fit: without scopes that the next one repeats, then cut in its middle.

    PyTorch writes /features/features.3/conv/conv.0/Conv for the module features.3.conv.0.
    """
    if len(name) <= longest:
        return name
    parts = name.split("/")
    name = "/".join(one for one, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{one}."))
    if len(name) <= longest:
        return name
    head = (longest - 1) // 2
    return f"{name[:head]}…{name[head + 1 - longest :]}"
