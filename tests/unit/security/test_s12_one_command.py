"""S12: a node needs to allow one fixed command line, in which no name of anybody stands."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from reberth import boot

HELLO = boot.program()


def test_the_command_is_the_same_for_every_node_and_run():
    assert boot.control_argv() == ["python3", "-I", "-c", boot.BOOT, "control"]
    for what in ("bulk", "pages", "probe"):
        argv = boot.bulk_argv("/run/reberth/h-x/ctl", what)
        assert argv == ["python3", "-I", "-c", boot.BOOT, "bulk", "/run/reberth/h-x/ctl", what]


def start(tmp_path, base_mode: int, kind: str = "folder") -> subprocess.CompletedProcess[bytes]:
    """The line as a user without root runs it: its private place is `reberth-UID` in the runtime directory."""
    base = tmp_path / f"reberth-{os.getuid()}"
    if kind == "link":
        (tmp_path / "elsewhere").mkdir(mode=0o700)
        base.symlink_to(tmp_path / "elsewhere")
    else:
        base.mkdir()
        base.chmod(base_mode)
    line = boot.BOOT.replace('"/run/reberth" if u == 0 else ', "")
    return subprocess.run(
        [sys.executable, "-I", "-c", line, "control"],
        input=HELLO,
        env={"XDG_RUNTIME_DIR": str(tmp_path)},
        capture_output=True,
        timeout=30,
        check=False,
    )


@pytest.mark.parametrize(("mode", "kind"), [(0o755, "folder"), (0o777, "folder"), (0o700, "link")])
def test_a_place_that_is_not_private_is_refused(tmp_path, mode, kind):
    done = start(tmp_path, mode, kind)
    assert done.returncode != 0 and b"is not private" in done.stderr


def test_a_private_one_is_used_and_left_empty(tmp_path):
    done = start(tmp_path, 0o700)
    assert b"is not private" not in done.stderr
    for _ in range(200):
        left = list((tmp_path / f"reberth-{os.getuid()}").iterdir())
        if not left:
            break
        time.sleep(0.05)
    assert left == []
