"""The parts of the lab's virtual nodes that need no machine: names, addresses, QEMU's arguments, what is remembered."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from reberth_lab import layers
from reberth_lab.proc import LabError
from reberth_lab.site import MAX_NODES, Site
from reberth_lab.vm import accel, foreign, machine, up
from reberth_lab.vm.arch import AARCH64, ARCHES, X86_64, of
from reberth_lab.vm.image import Image, cached, ensure, kind_of, recipe_hash
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


# Another processor


def test_an_aarch64_node_is_emulated_without_anything_of_x86(monkeypatch, tmp_path):
    image = Image(tmp_path, AARCH64)
    monkeypatch.setattr(accel.platform, "machine", lambda: X86_64)
    monkeypatch.setattr(accel.os, "access", lambda *_: True)
    assert accel.choose(image, print) == machine.TCG
    given = {"seed": Path("/s"), "console": Path("/c"), "memory_bytes": 1 << 30, "cables": []}
    argv = machine.argv(image, machine.TCG, "lab-node1", **given)
    assert argv[0] == "qemu-system-aarch64"
    assert "virt,gic-version=3" in argv and "console=ttyAMA0" in argv[argv.index("-append") + 1]
    assert "ia32cap" not in " ".join(argv)
    assert [package for _, package, _ in up.tools(AARCH64)] == ["qemu-system-arm", "e2fsprogs", "kmod"]
    assert "qemu-system-arm" not in [package for _, package, _ in up.tools(X86_64)]


def test_images_of_two_processors_do_not_prune_each_other(tmp_path):
    hashes = [recipe_hash((), arch) for arch in ARCHES]
    assert len(set(hashes)) == len(hashes)
    for arch in ARCHES:
        home = tmp_path / f"{kind_of((), arch)}-{recipe_hash((), arch)}-1"
        home.mkdir()
        (home / "stamp.json").write_text("{}", encoding="utf-8")
    for arch in ARCHES:
        assert cached(tmp_path, (), arch).arch == arch
        assert len(list(tmp_path.glob(f"{kind_of((), arch)}-*"))) == 1  # what `_prune` looks through


def test_other_processors_have_no_parts_and_no_other_kind(tmp_path):
    with pytest.raises(LabError, match="no further parts"):
        ensure(tmp_path, say=print, parts=("lxd",), arch=AARCH64)
    with pytest.raises(LabError, match="cannot be 'riscv64'"):
        of("riscv64")


def test_names_of_archives_tell_the_versions(tmp_path):
    for name in ("criu_4.1.1-1_arm64.deb", "openssh-server_1%3a10.0p1-7_arm64.deb", "python3_3.13.5-1_arm64.deb"):
        (tmp_path / name).touch()
    found = foreign.packages(tmp_path)
    assert found == {"criu": "4.1.1-1", "openssh-server": "1:10.0p1-7", "python3": "3.13.5-1"}


def test_an_unpacked_tree_gets_what_scripts_would_have_made(tmp_path):
    for name in (*foreign.COPIES, "usr/sbin/criu"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("root:*:0:0:root:/root:/bin/bash\n", encoding="ascii")
    (tmp_path / "usr/bin").mkdir()
    (tmp_path / "var/run").mkdir(parents=True)
    foreign._set_up(tmp_path)
    assert "sshd:*:100:" in (tmp_path / "etc/passwd").read_text("ascii")
    assert os.readlink(tmp_path / "usr/bin/awk") == "mawk"
    assert os.readlink(tmp_path / "var/run") == "/run"
    (tmp_path / "usr/sbin/criu").unlink()
    with pytest.raises(LabError, match="no criu"):
        foreign._set_up(tmp_path)


def test_a_layer_stays_while_its_root_filesystem_does(tmp_path, mocker):
    """Nodes of another checkout, whose list of packages is another one, may run on it."""
    mocker.patch.object(layers.Chroot, "outside", autospec=True)
    root, gone = tmp_path / "trixie-1/root", tmp_path / "trixie-0/root"
    root.mkdir(parents=True)
    for name, text in (
        ("used", json.dumps({"root": str(root)})),
        ("old", json.dumps({"root": str(gone)})),
        ("killed", ""),
    ):
        home = tmp_path / f"layer-incus-{name}"
        (home / "layer").mkdir(parents=True)
        (home / layers.READY).write_text(text)
    assert layers.ensure("incus", tmp_path, root, lambda _: None).is_dir()
    kept = sorted(path.name for path in tmp_path.glob("layer-incus-*"))
    assert kept[-1] == "layer-incus-used" and len(kept) == 2
