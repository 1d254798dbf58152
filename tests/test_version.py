"""Which code made a network: the version, and the commit of a clone."""

import subprocess
from pathlib import Path

from drpai_qat.version import __version__, _commit, described


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@b")
    done = subprocess.run(["git", *identity, *arguments], cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_the_commit_is_that_of_git(tmp_path):
    clone, other = tmp_path / "clone", tmp_path / "other"
    clone.mkdir()
    git(clone, "init", "--quiet")
    git(clone, "commit", "--quiet", "--allow-empty", "-m", "one")
    head = git(clone, "rev-parse", "HEAD")
    assert _commit(clone / ".git") == head
    git(clone, "worktree", "add", "--quiet", str(other))
    assert _commit(other / ".git") == head
    git(clone, "pack-refs", "--all")
    assert _commit(clone / ".git") == head
    git(clone, "checkout", "--quiet", "--detach")
    assert _commit(clone / ".git") == head


def test_without_a_clone_it_is_the_version_alone(tmp_path):
    assert _commit(tmp_path / ".git") == ""
    assert described().startswith(__version__)
