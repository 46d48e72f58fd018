"""Ways to log in: the line passes every shell, what a login prints is skipped, and one without a helper says why."""

from __future__ import annotations

import ast
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from reberth.connect import boot, data
from reberth.connect.helper import HelperShell
from reberth.plan import measure
from reberth_hooks import Node, NotStartedError, Route, UntrustedError

NODE = Node("here", connector="local")


def route(tmp_path: Path, path: str, *become: str) -> Route:
    env = {"PATH": path, "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    return Route(become=become, hint="is it there?", env=env)


def test_the_line_is_one_that_every_shell_takes_as_it_is():
    """csh cannot quote a newline and expands `!`, fish halves backslashes; a single quote needs another word."""
    assert not set(boot.BOOT) & set("\n\r'!\\`$") and boot.BOOT.isprintable()
    assert "reberth." not in boot.BOOT  # no module: who pinned the line has the right one as modules move


@pytest.mark.parametrize("name", ["sh", "bash", "dash", "zsh", "fish", "tcsh", "csh", "ksh", "mksh", "busybox"])
def test_login_shells_pass_the_line_on(name, tmp_path):
    shell = shutil.which(name)
    if shell is None:
        pytest.skip(f"no {name} here")
    words = [shell, *(["sh"] if name == "busybox" else []), "-c", shlex.join(boot.control_argv())]
    env = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}
    done = subprocess.run(words, input=b"", env=env, capture_output=True, timeout=60, check=False)
    assert (done.returncode, done.stdout[-len(boot.MARK) :], done.stderr) == (75, boot.MARK, b"")


# What a login prints before the helper, and what comes in its place


def said(tmp_path, script: str, *, needs: bool = False) -> NotStartedError:
    words = ("sh", "-c", script + ('; exec "$@"' if needs else ""), "sh")
    with pytest.raises(NotStartedError) as caught:
        HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", *words))
    return caught.value


@pytest.mark.parametrize(
    "noise",
    ["echo Welcome", "printf no-end-of-line", "head -c 300000 /dev/zero | tr '\\0' x", "printf '{}\\n\\0reb\\0\\n'"],
)
def test_what_a_login_prints_before_it_is_skipped(tmp_path, noise):
    found = HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", "sh", "-c", f'{noise}; exec "$@"', "sh"))
    assert found.run(["echo", "here"]).out == "here\n"
    found.close()


def test_a_login_that_reads_does_not_get_the_program(tmp_path):
    words = ("sh", "-c", 'timeout 0.3 cat >"$HOME/read"; exec "$@"', "sh")
    found = HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", *words))
    assert (tmp_path / "read").read_bytes() == b""
    found.close()


@pytest.mark.parametrize(
    ("script", "reason", "hint"),
    [
        ("echo This account is for backups only", "something else ran", "python3 --version"),
        ("echo sudo: a password is required >&2; exit 1", "sudo wants a password", "NOPASSWD: ALL"),
        ("echo sudo: sorry, you must have a tty to run sudo >&2; exit 1", "requiretty", "!requiretty"),
        ("echo ann is not in the sudoers file. >&2; exit 1", "may not become root", "NOPASSWD"),
        ("echo sudo: python3: command not found >&2; exit 1", "sudo finds no python3", "secure_path"),
        ("echo bash: line 1: sudo: command not found >&2; exit 127", "no sudo", "--user root"),
        ("echo fish: Unknown command: sudo >&2; exit 127", "no sudo", "--user root"),
        ("echo zsh:1: command not found: python3 >&2; exit 127", "has no python3", "3.9"),
        ("echo bash: line 1: python3: command not found >&2; exit 127", "has no python3", "3.9"),
        ("echo python3: Command not found. >&2; exit 1", "has no python3", "3.9"),
        ("echo This account is currently not available.; exit 1", "lets nobody in", "chsh"),
        ("echo 'OSError: [Errno 28] No space left on device' >&2; exit 1", "no space", "df -h"),
        ("echo 'reberth: python3 is 3.6 there, 3.9 or later is needed' >&2; exit 1", "too old", "python3 --version"),
        ("echo bash: /usr/bin/python3: Permission denied >&2; exit 126", "may not be executed", "noexec"),
    ],
)
def test_a_login_without_a_helper_says_what_was_printed_and_the_remedy(tmp_path, script, reason, hint):
    error = said(tmp_path, script)
    assert error.message.startswith("node here: logged in, but the helper did not start: ")
    assert reason in error.message and hint in error.hint and error.tail
    assert (error.exit_code, error.code) == (13, "not-started")


def test_a_login_that_never_stops_printing_ends(tmp_path):
    assert said(tmp_path, "yes Welcome").tail.startswith("Welcome")


@pytest.mark.parametrize(("version", "code"), [((3, 8), 1), ((3, 9), 75)])
def test_a_python_that_is_too_old_says_so(tmp_path, version, code):
    played = f"import sys;sys.version_info={version!r};{boot.BOOT}"
    words = [sys.executable, "-I", "-c", played, "control"]
    data = boot.program()
    done = subprocess.run(words, input=data[: 10 + int(data[:10])], capture_output=True, timeout=60, check=False)
    assert done.returncode == code
    assert (b"python3 is 3.8 there, 3.9 or later is needed" in done.stderr) == (code == 1)


def test_the_first_program_is_plain_enough_for_an_old_python():
    tree = ast.parse(boot.START, feature_version=(3, 4))
    kinds = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Starred)
    odd = [node for node in ast.walk(tree) if isinstance(node, kinds[:3])]
    assert odd == [] and b"annotations" not in boot.START.partition(b"import os")[2]


# The data connection has the same tolerance


@pytest.mark.parametrize("noise", ["true", "echo Welcome", "head -c 300000 /dev/zero | tr '\\0' x"])
def test_data_gets_through_what_a_login_prints(tmp_path, noise):
    found = HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", "sh", "-c", f'{noise}; exec "$@"', "sh"))
    data.look(found)
    found.close()


@pytest.mark.parametrize(
    ("for_data", "reason"),
    [
        ("cat >/dev/null", "something else ran"),
        ("head -c 4 >/dev/null", "reads the input"),
        ("exit 1", "something else"),
    ],
)
def test_a_login_that_disturbs_data_alone_is_told(tmp_path, for_data, reason):
    script = f'case "$*" in *" bulk "*) {for_data};; esac; exec "$@"'
    found = HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", "sh", "-c", script, "sh"))
    with pytest.raises(NotStartedError, match=f"its data connection does not work: .*{reason}"):
        data.look(found)
    assert found.run(["echo", "here"]).out == "here\n"
    found.close()


@pytest.mark.parametrize("printing", [0, 1])
def test_trees_get_through_what_either_login_prints(tmp_path, printing):
    """Two helpers and the pipe between them, as a move has it: the mark of each is what the other waits for."""
    noises = ["true", "true"]
    noises[printing] = "echo Welcome to {}; printf more"
    ends = [
        HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", "sh", "-c", f'{noise}; exec "$@"', "sh")) for noise in noises
    ]
    assert measure.link_bytes_s(*ends, limit_bytes=1 << 20) is not None
    got = [end.run(["echo", "here"]).out for end in ends]
    for end in ends:
        end.close()
    assert got == ["here\n"] * 2


REFUSED = "Host key verification failed."


@pytest.mark.parametrize(
    ("said", "text", "hint"),
    [
        (REFUSED, "node here did not prove who it is", "reberth node add --again here"),
        (f"{REFUSED}\nConnection closed by UNKNOWN port 65535", "the jump host on the way to node here", "by hand"),
    ],
)
def test_another_host_is_told_apart_from_another_jump_host(tmp_path, said, text, hint):
    words = ("sh", "-c", f"echo '{said}' >&2; exit 255", "sh")
    with pytest.raises(UntrustedError, match=text) as caught:
        HelperShell(NODE, route(tmp_path, "/usr/bin:/bin", *words))
    assert hint in caught.value.hint and caught.value.exit_code == 12
