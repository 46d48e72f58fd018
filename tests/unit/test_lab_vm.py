"""The parts of the lab's virtual nodes that need no machine: names, addresses, QEMU's arguments, what is remembered."""

from __future__ import annotations

import io
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from reberth_lab.site import MAX_NODES, Site
from reberth_lab.vm import accel, machine
from reberth_lab.vm.image import Image
from reberth_lab.vm.node import pack

LONGEST = "abcdefghij"


def words(**more) -> list[str]:
    given = {"seed": Path("/s"), "console": Path("/c"), "memory_bytes": 1 << 30, "cables": [], **more}
    return machine.argv(Image(Path("/cache/vm-1")), machine.TCG, "lab-node1", **given)


def test_names_and_addresses_fit_and_differ():
    site = Site.of(LONGEST)
    numbers = range(1, MAX_NODES + 1)
    links = [name for n in numbers for name in (site.veth(n), site.control_link(n))] + [site.bridge]
    assert len(set(links)) == len(links)
    assert max(map(len, links)) <= 15
    addresses = [text for n in numbers for text in (site.address(n), site.control_address(n))]
    addresses += [site.bridge_address, site.control_outer]
    assert len(set(addresses)) == len(addresses)
    macs = [text for n in numbers for text in (site.mac(n), site.control_mac(n))]
    assert len(set(macs)) == len(macs)


@pytest.mark.parametrize(("name", "other"), [("a", "a1"), ("lab", "lab1"), ("x", "x9")])
def test_links_of_two_labs_differ(name, other):
    def every(site):
        return {site.bridge, *(link for n in range(1, 100) for link in (site.veth(n), site.control_link(n)))}

    assert not every(Site.of(name)) & every(Site.of(other))


def test_qemu_listens_nowhere_and_starts_nothing():
    argv = words(cables=[machine.Cable(7, "02:00:00:00:00:01"), machine.Cable(9, "02:00:00:00:00:02")])
    assert "spawn=deny" in argv[argv.index("-sandbox") + 1]
    assert [word for word in argv if word.startswith("tap,")] == ["tap,id=cable0,fd=7", "tap,id=cable1,fd=9"]
    assert not [word for word in argv if word.startswith("user") or "hostfwd" in word or "listen" in word]
    assert {"-nodefaults", "-no-user-config"} <= set(argv)
    assert "-monitor" not in argv and "-vnc" not in argv


def test_emulated_nodes_take_the_cipher_that_is_fast_there(tmp_path):
    """What OpenSSL makes of the lab's configuration, for connections straight from node to node."""
    path = tmp_path / "openssl.cnf"
    path.write_text(machine.CIPHER_CONFIG, encoding="ascii")
    code = "import ssl; print(*(c['name'] for c in ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).get_ciphers()))"
    env = {**os.environ, "OPENSSL_CONF": str(path)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, check=True)
    assert [name for name in done.stdout.split() if name.startswith("TLS_")] == ["TLS_CHACHA20_POLY1305_SHA256"]
    assert f"/{machine.CIPHER_FILE}" in machine.SSHD_CONFIG


def test_disks_are_never_written():
    drives = [word for word in words(seed=Path("/a,b")) if word.startswith("file=/")]
    assert [drive.partition(",format")[0] for drive in drives] == ["file=/cache/vm-1/disk.img", "file=/a,,b"]
    assert all("snapshot=on" in drive for drive in drives)


def test_kvm_is_asked_once_for_each_machine(tmp_path, monkeypatch):
    asked, said = [], []
    monkeypatch.setattr(accel.os, "access", lambda *_: True)
    monkeypatch.setattr(accel, "boots_with_kvm", lambda image: bool(asked.append(image)))
    for boot in ("first", "first", "second"):
        monkeypatch.setattr(accel, "_situation", lambda boot=boot: [boot, "QEMU 7"])
        assert accel.choose(Image(tmp_path), said.append) == machine.TCG
    assert len(asked) == len(said) == 2
    monkeypatch.setattr(accel, "boots_with_kvm", lambda image: True)
    monkeypatch.setattr(accel, "_situation", lambda: ["third", "QEMU 7"])
    assert accel.choose(Image(tmp_path), said.append) == machine.KVM
    assert len(said) == 2


def test_without_kvm_nothing_is_asked(tmp_path, monkeypatch):
    monkeypatch.setattr(accel.os, "access", lambda *_: False)
    assert accel.choose(Image(tmp_path), print) == machine.TCG
    assert list(tmp_path.iterdir()) == []


def test_what_is_sent_belongs_to_root(tmp_path):
    (tmp_path / "folder").mkdir(mode=0o700)
    (tmp_path / "folder" / "key").write_text("secret")
    (tmp_path / "folder" / "key").chmod(0o600)
    stream = io.BytesIO()
    pack(stream, tmp_path)
    stream.seek(0)
    with tarfile.open(fileobj=stream) as archive:
        found = {member.name: (member.uid, member.gid, member.mode) for member in archive}
    assert found == {"folder": (0, 0, 0o700), "folder/key": (0, 0, 0o600)}
