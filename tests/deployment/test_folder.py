import errno
import os
import signal
import stat
import sys
from pathlib import Path

import numpy as np
import pytest

from drpai_qat.core.errors import DeploymentError
from drpai_qat.deployment import manifest, swap
from drpai_qat.deployment.folder import hashes, staged, write_arrays
from drpai_qat.deployment.manifest import Manifest


def write_output(folder, text="one"):
    """What a compile leaves: a file and a deploy.json that lists it."""
    (folder / "deploy.params").write_text(text)
    Manifest({}, (), (), {}, 1.0, {}, files=hashes(folder)).write(folder)


def compile_into(out, text="one"):
    with staged(out) as folder:
        write_output(folder, text)


def everything(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_written_whole(tmp_path):
    out = tmp_path / "a" / "b" / "out"
    compile_into(out)
    assert everything(tmp_path) == ["a", "a/b", "a/b/out", "a/b/out/deploy.json", "a/b/out/deploy.params"]


def test_readable_by_others(tmp_path):
    before = os.umask(0o022)
    try:
        compile_into(tmp_path / "out")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "out").stat().st_mode) == 0o755


@pytest.mark.parametrize("error", [RuntimeError("bug"), KeyboardInterrupt(), OSError(errno.ENOSPC, "full")])
def test_nothing_is_left_of_a_failure(tmp_path, error):
    with pytest.raises((type(error), DeploymentError)), staged(tmp_path / "a" / "out") as folder:
        (folder / "deploy.so").touch()
        raise error
    assert everything(tmp_path) == []


def test_a_failure_keeps_the_earlier_output(tmp_path):
    compile_into(tmp_path / "out", "old")
    with pytest.raises(RuntimeError), staged(tmp_path / "out"):
        raise RuntimeError
    assert (tmp_path / "out" / "deploy.params").read_text() == "old"
    assert everything(tmp_path) == ["out", "out/deploy.json", "out/deploy.params"]


def test_an_earlier_output_is_replaced(tmp_path):
    compile_into(tmp_path / "out", "old")
    compile_into(tmp_path / "out", "new")
    assert (tmp_path / "out" / "deploy.params").read_text() == "new"
    assert everything(tmp_path) == ["out", "out/deploy.json", "out/deploy.params"]


def test_the_earlier_output_comes_back_if_the_swap_fails(tmp_path, monkeypatch):
    compile_into(tmp_path / "out", "old")
    monkeypatch.setattr(swap, "exchange", lambda *_: False)
    rename = Path.rename

    def failing(self, target):
        if self.name.endswith(".partial"):
            raise OSError(errno.EIO, "disk trouble")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(DeploymentError, match="disk trouble"):
        compile_into(tmp_path / "out", "new")
    assert (tmp_path / "out" / "deploy.params").read_text() == "old"
    assert everything(tmp_path) == ["out", "out/deploy.json", "out/deploy.params"]


def test_an_empty_folder_is_used(tmp_path):
    (tmp_path / "out").mkdir()
    compile_into(tmp_path / "out")
    assert manifest.is_ours(tmp_path / "out")


def test_a_link_keeps_pointing(tmp_path):
    compile_into(tmp_path / "real")
    (tmp_path / "link").symlink_to("real")
    compile_into(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real" / "deploy.params").read_text() == "new"


def test_what_runners_write_is_replaced(tmp_path):
    compile_into(tmp_path / "out")
    (tmp_path / "out" / "output_0.bin").write_text("of run_inference")
    compile_into(tmp_path / "out", "new")
    assert everything(tmp_path) == ["out", "out/deploy.json", "out/deploy.params"]


def killed(out, events):
    """Compile in a child that is killed before its n-th system call that Python announces; True if it got that far."""
    child = os.fork()
    if child == 0:
        left = iter(range(events))

        def watch(event, _arguments):
            kind = event.split(".")[0] in ("os", "open", "shutil", "tempfile") and event != "os.kill"
            if kind and next(left, None) is None:
                os.kill(os.getpid(), signal.SIGKILL)

        try:
            with staged(out) as folder:
                write_output(folder, "new" * 1000)
                sys.addaudithook(watch)
            os._exit(0)
        finally:
            os._exit(1)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status != 0


@pytest.mark.parametrize("exchanges", [True, False])
def test_a_kill_at_any_moment(tmp_path, monkeypatch, exchanges):
    """The old output is there or the new one, whole; where names can't be exchanged, once somebody writes again."""
    out = tmp_path / "out"
    if not exchanges:
        monkeypatch.setattr(swap, "exchange", lambda *_: False)
    seen = set()
    for events in range(1000):
        compile_into(out, "old")
        dies = killed(out, events)
        if not exchanges:
            with swap.turn(tmp_path):
                swap.recover(out)
        content = (out / "deploy.params").read_text()
        assert manifest.read(out).files == hashes(out)
        seen.add(content[:3])
        if not dies:
            break
    assert seen == {"old", "new"}
    compile_into(out, "last")
    assert everything(tmp_path) == ["out", "out/deploy.json", "out/deploy.params"]


def test_many_write_one_folder(tmp_path):
    children = []
    for number in range(8):
        child = os.fork()
        if child == 0:
            status = 1
            try:
                for _ in range(5):
                    compile_into(tmp_path / "out", str(number))
                status = 0
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitpid(child, 0)[1] for child in children] == [0] * 8
    assert everything(tmp_path) == ["out", "out/deploy.json", "out/deploy.params"]


def test_what_another_one_is_writing_stays(tmp_path):
    with staged(tmp_path / "out") as one:
        compile_into(tmp_path / "out", "quick")
        assert one.is_dir()
        write_output(one, "slow")
    assert (tmp_path / "out" / "deploy.params").read_text() == "slow"


class TestRefused:
    def refused(self, out, says):
        with pytest.raises(DeploymentError, match=says), staged(out):
            pytest.fail("must be refused before any work is done")

    def test_folder_of_the_user(self, tmp_path):
        (tmp_path / "notes.txt").write_text("mine")
        self.refused(tmp_path, "not an earlier output")
        assert (tmp_path / "notes.txt").read_text() == "mine"

    def test_file_of_the_user_in_an_earlier_output(self, tmp_path):
        compile_into(tmp_path / "out")
        (tmp_path / "out" / "notes.txt").write_text("mine")
        self.refused(tmp_path / "out", "notes.txt")

    @pytest.mark.parametrize("what", ["link", "link to a folder", "empty folder", "pipe", "deeper output_0.bin"])
    def test_other_things_of_the_user(self, tmp_path, what):
        out = tmp_path / "out"
        compile_into(out)
        (tmp_path / "mine").mkdir()
        (tmp_path / "mine" / "notes.txt").write_text("mine")
        if what.startswith("link"):
            (out / "thing").symlink_to("../mine" + ("" if "folder" in what else "/notes.txt"))
        elif what == "pipe":
            os.mkfifo(out / "thing")
        else:
            (out / "thing").mkdir()
            if what.startswith("deeper"):
                (out / "thing" / "output_0.bin").touch()
        self.refused(out, r"holds other files too \(thing")
        assert (tmp_path / "mine" / "notes.txt").read_text() == "mine"

    def test_files_that_were_changed_or_protected(self, tmp_path):
        out = tmp_path / "out"
        compile_into(out)
        (out / "deploy.params").write_text("my own values")
        self.refused(out, r"holds files that were changed \(deploy.params\)")
        (out / "deploy.params").write_text("one")
        (out / "deploy.params").chmod(0o444)
        self.refused(out, r"holds write-protected files \(deploy.params\)")

    def test_empty_folders_of_the_user(self, tmp_path):
        (tmp_path / "out" / "photos").mkdir(parents=True)
        self.refused(tmp_path / "out", "not an earlier output")

    def test_somebody_elses_deploy_json(self, tmp_path):
        (tmp_path / "deploy.json").write_text('{"nodes": []}')
        self.refused(tmp_path, "not an earlier output")

    def test_file(self, tmp_path):
        (tmp_path / "out").write_text("mine")
        self.refused(tmp_path / "out", "is a file")

    def test_dangling_link(self, tmp_path):
        (tmp_path / "link").symlink_to("loop")
        (tmp_path / "loop").symlink_to("link")
        self.refused(tmp_path / "link", "-o")

    def test_parent_is_a_file(self, tmp_path):
        (tmp_path / "file").touch()
        self.refused(tmp_path / "file" / "out", "can't be written")

    def test_mount_point(self):
        self.refused(Path("/proc"), "-o")

    def test_unwritable_file_system(self):
        self.refused(Path("/proc/out"), "can't be written")

    @pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
    def test_no_permission(self, tmp_path):
        tmp_path.chmod(0o500)
        self.refused(tmp_path / "out", "Permission denied")

    def test_name_too_long(self, tmp_path):
        self.refused(tmp_path / ("x" * 300), "can't be written")

    def test_a_path_that_is_no_text(self, tmp_path):
        self.refused(tmp_path / os.fsdecode(b"b\xff"), r"b\\udcff is no text in UTF-8")

    def test_appeared_meanwhile(self, tmp_path):
        out = tmp_path / "out"
        with pytest.raises(DeploymentError, match="not an earlier output"), staged(out):
            out.mkdir()
            (out / "notes.txt").write_text("mine")
        assert everything(tmp_path) == ["out", "out/notes.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device", "x"),
        OSError(errno.EDQUOT, "Disk quota exceeded"),
        RuntimeError("ld: final link failed: No space left on device"),
    ],
)
def test_a_full_disk_is_named(tmp_path, error):
    with pytest.raises(DeploymentError, match="no space left: free some"), staged(tmp_path / "out"):
        raise error
    assert everything(tmp_path) == []


def test_sample_files(tmp_path):
    inputs = [np.arange(6.0).reshape(1, 6), np.array([[7]], np.float32)]
    write_arrays(tmp_path, inputs, [np.array([[3, 4]], np.int64)])
    assert everything(tmp_path) == [
        "input_0.bin",
        "input_1.bin",
        "interpreter_out",
        "interpreter_out/input_0.bin",
        "interpreter_out/input_1.bin",
        "interpreter_out/ref_result_0.bin",
        "interpreter_out/ref_result_0_fp32.bin",
    ]
    np.testing.assert_array_equal(np.fromfile(tmp_path / "input_0.bin", "<f4"), np.arange(6))
    np.testing.assert_array_equal(np.fromfile(tmp_path / "interpreter_out/ref_result_0.bin", "<f4"), [3, 4])
