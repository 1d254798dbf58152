"""The version: setup.cfg, `drpai-qat --version`, reports and deploy.json read it here."""

from __future__ import annotations

from functools import cache
from pathlib import Path

__version__ = "0.1.0"


@cache
def described() -> str:
    """The version, with the commit of the clone that the code runs from: "0.1.0+g1a2b3c4d5e6f"."""
    commit = _commit(Path(__file__).parents[1] / ".git")
    return f"{__version__}+g{commit[:12]}" if commit else __version__


def _commit(git: Path) -> str:
    """What is checked out, read from the files, since git need not be there; "" where there is no clone."""
    try:
        if git.is_file():  # a further worktree: "gitdir: DIR"
            git = Path(git.read_text().partition(":")[2].strip())
        head = (git / "HEAD").read_text().strip()
        if not head.startswith("ref: "):
            return head
        name = head.removeprefix("ref: ")
        common = git / (git / "commondir").read_text().strip() if (git / "commondir").is_file() else git
        if (common / name).is_file():
            return (common / name).read_text().strip()
        packed = (common / "packed-refs").read_text().splitlines()
        return next((line.split()[0] for line in packed if line.endswith(f" {name}")), "")
    except (OSError, UnicodeDecodeError):
        return ""
