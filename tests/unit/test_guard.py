"""The guard freezes when its process dies, and never again once it is told that all is well."""

from __future__ import annotations

import os
import shutil
import subprocess
import time

import pytest

from reberth.node.freeze import refreeze


@pytest.fixture
def fence(tmp_path):
    (tmp_path / "cgroup.freeze").write_text("0\n")
    return tmp_path


def is_frozen(fence):
    return (fence / "cgroup.freeze").read_text().startswith("1")


def wait_frozen(fence, limit_s):
    end_s = time.monotonic() + limit_s
    while not is_frozen(fence) and time.monotonic() < end_s:
        time.sleep(0.005)
    return is_frozen(fence)


def test_it_freezes_when_the_process_dies(fence):
    with subprocess.Popen(["sleep", "60"]) as process:
        refreeze.Guard(str(fence), process.pid)
        assert not wait_frozen(fence, 0.1)
        process.kill()
        assert wait_frozen(fence, 10)


def test_once_it_is_off_nothing_is_frozen(fence):
    with subprocess.Popen(["sleep", "60"]) as process:
        one = refreeze.Guard(str(fence), process.pid)
        one.off()
        process.kill()
    assert not wait_frozen(fence, 0.3)


def test_it_is_set_over_the_criu_above_a_script_only(fence, tmp_path):
    """A shell of that name stands for criu; its child is the script."""
    shutil.copy("/bin/sh", tmp_path / "criu")
    for name, found in (("criu", True), ("sh", False)):
        program = str(tmp_path / "criu") if name == "criu" else "/bin/sh"
        with subprocess.Popen([program, "-c", "sleep 60 & echo $!; wait"], stdout=subprocess.PIPE, text=True) as tool:
            script = int(tool.stdout.readline())
            one = refreeze.of_script(str(fence), script)
            assert (one is not None) is found
            os.kill(script, 9)
    assert wait_frozen(fence, 10)
