"""S12: a node needs to allow one fixed command line, in which no name of anybody stands."""

from __future__ import annotations

import hashlib
import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest

from reberth.connect import boot

PRIVATE = b'"/run/reberth" if uid == 0 else '


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
    assert PRIVATE in boot.START
    first = boot.START.replace(PRIVATE, b"")
    return subprocess.run(
        [sys.executable, "-I", "-c", boot.BOOT, "control"],
        input=b"".join(b"%010d" % len(part) + part for part in (first, boot.archive())),
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
    assert done.returncode == 0, done.stderr
    for _ in range(200):
        left = list((tmp_path / f"reberth-{os.getuid()}").iterdir())
        if not left:
            break
        time.sleep(0.05)
    assert left == []


PAGE = Path(__file__).parents[3] / "docs/how-to/restrict-ssh.md"
SOCKET = "/run/reberth/h-ab12_c/ctl"


def through_the_gate(tmp_path, line: str) -> subprocess.CompletedProcess[bytes]:
    """The page's program as sshd would run it for a key that is limited to it; nothing comes on its standard input."""
    (text,) = re.findall(r"```python\n(.*?)```", PAGE.read_text("utf-8"), re.S)
    (tmp_path / "gate").write_text(text)
    words = [sys.executable, "-I", str(tmp_path / "gate")]
    env = {"SSH_ORIGINAL_COMMAND": line, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    return subprocess.run(words, env=env, input=b"", capture_output=True, timeout=60, check=False)


def test_s12_the_page_knows_this_version_of_the_line():
    assert hashlib.sha256(boot.BOOT.encode()).hexdigest() in PAGE.read_text("utf-8")


def test_s12_reberths_own_line_passes_the_gate(tmp_path):
    done = through_the_gate(tmp_path, shlex.join(boot.control_argv()))
    assert done.returncode == 75, done.stderr  # as far as waiting for the helper itself


def test_s12_with_sudo_it_passes_as_it_is(tmp_path):
    (tmp_path / "sudo").write_text('#!/bin/sh\necho "sudo got $# words"\n')
    (tmp_path / "sudo").chmod(0o755)
    done = through_the_gate(tmp_path, shlex.join(["sudo", "-n", "--", *boot.control_argv()]))
    assert done.stdout == b"sudo got 7 words\n"


def test_s12_a_data_connection_passes_too(tmp_path):
    done = through_the_gate(tmp_path, shlex.join(boot.bulk_argv(SOCKET)))
    # No helper is there, or one of root that this user may not look for.
    assert b"FileNotFoundError" in done.stderr or b"PermissionError" in done.stderr


@pytest.mark.parametrize(
    "line",
    [
        *("", "id", "python3 -I -c 'print(1)' control", "scp -t /etc", "internal-sftp", "python3", "'"),
        shlex.join([*boot.control_argv(), "more"]),
        shlex.join([*boot.control_argv()[:3], boot.BOOT + ";print(1)", "control"]),
        shlex.join(boot.bulk_argv("/etc/passwd")),
        shlex.join(boot.bulk_argv("/run/reberth/h-x/../../ctl")),
        shlex.join(boot.control_argv()) + "; id",
        shlex.join(["sudo", "-n", "sh", "-c", "id"]),
    ],
    ids=lambda line: ascii(line[-30:]),
)
def test_s12_nothing_else_passes(tmp_path, line):
    done = through_the_gate(tmp_path, line)
    assert done.returncode == 1 and b"uid=" not in done.stdout, done
