"""The second pass sends what changed, by content, and nothing else."""

from __future__ import annotations

import mmap
import os
import subprocess
import time

import pytest

from reberth.node.tree import walk
from reberth.node.tree.mounts import mounts, times_tell
from reberth.node.tree.open_files import always_paths, open_inodes

OLD_NS = 1_600_000_000_123_456_789
ROOT_ONLY = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: owners, and /proc/PID/map_files")


@pytest.fixture
def both(source, target, cross, picture, age):
    """A tree that crossed once, long after its last change, and the second pass over it as a function."""
    (source / "dir" / "sub").mkdir(parents=True)
    for name in ("a", "b", "dir/c", "dir/sub/d"):
        (source / name).write_bytes(name.encode() * 100)
        age(source / name)
    os.link(source / "a", source / "dir" / "hard")
    os.mkfifo(source / "fifo")
    (source / "link").symlink_to("a")
    time.sleep(0.03)  # more than a tick: from here on times tell
    first, _ = cross(source, target, all_candidates=False)

    def again(**options):
        options.setdefault("all_candidates", False)
        snapshot, manifest = cross(source, target, previous=first, **options)
        assert picture(source) == picture(target)
        assert not manifest.full
        idle, nothing = cross(source, target, previous=snapshot, all_candidates=True)
        assert (idle.records, nothing.changed, nothing.directories) == (2, 0, 0), "the new snapshot is not the truth"
        return snapshot, manifest

    again.first = first
    return again


def test_nothing_changed(both):
    snapshot, _ = both()
    assert (snapshot.records, snapshot.bytes_sent, snapshot.reread) == (2, 0, 0)


def test_all_candidates_reads_but_sends_nothing(both):
    snapshot, _ = both(all_candidates=True)
    assert (snapshot.records, snapshot.reread) == (2, 4)


def test_write(both, source):
    (source / "dir" / "c").write_bytes(b"longer than it was before" * 10)
    snapshot, _ = both()
    assert list(snapshot.sent) == ["dir/c"] and snapshot.reread == 0


def test_touched_file_sends_its_time_only(both, source):
    os.utime(source / "b")
    snapshot, manifest = both()
    assert snapshot.sent == {} and snapshot.reread == manifest.changed == 1 and snapshot.bytes_sent == 0


def test_same_size_and_mtime(both, source, age):
    with open(source / "b", "r+b") as out:
        out.write(b"X")
    age(source / "b")
    assert list(both()[0].sent) == ["b"]


def test_same_clock_tick(source, target, cross, picture, monkeypatch):
    """All times equal: only the nearness of the change to the pass tells that they prove nothing."""
    path = source / "f"
    monkeypatch.setattr(walk, "_TICK_NS", 60 * 10**9)  # a loaded machine takes its time
    path.write_bytes(b"1")
    first, _ = cross(source, target, all_candidates=False)
    assert first.entries[b"f"].unsure
    path.write_bytes(b"2")
    first.entries[b"f"].state = walk.Entry(path.lstat(), 0).state  # as if both writes fell into one tick
    second, _ = cross(source, target, previous=first, all_candidates=False)
    assert list(second.sent) == ["f"] and picture(source) == picture(target)
    monkeypatch.undo()
    time.sleep(0.03)
    third, _ = cross(source, target, previous=second, all_candidates=False)
    assert not third.entries[b"f"].unsure and third.reread == 1
    path.write_bytes(b"3")
    third.entries[b"f"].state = walk.Entry(path.lstat(), 0).state
    fourth, _ = cross(source, target, previous=third, all_candidates=False)
    assert fourth.sent == {}, "the trial proves nothing: something else found the change"


def test_whole_seconds_need_a_wider_margin(tmp_path):
    path = tmp_path / "f"
    path.touch()
    st = list(path.lstat())
    second = int(path.lstat().st_ctime)

    def look(ns, since):
        fields = {"st_mtime_ns": ns, "st_ctime_ns": ns}
        return walk.is_unsure(os.stat_result(st, fields), since)

    assert look(second * 10**9, second * 10**9 + 15 * 10**8)
    assert not look(second * 10**9, second * 10**9 + 25 * 10**8)
    assert look(second * 10**9 + 1, second * 10**9 + 10**7)
    assert not look(second * 10**9 + 1, second * 10**9 + 10**8)


LOOKS = [pytest.param(how, marks=ROOT_ONLY) for how in ("scan", "snapshot", "first pass only")]


@pytest.mark.parametrize("how", ["path", "inode", *LOOKS])
def test_second_write_through_a_mapping(source, target, cross, picture, how):
    """The page is dirty already, so mtime stays (protocol E8): the mapping itself must tell."""
    path = source / "mapped"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), 4096)
    memory[0] = 1
    before = path.stat()
    time.sleep(0.03)
    always = {
        "path": lambda: {"mapped"},
        "inode": lambda: {(before.st_dev, before.st_ino)},
        "scan": lambda: always_paths([os.getpid()], str(source)),
        "snapshot": frozenset,
        "first pass only": lambda: open_inodes([os.getpid()]),
    }[how]()
    first, _ = cross(source, target, all_candidates=False, always=always)
    if how == "snapshot":
        always = always_paths([os.getpid()], str(source), first)
        assert always == {"mapped"}
    memory[1] = 2
    if how == "first pass only":
        memory.close()
        always = frozenset()
    second, _ = cross(source, target, previous=first, all_candidates=False, always=always)
    assert list(second.sent) == ["mapped"] and picture(source) == picture(target)


@ROOT_ONLY
def test_files_held_open(source):
    for name in ("written", "appended", "read", "path", "other"):
        (source / name).touch()
    flags = {"written": os.O_RDWR, "appended": os.O_WRONLY | os.O_APPEND, "read": os.O_RDONLY, "path": os.O_PATH}
    opened = [os.open(source / name, how) for name, how in flags.items()]
    try:
        assert always_paths([os.getpid(), 2**22 + 1], str(source)) == {"written", "appended"}
    finally:
        for fd in opened:
            os.close(fd)
    assert always_paths([os.getpid()], str(source)) == frozenset()


def test_swap_by_rename(both, source):
    os.rename(source / "a", source / "t")
    os.rename(source / "b", source / "a")
    os.rename(source / "t", source / "b")
    assert set(both()[0].sent) <= {"a", "b", "dir/hard"}


def test_deletions(both, source):
    (source / "dir" / "sub" / "d").unlink()
    (source / "fifo").unlink()
    snapshot, manifest = both()
    assert snapshot.deleted == manifest.deleted == 2 and snapshot.sent == {}


def test_deleted_directory_is_one_record(both, source):
    os.rename(source / "dir", source / "moved")
    snapshot, manifest = both()
    assert (snapshot.deleted, manifest.deleted) == (5, 1)


def test_kinds_change(both, source):
    (source / "b").unlink()
    (source / "b").mkdir()
    (source / "b" / "new").write_bytes(b"n")
    (source / "dir" / "sub" / "d").unlink()
    (source / "dir" / "sub").rmdir()
    (source / "dir" / "sub").write_bytes(b"file now")
    (source / "fifo").unlink()
    (source / "fifo").symlink_to("dir")
    both()


def test_symlink_changed(both, source):
    (source / "link").unlink()
    (source / "link").symlink_to("b")
    snapshot, manifest = both()
    assert snapshot.sent == {} and manifest.others == 1


def test_hard_link_added_before_and_after_its_leader(both, source):
    os.link(source / "b", source / "0first")
    os.link(source / "b", source / "z")
    snapshot, manifest = both()
    assert snapshot.sent == {} and manifest.links == 2


def test_hard_link_removed(both, source):
    (source / "a").unlink()
    snapshot, _ = both()
    assert snapshot.sent == {}


def test_hard_link_broken_with_equal_content(both, source, age):
    content = (source / "a").read_bytes()
    (source / "a").unlink()
    (source / "a").write_bytes(content)
    age(source / "a")
    snapshot, _ = both()
    assert len(snapshot.sent) == 1


def test_linked_file_written(both, source):
    (source / "dir" / "hard").write_bytes(b"through the other name")
    snapshot, manifest = both()
    assert len(snapshot.sent) == manifest.links == 1


def test_links_regrouped(both, source):
    (source / "a").unlink()
    os.link(source / "b", source / "a")
    (source / "dir" / "c").unlink()
    os.link(source / "dir" / "hard", source / "dir" / "c")
    both()


def test_metadata_alone(both, source):
    (source / "b").chmod(0o4711)
    (source / "dir").chmod(0o700)
    (source / "fifo").chmod(0o600)
    os.setxattr(source / "dir" / "c", "user.x", b"1")
    os.utime(source / "link", ns=(OLD_NS, OLD_NS), follow_symlinks=False)
    snapshot, manifest = both()
    assert snapshot.bytes_sent == 0 and (manifest.changed, manifest.directories) == (4, 1)


def test_xattr_changed_and_removed(source, target, cross, picture):
    for name in ("f", "g"):
        (source / name).touch()
        os.setxattr(source / name, "user.x", b"1")
    first, _ = cross(source, target, all_candidates=False)
    os.setxattr(source / "f", "user.x", b"2")
    os.removexattr(source / "g", "user.x")
    _, manifest = cross(source, target, previous=first, all_candidates=False)
    assert picture(source) == picture(target) and manifest.changed == 2


@ROOT_ONLY
def test_owner_alone(both, source):
    os.chown(source / "dir" / "hard", 1234, 1234)
    os.chown(source / "link", 1234, 1234, follow_symlinks=False)
    (source / "b").chmod(0o6755)
    snapshot, manifest = both()
    assert snapshot.sent == {} and manifest.changed == 3


def test_times_of_directories_survive(both, source, age):
    (source / "dir" / "c").write_bytes(b"the directory's own time does not change with it")
    age(source / "dir")
    both()


def test_snapshot_of_a_file_that_vanished_is_no_lie(both, source, target, cross, picture, monkeypatch):
    """Gone between scan and read, and back with the old content afterwards: it must be sent again."""
    content = (source / "b").read_bytes()
    real = walk.open_file
    monkeypatch.setattr("reberth.node.tree.send.open_file", lambda dirs, path: -1 if path == b"b" else real(dirs, path))
    second, _ = cross(source, target, previous=both.first, all_candidates=True)
    assert second.unstable == ["b"]
    monkeypatch.undo()
    (source / "b").write_bytes(content)
    third, _ = cross(source, target, previous=second, all_candidates=False)
    assert list(third.sent) == ["b"] and picture(source) == picture(target)


def test_leader_of_links_replaced_before_it_is_read(both, source, target, cross, picture, monkeypatch):
    def scan_then_replace(*args):
        found = walk.scan(*args)
        monkeypatch.undo()
        (source / "a").unlink()
        (source / "a").write_bytes(b"another file under the leader's name")
        return found

    monkeypatch.setattr("reberth.node.tree.send.scan", scan_then_replace)
    fresh = target.with_name("fresh")
    first, manifest = cross(source, fresh, all_candidates=False)
    assert manifest.links == 0 and picture(source)[b"dir/hard"][5] == picture(fresh)[b"dir/hard"][5]
    cross(source, fresh, previous=first, all_candidates=False)
    assert picture(source) == picture(fresh)


def test_tmpfs_is_always_compared(tmp_path, tmpfs, cross, target, source):
    table = mounts()
    with tmpfs(tmp_path / "mem") as memory:
        (memory / "f").write_bytes(b"1")
        time.sleep(0.03)
        first, _ = cross(memory, target)
        assert cross(memory, target, previous=first)[0].reread == 1
        fd = os.open(memory, os.O_RDONLY)
        assert not times_tell(fd, mounts()) and not times_tell(fd, table)
        os.close(fd)


def _check_mapping_on_overlay(point):
    """The mapping's own inode is that of the layer below; it must be found all the same."""
    path = point / "mapped"
    path.write_bytes(bytes(4096))
    with path.open("r+b") as opened:
        memory = mmap.mmap(opened.fileno(), 4096)
    assert always_paths([os.getpid()], str(point)) == {"mapped"}
    memory.close()


def test_overlay_is_judged_by_its_upper_directory(tmp_path, tmpfs):
    with tmpfs(tmp_path / "mem") as memory:
        for base in (memory, tmp_path):
            for name in ("lower", "upper", "work", "merged,\\ x"):
                (base / name).mkdir()
            options = ",".join(f"{key}dir={base}/{key}" for key in ("lower", "upper", "work"))
            point = str(base / "merged,\\ x")
            if subprocess.run(["mount", "-t", "overlay", "-o", options, "none", point], check=False).returncode:
                pytest.skip("no overlay")
            try:
                fd = os.open(point, os.O_RDONLY)
                upper = os.open(base / "upper", os.O_RDONLY)
                assert times_tell(fd, mounts()) == times_tell(upper, mounts())
                _check_mapping_on_overlay(base / "merged,\\ x")
                os.close(fd)
                os.close(upper)
            finally:
                subprocess.run(["umount", point], check=True)
