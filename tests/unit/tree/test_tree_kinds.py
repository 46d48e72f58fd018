"""Every kind of entry crosses as it is."""

from __future__ import annotations

import hashlib
import os
import socket
import stat
import tempfile
from pathlib import Path

import pytest

from reberth.node.tree import snapshot as treelist
from reberth.node.tree.hash import HASHED_HOLES_BYTES
from reberth.node.tree.receive import recv_tree

ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="owners, devices and trusted xattrs need root")
OLD_NS = 1_600_000_000_123_456_789


def _xattr(path: Path, name: str, value: bytes) -> None:
    try:
        os.setxattr(path, name, value, follow_symlinks=False)
    except OSError:
        pytest.skip(f"no {name} on this file system")


def test_plain_tree(source, target, cross, picture, age):
    (source / "empty").mkdir()
    (source / "dir" / "deep").mkdir(parents=True)
    (source / "dir" / "deep" / "file").write_bytes(b"content")
    (source / "nothing").touch()
    (source / "dir" / "to").symlink_to("../nothing")
    (source / "dangling").symlink_to("/nowhere/at/all")
    os.mkfifo(source / "fifo", 0o640)
    with socket.socket(socket.AF_UNIX) as unix:
        here = Path.cwd()
        os.chdir(source)
        unix.bind("socket")
        os.chdir(here)
    (source / "nothing").chmod(0o4751)
    (source / "empty").chmod(0o1777)
    (source / "dir" / "deep").chmod(0o2550)
    for path in (*source.rglob("*"), source):
        age(path)
    snapshot, manifest = cross(source, target)
    assert picture(source) == picture(target)
    assert snapshot.full and manifest.full and snapshot.unstable == [] == manifest.warnings
    assert (manifest.directories, manifest.others, manifest.links) == (4, 4, 0)
    assert snapshot.files_sent == manifest.files_received == 2 and snapshot.bytes_sent == 7
    assert snapshot.total == 10


@pytest.mark.parametrize(
    "name", [b"new\nline", b"\xff\xfe\x80", b"-rf", b"n" * 255, b"\xc3\xa9", b" ", b"\x01\x1b[31m", b'"\\', b"..."]
)
def test_odd_names(source, target, cross, picture, name):
    base = os.fsencode(source)
    os.mkdir(base + b"/" + name)
    with open(base + b"/" + name + b"/" + name, "wb") as out:
        out.write(name)
    os.symlink(name, base + b"/" + name + b"/link")
    os.link(base + b"/" + name + b"/" + name, base + b"/hard")
    snapshot, manifest = cross(source, target)
    assert picture(source) == picture(target)
    assert treelist.parse(treelist.canonical(snapshot.sent)) == manifest.files


def test_hard_links(source, target, cross, picture):
    (source / "a").write_bytes(b"x")
    (source / "sub").mkdir()
    os.link(source / "a", source / "sub" / "b")
    os.link(source / "a", source / "z")
    (source / "s").symlink_to("a")
    os.link(source / "s", source / "sub" / "s2", follow_symlinks=False)
    snapshot, manifest = cross(source, target)
    assert picture(source) == picture(target)
    assert (target / "z").stat().st_nlink == 3
    assert snapshot.files_sent == 1 and manifest.links == 3


def test_deep_tree(source, target, cross):
    fd = os.open(source, os.O_RDONLY)
    for _ in range(120):  # a path of 30,000 bytes, far over PATH_MAX
        os.mkdir("d" * 250, dir_fd=fd)
        inner = os.open("d" * 250, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = inner
    os.close(os.open("leaf", os.O_CREAT | os.O_WRONLY, dir_fd=fd))
    os.close(fd)
    _, manifest = cross(source, target)
    assert manifest.directories == 121 and len(manifest.files) == 1


def test_sparse_file(source, target, cross, picture):
    path = source / "sparse"
    with path.open("wb") as out:
        out.seek(5 << 20)
        out.write(b"middle")
        out.truncate(9 << 20)
    if path.stat().st_blocks * 512 > 1 << 20:
        pytest.skip("no sparse files here")
    (source / "hole").touch()
    os.truncate(source / "hole", 3 << 20)
    snapshot, manifest = cross(source, target)
    assert picture(source) == picture(target)
    assert (target / "sparse").stat().st_blocks == path.stat().st_blocks
    assert (target / "hole").stat().st_blocks == 0
    assert snapshot.bytes_sent < 1 << 20
    assert manifest.files["hole"] == (3 << 20, hashlib.sha256(bytes(3 << 20)).hexdigest())


def test_huge_hole_costs_nothing(source, target, cross):
    for name, size in (("a", 1 << 42), ("b", (1 << 42) + 1), ("c", HASHED_HOLES_BYTES)):
        (source / name).touch()
        os.truncate(source / name, size)
    _, manifest = cross(source, target)
    assert (target / "a").stat().st_size == 1 << 42
    assert len({digest for _, digest in manifest.files.values()}) == 3


@pytest.mark.parametrize("size", [1, 65535, 65536, (1 << 20) - 1, 1 << 20, (1 << 20) + 1, (9 << 20) + 5])
def test_sizes(source, target, cross, picture, size):
    (source / "file").write_bytes(os.urandom(size))
    (source / "next").write_bytes(b"small one after it")
    cross(source, target)
    assert picture(source) == picture(target)


def test_user_xattrs(source, target, cross, picture):
    (source / "f").touch()
    (source / "d").mkdir()
    for path in (source / "f", source / "d", source):
        _xattr(path, "user.odd \xe9", bytes(range(256)))
    _, manifest = cross(source, target)
    assert picture(source) == picture(target)
    assert manifest.warnings == []


@ROOT_ONLY
def test_root_only_bits(source, target, cross, picture):
    (source / "f").write_bytes(b"x")
    (source / "link").symlink_to("f")
    for path in ("f", "link"):
        os.chown(source / path, 12345, 54321, follow_symlinks=False)
    (source / "f").chmod(0o6755)
    os.mknod(source / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(source / "disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    for path in ("f", "link", "null"):
        _xattr(source / path, "trusted.test", b"value")
    capability = bytes.fromhex("0100000200200000000000000000000000000000")
    _xattr(source / "f", "security.capability", capability)
    # user::rw- user:65534:r-- group::r-- mask::r-- other::---
    acl = bytes.fromhex("02000000 01000600ffffffff 02000400feff0000 04000400ffffffff 10000400ffffffff 20000000ffffffff")
    (source / "d").mkdir()
    (source / "d" / "inside").touch()
    _xattr(source / "d", "system.posix_acl_default", acl)
    _xattr(source / "d", "system.posix_acl_access", acl)
    for path in ("link", "null", "f", "d"):
        os.utime(source / path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    first, manifest = cross(source, target)
    assert picture(source) == picture(target)
    assert manifest.warnings == [] and (target / "f").stat().st_mode & 0o7000 == 0o6000
    # A file that the delta makes in a directory with a default ACL must not inherit it.
    (source / "plain").touch()
    os.rename(source / "plain", source / "d" / "plain")
    cross(source, target, previous=first)
    assert picture(source) == picture(target)


@ROOT_ONLY
def test_overlay_xattrs_stay(source, target, cross):
    (source / "d").mkdir()
    _xattr(source / "d", "trusted.overlay.opaque", b"y")
    cross(source, target)
    assert os.listxattr(target / "d") == []


def test_mount_points(source, target, cross, tmpfs):
    (source / "here").touch()
    with tmpfs(source / "mnt dir") as inner:
        (inner / "beyond").touch()
        snapshot, manifest = cross(source, target)
        assert snapshot.skipped_mounts == ["mnt dir"]
        assert sorted(path.name for path in target.rglob("*")) == ["here", "mnt dir"]
        _, manifest = cross(source, target.with_name("all"), cross_mounts=True)
        assert sorted(manifest.files) == ["here", "mnt dir/beyond"]


def test_image_directory(source, target, cross):
    (source / "pages-1.img").write_bytes(b"p" * 5000)
    (source / "stats-dump").write_bytes(b"s")
    (source / "parent").symlink_to("../1")
    os.mkfifo(source / "notify")
    os.link(source / "stats-dump", source / "stats-2")
    snapshot, _ = cross(source, target, flat=True)
    assert sorted(path.name for path in target.iterdir()) == ["pages-1.img", "stats-2", "stats-dump"]
    assert {stat.S_IMODE(path.stat().st_mode) for path in target.iterdir()} == {0o600}
    assert stat.S_IMODE(target.stat().st_mode) == 0o700
    assert snapshot.files_sent == 3 and (target / "stats-2").stat().st_nlink == 1


def test_two_streams_in_one_pipe(source, target, record, replay):
    (source / "a").write_bytes(b"1")
    with tempfile.TemporaryFile() as both:
        both.write(record(source) * 2)
        both.seek(0)
        one, two = (recv_tree(str(target.with_name(name)), both.fileno()) for name in ("t1", "t2"))
        assert one.files == two.files and both.read() == b""


def test_canonical_list_is_ascii_and_stable():
    files = {"b\udcff": (1, "00"), "a\n": (2, "11")}
    text = treelist.canonical(files)
    assert text.isascii() and text == treelist.canonical(dict(reversed(list(files.items()))))
    assert treelist.parse(text) == files
    assert treelist.verify(files, {"a\n": (3, "11"), "c": (0, "")}) == ["a\n", "b\udcff", "c"]
    for bad in (b"[]", b'{"a": 1}', b'{"a": ["x", "y"]}', b"{"):
        with pytest.raises(ValueError):
            treelist.parse(bad)
