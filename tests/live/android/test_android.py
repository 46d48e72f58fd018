"""A phone becomes a node, keeps a checkpoint, and is put back: real adb, adbd, mksh, toybox, sshd and criu.

Live because real adb, adbd, mksh, toybox and sshd.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from livekit.command import Done
from livekit.odd import ODD_WORDS
from livekit.phones import MARKS, Adb, Mortal, make_key, snapshot, ssh, undo
from livekit.snapshot import Watch
from livekit.stand import Stand, gone, healthy, word_of

from reberth.commands.controller import Controller
from reberth_android import adb as adbs
from reberth_android import cli, device, files
from reberth_android.status import status
from reberth_hooks import Level, ReberthError
from reberth_lab.android import Phone
from reberth_lab.node import Node

OWN_CONFIG = "Port 2222\n# of the owner\n"


def test_from_nothing_to_a_node_that_keeps_a_checkpoint_and_back(
    phone: Phone,
    adb: Adb,
    call: Callable[..., Done],
    works: Stand,
    watch: Watch,
    node1: Node,
    node2: Node,
    tmp_path: Path,
) -> None:
    fresh = snapshot(phone)
    planned = call("android", "setup", "--dry-run")
    assert planned.code == 0, str(planned)
    assert snapshot(phone) == fresh

    done = call("android", "setup", "--yes")
    assert done.code == 0, str(done)
    assert planned.stderr.count("mode") == done.stderr.count("mode") > 5
    config = (phone.root / "data/ssh/sshd_config").read_text()
    assert config == files.SIX_LINES + "ListenAddress 127.0.0.1:22\n"
    [shown] = [node for node in call("node", "ls", "--json").report["nodes"] if node["name"] == "phone"]
    table = shown["options"]["android"]
    assert (shown["connector"], shown["address"], table["serial"]) == ("android", "127.0.0.1", phone.serial)

    # Who may come in, by the sshd that runs.
    known, port = Path(table["known_hosts"]), str(table["port"])
    good, wrong = adb.home / ".ssh/id_ed25519", make_key(tmp_path / "wrong")
    assert ssh(known, port, "shell", "-i", str(good), "-o", "IdentitiesOnly=yes").stdout == "2000\n"
    for user, key, way in (("shell", wrong, "publickey"), ("root", good, "publickey"), ("shell", good, "password")):
        refused = ssh(
            known, port, user, "-i", str(key), "-o", "IdentitiesOnly=yes", "-o", f"PreferredAuthentications={way}"
        )
        assert refused.returncode == 255 and "Permission denied (publickey)" in refused.stderr, (
            user,
            way,
            refused.stderr,
        )

    # Set up twice: nothing is written, not even the same again.
    made = snapshot(phone, times=True)
    again = call("android", "setup", "--yes")
    assert again.code == 0 and "nothing was changed" in again.stderr, str(again)
    assert snapshot(phone, times=True) == made
    second = make_key(tmp_path / "second")
    added = call("android", "setup", "--yes", "--key", f"{second}.pub")
    assert added.code == 0, str(added)
    assert len((phone.root / "data/ssh/authorized_keys").read_text().splitlines()) == 2
    assert ssh(known, port, "shell", "-i", str(good), "-o", "IdentitiesOnly=yes").stdout == "2000\n"

    checked = call("check", "phone")
    assert checked.code == 0 and "root (user id 2000), criu" in checked.stdout, str(checked)

    # A checkpoint goes there and comes out of it on the other node.
    handle = works.raw("memory", "--mib", "8")
    refused = call("plan", word_of(node1, handle), "phone:")
    assert refused.code == 10 and "it lacks Python, root" in refused.error, str(refused)
    place = "phone:/data/local/tmp/it's kept"
    kept = call("checkpoint", word_of(node1, handle), place, "--json")
    assert (kept.code, kept.report["outcome"], kept.report["owner"]) == (0, "moved", "nobody"), str(kept)
    assert gone(node1, handle)
    folder = phone.root / "data/local/tmp/it's kept"
    assert sorted(path.name for path in folder.iterdir()) == ["checkpoint.json", "checkpoint.tar"]
    archive = folder / "checkpoint.tar"
    whole = archive.read_bytes()
    archive.write_bytes(whole[:-5000] + bytes([whole[-5000] ^ 1]) + whole[-4999:])
    spoiled = call("restore", place, "node2:", "--json")
    assert spoiled.code == 10 and "not as it was written" in spoiled.error, str(spoiled)
    archive.write_bytes(whole)
    back = call("restore", place, "node2:", "--json")
    assert (back.code, back.report["outcome"]) == (0, "moved"), str(back)
    healthy(node2, handle)
    works.stop(handle)
    watch.check()
    shutil.rmtree(folder)

    # Another host key stops everything; the start script makes new ones where they are missing.
    assert call("android", "stop", "phone").code == 0
    phone.shell("rm /data/ssh/ssh_host_*")
    started = call("android", "start", "phone")
    assert started.code == 0, str(started)
    for words in (("check", "phone"), ("restore", place, "node2:")):
        untrusted = call(*words)
        assert untrusted.code == 12, str(untrusted)

    stopped = call("android", "stop", "phone")
    assert stopped.code == 0, str(stopped)
    assert call("check", "phone").code == 13
    undone = call("android", "undo", "phone", "--yes")
    assert undone.code == 0, str(undone)
    assert snapshot(phone) == fresh
    assert "phone" not in {node["name"] for node in call("node", "ls", "--json").report["nodes"]}
    assert not known.exists()
    assert adb.run("forward", "--list").split() == []


@pytest.mark.parametrize("owned", [False, True], ids=["nothing there", "files of the owner there"])
def test_setup_that_breaks_off_anywhere_can_go_on_and_back(
    phone: Phone, set_up: Callable[..., Mortal], owned: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    if owned:
        text = 'mkdir -m 750 /data/ssh; cd /data/ssh; printf "%s" "$1" >sshd_config; echo "# none" >authorized_keys'
        phone.shell(f"{text}; chmod 640 *", OWN_CONFIG)
    before = snapshot(phone, times=True)
    whole = set_up(phone.serial)
    modes = {path: entry[:3] for path, entry in snapshot(phone).items()}
    undo(phone.serial, whole)
    assert snapshot(phone, times=True) == before
    assert whole.done >= 8, "the points of interruption were not found"
    for point in range(whole.done):
        broken = set_up(phone.serial, point)
        if point % 2 == owned:  # both ways from each point, in one of the two variants
            again = set_up(phone.serial, inventory=broken)
            assert {path: entry[:3] for path, entry in snapshot(phone).items()} == modes, point
            broken = again
        undo(phone.serial, broken)
        assert snapshot(phone, times=True) == before, point


@pytest.mark.parametrize("cut", ["rm -f ", "cp -p ", "chown ", "mkdir -p ", "rmdir ", 'mv "$kept"'])
def test_undo_that_breaks_off_can_be_done_again(
    phone: Phone, set_up: Callable[..., Mortal], cut: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    phone.shell('mkdir -m 750 /data/ssh; printf "%s" "$1" >/data/ssh/sshd_config', OWN_CONFIG)
    before = snapshot(phone)
    controller = set_up(phone.serial)
    assert cut in device.UNDO
    with monkeypatch.context() as broken:  # at this command the device goes away
        broken.setattr(device, "UNDO", device.UNDO.replace(cut, f"exit 9; {cut}", 1))
        with pytest.raises(ReberthError):
            undo(phone.serial, controller)
    undo(phone.serial, controller)
    assert snapshot(phone) == before


MISTAKES = {
    "root-login": "sed -i s/PermitRootLogin.no/PermitRootLogin\\ yes/ /data/ssh/sshd_config",
    "password-login": "sed -i s/PasswordAuthentication.no/PasswordAuthentication\\ yes/ /data/ssh/sshd_config",
    "strict-modes": "echo StrictModes no >>/data/ssh/sshd_config",
    "authorized-keys": "chmod 644 /data/ssh/authorized_keys",
    "host-keys": "chmod 644 /data/ssh/ssh_host_ed25519_key",
    "listen": "sed -i /ListenAddress/d /data/ssh/sshd_config",
    "unrestricted-key": "sed -i s/restrict,pty.// /data/ssh/authorized_keys",
    "writable": "chmod 666 /data/ssh/sshd_config",
}


def test_status_finds_each_mistake(
    phone: Phone, phones: list[Phone], adb: Adb, set_up: Callable[..., Mortal], call: Callable[..., Done]
) -> None:
    controller = set_up(phone.serial)
    looked = adbs.find(controller, phone.serial)

    def warned() -> set[str]:
        return {check.id for check in status(looked).checks if check.level is not Level.OK}

    # The lab's adbd is root for good, so its own mistake is the one that is always there.
    assert warned() == {"adb"}
    good = {path: (phone.root / f"data/ssh/{path}").read_bytes() for path in ("sshd_config", "authorized_keys")}
    for mistake, text in MISTAKES.items():
        phone.shell(text)
        assert warned() == {"adb", mistake}
        for path, content in good.items():
            (phone.root / f"data/ssh/{path}").write_bytes(content)
        phone.shell("cd /data/ssh; chmod 644 sshd_config; chmod 600 authorized_keys ssh_host_ed25519_key")
    assert warned() == {"adb"}
    shown = call("android", "status", "--json").report
    assert (shown["keys"], shown["boot"], shown["listening"]) == (1, "yes", ["127.0.0.1:22"])
    adb.connect(phones[1])
    other = {check.id: check.level for check in status(adbs.find(controller)).checks}
    assert other["adb"] is Level.OK


def test_what_cannot_be_set_up_is_refused_and_left_alone(
    phone: Phone, phones: list[Phone], adb: Adb, call: Callable[..., Done]
) -> None:
    second = phones[1]
    before = snapshot(phone), snapshot(second)

    def refused(code: int, word: str, *words: str) -> None:
        done = call("android", "setup", "--yes", *words)
        assert done.code == code and word in done.stderr, str(done)
        assert (snapshot(phone), snapshot(second)) == before

    adb.connect(phone, second)
    refused(2, second.serial)
    refused(10, "does not let adb become root", second.serial)
    refused(13, "sees no device", "--", "-x; touch /data/pwned")
    refused(13, "sees no device", "--", "-s")
    phone.shell("mv /system/bin/start-ssh /system/bin/other")
    refused(10, "not a LineageOS", phone.serial)
    phone.shell("echo 'exec sshd -D' >/system/bin/start-ssh")
    refused(10, "does not look into /system/etc/ssh", phone.serial)
    phone.shell("mv /system/bin/other /system/bin/start-ssh")
    adb.connect()
    refused(13, "adb sees no device")

    # Full: the first step fails, nothing is half there.
    adb.connect(phone)
    phone.shell("cat /dev/zero >/data/full 2>/dev/null || :")
    done = call("android", "setup", "--yes", phone.serial)
    assert done.code == 41 and "No space left" in done.stderr and "step 1" in done.stderr, str(done)
    phone.shell("rm /data/full")
    undone = call("android", "undo", "--yes")
    assert undone.code == 0, str(undone)
    assert snapshot(phone) == before[0]


def test_a_phone_that_is_unplugged_on_the_way(phone: Phone, adb: Adb, set_up: Callable[..., Mortal]) -> None:
    before = snapshot(phone)

    class Unplugging(Mortal):
        def run(self, argv, **words):
            if MARKS[4] in argv[-1]:  # the first file is to be written
                adb.run("disconnect")
            return Controller.run(self, argv, **words)

    key = str(adb.home / ".ssh/id_ed25519.pub")
    controller = Unplugging(MARKS)
    with pytest.raises(ReberthError) as caught:
        place = ("phone", files.LOOPBACK, files.DEFAULT_PORT, "")
        cli.do_setup(controller, phone.serial, key, place, dry_run=False, yes=True)
    assert (int(caught.value.exit_code), "authorized_keys" in caught.value.message) == (41, True)
    assert "undo" in caught.value.hint
    adb.connect(phone)
    undo(phone.serial, controller)
    assert snapshot(phone) == before


def test_odd_words_arrive_unchanged_and_never_run(phone: Phone) -> None:
    assert len(ODD_WORDS) >= 40
    one = adbs.find(Controller(), phone.serial)
    for word in ODD_WORDS:
        assert one.run('printf %s "$1"', word) == word
    hashes = one.run('for word in "$@"; do printf "%s\\0" "$word"; done', *ODD_WORDS)
    assert hashes.split("\0")[:-1] == list(ODD_WORDS)
    assert "pwned" not in snapshot(phone)
