"""The android plugin without a phone: texts, keys, what status judges, and every state that adb can show."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from livekit.odd import ODD_WORDS

from reberth.commands.controller import Controller
from reberth_android import adb, device, files, keys, quoting, status
from reberth_android.device import Entry, State
from reberth_android.route import reberth_connect
from reberth_hooks import (
    CommandError,
    ConnectionLostError,
    Level,
    Node,
    RefusedError,
    UnreachableError,
    UsageError,
)

BLOB = "AAAAC3NzaC1lZDI1NTE5AAAAIBfH8J6vI3kLJ0kq7gS8e7m0mV3yYb0l5c1i1c3Vd0aX"
OTHER = "AAAAC3NzaC1lZDI1NTE5AAAAIC+zKo0Zz8o9b9H0S2v1q7dT3mR4nY5kX6lW7jV8iU9h"
KEY = keys.PublicKey("ssh-ed25519", BLOB, "me@here")


# Quoting: one line, and every word arrives


@pytest.mark.parametrize("word", ODD_WORDS)
def test_a_word_arrives_through_a_shell_as_it_is(word, tmp_path):
    line = quoting.device_line('printf "%s" "$1"', [word])
    done = subprocess.run(["sh", "-c", line], capture_output=True, timeout=10, cwd=tmp_path, check=True)
    assert done.stdout.decode() == word + quoting.DONE
    assert list(tmp_path.iterdir()) == []


def test_a_text_that_fails_does_not_say_done():
    done = subprocess.run(["sh", "-c", quoting.device_line("false; :")], capture_output=True, text=True, timeout=10)
    assert (done.returncode != 0, done.stdout) == (True, "")


def test_nul_is_refused():
    with pytest.raises(UsageError):
        quoting.device_line(":", ["a\0b"])


def test_no_other_file_of_the_plugin_builds_a_line():
    for path in Path(quoting.__file__).parent.glob("*.py"):
        if path.name not in ("quoting.py", "route.py"):  # route.py shows a hint to a person
            assert "shlex" not in path.read_text("utf-8"), path.name


# The texts of the files


def test_the_config_has_the_six_lines_and_says_only_where_else_it_listens():
    assert files.sshd_config("any", 22) == files.SIX_LINES
    assert len(files.SIX_LINES.splitlines()) == 6
    assert files.sshd_config("any", 2022) == files.SIX_LINES + "Port 2022\n"
    assert files.sshd_config("127.0.0.1", 22) == files.SIX_LINES + "ListenAddress 127.0.0.1:22\n"
    assert files.sshd_config("fe80::1", 22) == files.SIX_LINES + "ListenAddress [fe80::1]:22\n"


def test_the_start_script_is_the_devices_own():
    own = "#!/system/bin/sh\nsshd -f /system/etc/ssh/sshd_config # /system/etc/ssh\n"
    assert files.start_script(own) == "#!/system/bin/sh\nsshd -f /data/ssh/sshd_config # /data/ssh\n"
    for text in ("", "sshd -D\n", own + "\ufffd"):
        with pytest.raises(RefusedError):
            files.start_script(text)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("", f"{KEY.line}\n"),
        (f"ssh-ed25519 {OTHER} a\n", f"ssh-ed25519 {OTHER} a\n{KEY.line}\n"),
        (f"ssh-ed25519 {OTHER} no newline", f"ssh-ed25519 {OTHER} no newline\n{KEY.line}\n"),
        (f'command="x" ssh-ed25519 {BLOB} mine\n', f'command="x" ssh-ed25519 {BLOB} mine\n'),
        (f"# ssh-ed25519 {BLOB}\n", f"# ssh-ed25519 {BLOB}\n{KEY.line}\n"),
    ],
)
def test_a_key_is_added_never_replaced(before, after):
    assert files.with_key(before, KEY) == after
    assert files.with_key(after, KEY) == after


def test_directories_come_after_what_is_in_them():
    for at, path in enumerate(files.TOUCHED):
        assert all(not path.startswith(f"{later}/") or files.TOUCHED.index(later) > at for later in files.TOUCHED)


# Keys


def test_a_private_key_is_never_taken(tmp_path):
    private = tmp_path / "id"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(private)], check=True)
    with pytest.raises(UsageError, match="private"):
        keys.read(private)
    key = keys.read(tmp_path / "id.pub")
    said = subprocess.run(["ssh-keygen", "-lf", str(tmp_path / "id.pub")], capture_output=True, text=True, check=True)
    assert key.fingerprint == said.stdout.split()[1]
    assert key.identity == str(private)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "hello",
        f"ssh-ed25519 {BLOB[:-1]}!",
        f"ssh-rsa {BLOB}",
        f"restrict ssh-ed25519 {BLOB}",
        f"a {BLOB}\nb {BLOB}",
    ],
)
def test_what_is_no_public_key_is_refused(text):
    with pytest.raises(UsageError):
        keys.parse(text, "it")


def test_a_comment_cannot_make_a_second_line():
    assert keys.parse(f"ssh-ed25519 {BLOB} a\x1bb c", "it").line == f"restrict,pty ssh-ed25519 {BLOB} ab c"


class Offers:
    """A controller whose agent offers some keys."""

    def __init__(self, *lines):
        self.lines = lines

    def run(self, argv, **_):
        return type("Done", (), {"out": "\n".join(self.lines), "code": 0})


def test_the_one_key_is_taken_and_several_are_a_question(tmp_path):
    def never(_):
        raise AssertionError

    (tmp_path / ".ssh").mkdir()
    with pytest.raises(UsageError, match="no public key"):
        keys.choose(Offers(), "", tmp_path, yes=False, ask=never)
    agent = Offers(f"ssh-ed25519 {BLOB} me")
    assert keys.choose(agent, "", tmp_path, yes=True, ask=never).blob == BLOB
    (tmp_path / ".ssh/id.pub").write_text(f"ssh-ed25519 {BLOB} the same\n")
    assert keys.choose(agent, "", tmp_path, yes=True, ask=never).comment == "the same"
    (tmp_path / ".ssh/two.pub").write_text(f"ssh-ed25519 {OTHER} another\n")
    with pytest.raises(UsageError, match="2 public keys"):
        keys.choose(agent, "", tmp_path, yes=True, ask=never)
    assert keys.choose(agent, "", tmp_path, yes=False, ask=lambda offered: offered[1]).blob == OTHER


# What status says

GOOD = State(
    {
        **{path: Entry() for path in files.TOUCHED},
        files.AUTHORIZED_KEYS: Entry("600", "shell", "regular file"),
        files.SSHD_CONFIG: Entry("644", "shell", "regular file"),
        files.START_SCRIPT: Entry("755", "shell", "regular file"),
        files.HOST_KEY: Entry("600", "shell", "regular file"),
        files.SSH_DIR: Entry("755", "shell", "directory"),
    },
    {files.AUTHORIZED_KEYS: KEY.line + "\n"},
)


def warned(config: str, state: State = GOOD, found: tuple[str, ...] = ()) -> set[str]:
    checks = status.mistakes(state, status.settings(config), found)
    return {check.id for check in checks if check.level is not Level.OK}


def test_what_setup_writes_has_no_mistake():
    assert warned(files.sshd_config("192.0.2.7", 22)) == set()
    assert warned(files.sshd_config("any", 22)) == {"listen"}


@pytest.mark.parametrize(
    ("line", "mistake"),
    [
        ("PermitRootLogin yes", "root-login"),
        ("permitrootlogin prohibit-password", "root-login"),
        ("PasswordAuthentication yes", "password-login"),
        ("KbdInteractiveAuthentication=yes", "password-login"),
        ("StrictModes no", "strict-modes"),
        ("HostKey /sdcard/key", "host-keys"),
        ("ListenAddress 0.0.0.0", "listen"),
        ("ListenAddress [::]:22", "listen"),
    ],
)
def test_the_first_line_counts_as_sshd_reads_it(line, mistake):
    config = files.sshd_config("192.0.2.7", 22)
    assert warned(f"{line}\n{config}") == {mistake}
    assert warned(f"# {line}\n{config}") == set()


def test_silence_is_judged_by_sshds_defaults():
    assert warned("") == {"root-login", "password-login", "listen"}


@pytest.mark.parametrize(
    ("path", "entry", "mistake"),
    [
        (files.AUTHORIZED_KEYS, Entry("644", "shell", "regular file"), "authorized-keys"),
        (files.AUTHORIZED_KEYS, Entry("600", "system", "regular file"), "authorized-keys"),
        (files.AUTHORIZED_KEYS, Entry(), "authorized-keys"),
        (files.HOST_KEY, Entry("640", "shell", "regular file"), "host-keys"),
        (files.HOST_KEY, Entry(), "host-keys"),
        (files.SSHD_CONFIG, Entry("664", "shell", "regular file"), "writable"),
        (files.START_SCRIPT, Entry("755", "u0_a1", "regular file"), "writable"),
        (files.SSH_DIR, Entry("777", "shell", "directory"), "writable"),
    ],
)
def test_modes_and_owners_are_judged(path, entry, mistake):
    state = State({**GOOD.entries, path: entry}, GOOD.texts)
    assert warned(files.sshd_config("192.0.2.7", 22), state) == {mistake}


def test_a_free_key_and_a_wide_listener_are_found():
    free = State(GOOD.entries, {files.AUTHORIZED_KEYS: f"ssh-ed25519 {BLOB}\n"})
    config = files.sshd_config("192.0.2.7", 22)
    assert warned(config, free) == {"unrestricted-key"}
    assert warned(config, found=("0.0.0.0:22",)) == {"listen"}


def test_listeners_are_read_as_the_kernel_writes_them():
    text = """\
  sl  local_address rem_address   st tx_queue
   0: 0100007F:0016 00000000:0000 0A 00000000:00000000
   1: 0A0200C0:1F90 00000000:0000 0A 00000000:00000000
   2: 0100007F:0016 0100007F:9999 01 00000000:00000000
   0: 00000000000000000000000000000000:0016 00000000000000000000000000000000:0000 0A
   1: 0000000000000000FFFF00000100007F:0016 00000000000000000000000000000000:0000 0A
"""
    assert status.listening(text, {22}) == ("127.0.0.1:22", "[::]:22", "[::ffff:7f00:1]:22")


# Every state that adb can show


@pytest.fixture
def fake_adb(tmp_path, monkeypatch):
    """Puts a program in adb's place: a shell script, with these words for its answers."""

    def put(text):
        program = tmp_path / "adb"
        program.write_text(f"#!/bin/sh\n{text}\n")
        program.chmod(0o755)
        monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")

    return put


VERSION = '[ "$1" = version ] && { echo "Android Debug Bridge version 1.0.41"; exit; }\n'


def lists(*lines):
    return VERSION + "printf 'List of devices attached\\n" + "\\n".join(lines) + "\\n\\n'"


def test_no_adb_here(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RefusedError) as caught:
        adb.find(Controller())
    assert "apt-get install adb" in caught.value.hint


@pytest.mark.parametrize("said", ["Android Debug Bridge version 1.0.31", "something else"])
def test_an_adb_that_is_too_old(fake_adb, said):
    fake_adb(f"echo '{said}'")
    with pytest.raises(RefusedError, match="too old"):
        adb.find(Controller())


@pytest.mark.parametrize(
    ("lines", "serial", "error", "word"),
    [
        ([], "", UnreachableError, "no device"),
        (["A\\tdevice", "B\\tdevice"], "", UsageError, "A, B"),
        (["A\\tdevice"], "C", UnreachableError, "it sees A"),
        (["A\\tunauthorized"], "", UnreachableError, "confirm"),
        (["A\\toffline"], "A", UnreachableError, "plug it in"),
        (["A\\tno permissions (user in plugdev group; are your udev rules wrong?)"], "", UnreachableError, "udev"),
        (["A\\trecovery"], "", UnreachableError, "start normally"),
        (["A\\tsomething new"], "", UnreachableError, "adb devices"),
    ],
)
def test_what_cannot_be_used_says_why(fake_adb, lines, serial, error, word):
    fake_adb(lists(*lines))
    with pytest.raises(error) as caught:
        adb.find(Controller(), serial)
    assert word in f"{caught.value.message} {caught.value.hint}"


def test_the_one_that_is_meant_is_found(fake_adb):
    fake_adb(lists("A\\toffline", "B\\tdevice"))
    assert adb.find(Controller(), "B").serial == "B"


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("printf 'reberth: done'", None),
        ("echo 'error: device A not found' >&2; exit 1", ConnectionLostError),
        ("exit 255", ConnectionLostError),
        ("printf half; exit 0", ConnectionLostError),
        ("echo 'cp: No space left on device' >&2; exit 1", CommandError),
    ],
)
def test_a_lost_device_is_told_from_a_failed_text(fake_adb, script, error):
    fake_adb(script)
    one = adb.Adb(Controller(), "A")
    if error is None:
        assert one.run(":") == ""
        return
    with pytest.raises(error):
        one.run(":")


# The way there


def test_the_way_names_the_host_key_by_the_node():
    node = Node("phone", "127.0.0.1", "android", options={"android": {"port": 4444, "forward": True}})
    route = reberth_connect(node)
    assert route.control[-8:-6] == ("-o", "HostKeyAlias=phone") or "HostKeyAlias=phone" in route.control
    assert route.become[0] == "/system/bin/env"
    assert not route.helper
    assert "reberth android start phone" in route.hint


def test_a_phone_with_python_has_a_helper():
    python = "/data/python/bin/python3"
    route = reberth_connect(Node("p", "192.0.2.7", "android", "su", options={"android": {"python": python}}))
    assert route.helper
    assert any(word.startswith("PATH=/data/python/bin:/system/bin") for word in route.become)
    assert route.become[-2:] == ("su", "root")


def test_every_text_for_the_device_is_sound():
    texts = {name: text for name, text in vars(device).items() if name.isupper() and isinstance(text, str)}
    for name, text in texts.items():
        if name == "SHELL":
            continue
        done = subprocess.run(["sh", "-n", "-c", quoting.PRELUDE + text], capture_output=True, text=True, check=False)
        assert done.returncode == 0, (name, done.stderr)
