"""Phones in every state that a real adbd can be in: they are refused, or set up another way, and nothing is left.

Live because the states are those of a real adbd.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit.command import Command, Done
from livekit.odd import ODD_WORDS
from livekit.phones import MARKS, Adb, Mortal, authenticate, make_key, offline, snapshot, ssh, undo
from livekit.stand import Stand, gone, healthy, word_of

from reberth.commands.controller import Controller
from reberth_android import adb as adbs
from reberth_android import cli, device, files, keys
from reberth_android.status import status
from reberth_hooks import ReberthError, UnreachableError, UsageError
from reberth_lab.android import Phone
from reberth_lab.node import Node


def test_a_phone_that_has_not_allowed_this_machine(phone: Phone, adb: Adb, call: Callable[..., Done]) -> None:
    before = snapshot(phone)
    authenticate(phone)
    adb.run("disconnect")
    assert "failed to authenticate" in adb.reach(phone)
    adb.wait_for(phone, "unauthorized")
    refused = call("android", "setup", "--yes")
    assert refused.code == 13 and "is unauthorized" in refused.stderr and "confirm the question" in refused.stderr
    assert snapshot(phone) == before

    # What the question on its screen does: the key of this machine's adb is known from now on.
    key = (adb.home / ".android/adbkey.pub").read_text()
    phone.shell('mkdir -p /data/misc/adb; printf "%s\\n" "$1" >/data/misc/adb/adb_keys', key)
    adb.connect(phone)
    allowed = snapshot(phone)
    done = call("android", "setup", "--yes")
    assert done.code == 0, str(done)
    assert call("android", "undo", "--yes").code == 0
    assert snapshot(phone) == allowed


def test_a_phone_that_is_offline(phone: Phone, adb: Adb, call: Callable[..., Done]) -> None:
    before = snapshot(phone)
    with offline(phone):
        adb.wait_for(phone, "offline")
        for command in ("setup", "status", "start", "stop", "undo"):
            refused = call("android", command)
            assert refused.code == 13 and "is offline" in refused.stderr and "plug it in again" in refused.stderr
    assert snapshot(phone) == before
    adb.connect(phone)
    assert call("android", "setup", "--dry-run").code == 0


@pytest.mark.parametrize("at", ["MAKE_KEY", "WRITE", "START"])
def test_a_phone_that_goes_offline_on_the_way(phone: Phone, adb: Adb, at: str) -> None:
    before = snapshot(phone)
    mark = max(getattr(device, at).split("'"), key=len)

    class Leaving(Mortal):
        def run(self, argv, **words):
            if mark not in argv[-1]:
                return super().run(argv, **words)
            with offline(phone):
                return super().run(argv, **words)

    controller = Leaving(MARKS)
    place = ("phone", files.LOOPBACK, files.DEFAULT_PORT, "")
    with pytest.raises(ReberthError) as caught:
        cli.do_setup(controller, phone.serial, str(adb.home / ".ssh/id_ed25519.pub"), place, dry_run=False, yes=True)
    assert int(caught.value.exit_code) == 41 and "undo" in caught.value.hint
    adb.connect(phone)
    again = Mortal(MARKS)
    again.inventory = controller.inventory
    undo(phone.serial, again)
    assert snapshot(phone) == before


def test_the_question_before_it_and_the_fingerprint_after_it(
    phone: Phone, adb: Adb, reberth: Command, settings: Callable[..., dict[str, str]]
) -> None:
    env = reberth.environment({**settings(lambda text: text), **adb.environment})
    argv = [sys.executable, "-m", "reberth", "android", "setup"]
    before = snapshot(phone)

    def answer(text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(argv, env=env, input=text, capture_output=True, text=True, timeout=60, check=False)

    for no in ("n\n", "", "\n"):
        done = answer(no)
        assert done.returncode == 10 and "not confirmed" in done.stderr, done.stderr
        assert snapshot(phone) == before
    done = answer("y\n")
    assert done.returncode == 0, done.stderr
    public = phone.root / "data/ssh/ssh_host_ed25519_key.pub"
    said = subprocess.run(["ssh-keygen", "-lf", str(public)], capture_output=True, text=True, check=True).stdout
    assert f"host key {said.split()[1]} (ssh-ed25519)" in done.stderr
    opens = [line.strip() for line in done.stderr.splitlines() if line.strip().startswith("opens:")]
    assert any("can log in as user shell" in line for line in opens)
    assert any("sshd will listen on the device itself (and USB), port 22" in line for line in opens)
    argv[-1:] = ["undo"]
    refused = answer("n\n")
    assert refused.returncode == 10 and "not confirmed" in refused.stderr
    assert answer("y\n").returncode == 0
    assert snapshot(phone) == before


def test_over_wifi_adb_is_needed_for_setting_up_alone(
    phone: Phone,
    adb: Adb,
    call: Callable[..., Done],
    works: Stand,
    node1: Node,
    node2: Node,
    tmp_path: Path,
) -> None:
    before = snapshot(phone)
    done = call("android", "setup", "--yes", "--address", phone.address, "--port", "2022", "--name", "pocket")
    assert done.code == 0, str(done)
    assert "switch USB debugging off" in done.stderr
    config = (phone.root / "data/ssh/sshd_config").read_text()
    assert config == files.SIX_LINES + f"ListenAddress {phone.address}:2022\n"
    shown = call("android", "status", "--json").report
    assert shown["listening"] == [f"{phone.address}:2022"]
    assert {check["id"] for check in shown["checks"] if check["level"] != "ok"} == {"adb"}
    [node] = [node for node in call("node", "ls", "--json").report["nodes"] if node["name"] == "pocket"]
    assert node["address"] == phone.address and not node["options"]["android"].get("forward")
    assert adb.run("forward", "--list").split() == []

    adb.run("disconnect")  # from here on without adb
    assert call("check", "pocket").code == 0
    handle = works.raw("memory", "--mib", "4")
    place = "pocket:/data/local/tmp/job"
    assert call("checkpoint", word_of(node1, handle), place).code == 0
    assert gone(node1, handle)
    back = call("restore", place, "node2:", "--json")
    assert (back.code, back.report["outcome"]) == (0, "moved"), str(back)
    healthy(node2, handle)
    works.stop(handle)
    wrong = make_key(tmp_path / "wrong")
    known = Path(node["options"]["android"]["known_hosts"])
    refused = ssh(known, "2022", "shell", "-i", str(wrong), "-o", "HostKeyAlias=pocket", host=phone.address)
    assert refused.returncode == 255

    adb.connect(phone)
    phone.shell("rm -rf /data/local/tmp/job")
    undone = call("android", "undo", "pocket", "--yes")
    assert undone.code == 0, str(undone)
    assert snapshot(phone) == before


def test_whether_it_starts_at_boot_is_read_from_the_phone(
    phone: Phone, set_up: Callable[..., Mortal], call: Callable[..., Done]
) -> None:
    controller = set_up(phone.serial)
    one = adbs.find(controller, phone.serial)
    assert status(one).boot == "yes"
    phone.shell("rm /system/etc/init.d/90userinit")
    assert status(one).boot == "no"
    phone.shell("rm -r /system/etc/init.d")
    assert status(one).boot == "unknown"
    said = call("android", "status").stdout
    assert "at boot    unknown; by hand: reberth android start" in said
    undo(phone.serial, controller)


def test_odd_serial_numbers_paths_and_comments_arrive_as_they_are(phone: Phone, adb: Adb, tmp_path: Path) -> None:
    one = adbs.find(Controller(), phone.serial)
    folder = "data/local/tmp"
    kind, blob, *_ = (adb.home / ".ssh/id_ed25519.pub").read_text().split()
    assert len(ODD_WORDS) >= 40
    for word in filter(None, ODD_WORDS):
        with pytest.raises(UnreachableError, match="adb sees no device"):
            adbs.find(Controller(), word)
        name = word.replace("/", "|")[:200]
        device.write(one, f"/{folder}/{name}", word, "600")
        assert (phone.root / folder / name).read_bytes().decode() == word
        (phone.root / folder / name).unlink()
        # A public key in a file of that name, with that comment.
        source = tmp_path / f"{name}.pub"
        source.write_text(f"{kind} {blob} {word}\n")
        try:
            line = files.with_key("", keys.read(source))
        except UsageError:
            assert "\n" in word  # two lines are no key
            continue
        device.write(one, f"/{folder}/keys", line, "600")
        assert (phone.root / folder / "keys").read_text() == line
        assert len(line.splitlines()) == 1 and line.startswith(f"restrict,pty {kind} {blob}")
    assert not [path for path in snapshot(phone) if "pwned" in path]
