"""Trees that change while they are read, pipes that stall or break, disks that fill up; and random trees."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import random
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from reberth.node.tree import send, walk
from reberth.node.tree.hash import ContentHash, HashLane
from reberth.node.tree.receive import recv_tree
from reberth.node.tree.send import TreeError, TreeStoppedError, send_tree


@contextlib.contextmanager
def _beside(work):
    """Run `work(rng)` over and over in a thread."""
    over = threading.Event()

    def loop():
        rng = random.Random(3)
        while not over.is_set():
            with contextlib.suppress(OSError):
                work(rng)

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join(10)
        assert not thread.is_alive()


def test_file_that_grows(source, target, cross, picture):
    path = source / "log"
    path.write_bytes(b"x" * (3 << 20))

    def grow(_):
        with path.open("ab") as out:
            out.write(b"more" * 10000)

    with _beside(grow):
        time.sleep(0.01)
        first, manifest = cross(source, target, all_candidates=False)
    assert first.unstable == manifest.unstable
    cross(source, target, previous=first, all_candidates=False)
    assert picture(source) == picture(target)


def test_file_that_shrinks_in_the_middle(source, target, cross, picture):
    path = source / "f"
    path.write_bytes(b"x" * (8 << 20))
    cut = []

    def progress(done, _):
        if done >= 2 << 20 and not cut:
            cut.append(os.truncate(path, 3 << 20))

    first, manifest = cross(source, target, on_progress=progress, all_candidates=False)
    assert first.unstable == manifest.unstable == ["f"]
    assert first.sent["f"][0] == 3 << 20
    second, _ = cross(source, target, previous=first, all_candidates=False)
    assert picture(source) == picture(target) and second.unstable == []


def test_restless_tree_never_raises(source, target, cross, picture):
    def disturb(rng):
        one, two = (source / rng.choice("abc") / rng.choice("abc") for _ in range(2))
        turn = rng.randrange(7)
        one.parent.mkdir(exist_ok=True)
        if turn == 0:
            os.rename(one, two)
        elif turn == 1:
            # Non-blocking: the name may be a fifo, and nobody reads it.
            _write(os.fsencode(one), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, os.urandom(rng.randrange(300_000)))
        elif turn == 2:
            os.link(one, two)
        elif turn == 3:
            one.symlink_to("../x")
        elif turn == 4:
            os.mkfifo(one)
        elif turn == 5:
            shutil.rmtree(one.parent)
        else:
            one.unlink()

    snapshot = None
    with _beside(disturb):
        for _ in range(25):
            snapshot, _ = cross(source, target, previous=snapshot, all_candidates=False)
    snapshot, _ = cross(source, target, previous=snapshot, all_candidates=False)
    assert picture(source) == picture(target) and snapshot.unstable == []


def test_symlink_in_place_of_a_directory_leaks_nothing(source, target, tmp_path, cross, monkeypatch):
    """A workload swaps a directory for a link to the host's files between the look and the read."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "f").write_bytes(b"host")
    (source / "d").mkdir()
    (source / "d" / "f").write_bytes(b"own!")

    def scan_then_swap(*args):
        found = walk.scan(*args)
        args[0].forget(b"")
        shutil.rmtree(source / "d")
        (source / "d").symlink_to(secret)
        return found

    monkeypatch.setattr(send, "scan", scan_then_swap)
    snapshot, _ = cross(source, target)
    assert snapshot.sent == {} and snapshot.unstable == ["d", "d/f"]


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_stalled_peer_can_be_stopped(source, kind):
    (source / "f").write_bytes(b"x" * (8 << 20))
    if kind == "pipe":
        pair = os.pipe()
        out = pair[1]
    else:
        one, two = socket.socketpair()
        pair = (one.detach(), two.detach())
        out = pair[1]
    until = time.monotonic() + 0.2
    try:
        with pytest.raises(TreeStoppedError) as caught:
            send_tree(str(source), out, should_stop=lambda: time.monotonic() > until)
        assert caught.value.name == "f"
    finally:
        for fd in pair:
            os.close(fd)


def test_silent_sender_can_be_stopped(tmp_path):
    pair = os.pipe()
    until = time.monotonic() + 0.2
    try:
        with pytest.raises(TreeStoppedError):
            recv_tree(str(tmp_path / "t"), pair[0], should_stop=lambda: time.monotonic() > until)
    finally:
        for fd in pair:
            os.close(fd)


@pytest.mark.parametrize("kind", ["pipe", "socket"])
def test_peer_that_goes_away(source, kind):
    (source / "f").write_bytes(b"x" * (8 << 20))
    if kind == "pipe":
        there, out = os.pipe()
    else:
        one, two = socket.socketpair()
        there, out = one.detach(), two.detach()
    os.close(there)
    with pytest.raises(TreeError) as caught:
        send_tree(str(source), out)
    os.close(out)
    assert caught.value.errno == errno.EPIPE


def test_callers_descriptor_stays_blocking(source, target, cross):
    read_fd, write_fd = os.pipe()
    try:
        send_tree(str(source), write_fd)
        assert os.get_blocking(write_fd) and os.get_blocking(read_fd)
    finally:
        os.close(read_fd)
        os.close(write_fd)


def test_full_disk(source, tmp_path, tmpfs, cross):
    (source / "f").write_bytes(os.urandom(4 << 20))
    with tmpfs(tmp_path / "small", "1m") as small:
        with pytest.raises(TreeError) as caught:
            cross(source, small)
        assert caught.value.errno == errno.ENOSPC and caught.value.name == "f"
        assert list(small.iterdir()) == []


def test_missing_root(tmp_path):
    with tempfile.TemporaryFile() as out, pytest.raises(TreeError) as caught:
        send_tree(str(tmp_path / "none"), out.fileno())
    assert caught.value.errno == errno.ENOENT


def test_no_descriptor_or_thread_is_left(source, target, cross):
    (source / "f").write_bytes(b"x" * (2 << 20))
    threads = threading.active_count()
    before = sorted(os.listdir("/proc/self/fd"))
    cross(source, target)
    assert sorted(os.listdir("/proc/self/fd")) == before and threading.active_count() == threads


def test_progress_counts_up(source, target, cross):
    (source / "f").write_bytes(b"x" * (3 << 20))
    told = []
    cross(source, target, on_progress=lambda done, entries: told.append((done, entries)))
    assert told == sorted(told) and told[-1] == (3 << 20, 2)


@given(st.lists(st.one_of(st.integers(1, 1 << 20), st.integers(-(1 << 20), -1)), max_size=8))
@example([1 << 20, 1 << 20, 1 << 20, -5, 1 << 20])
@settings(max_examples=20, deadline=None)
def test_content_hash_is_sha256(parts):
    whole = hashlib.sha256()
    with HashLane() as lane:
        content = ContentHash(lane)
        for part in parts:
            if part < 0:
                content.hole(-part)
                whole.update(bytes(-part))
                continue
            slot = lane.slot()
            slot.view[:part] = os.urandom(part)
            whole.update(slot.view[:part])
            content.data(slot, part)
        assert content.digest() == whole.digest() and content.size == sum(map(abs, parts))


NAMES = [b"a", b"b", b"\xffc", b"-d", b"e\n"]
PATHS = [b"/".join(parts) for parts in ([x] for x in NAMES)] + [x + b"/" + y for x in NAMES[:3] for y in NAMES]
ACTS = st.tuples(
    st.sampled_from(
        ["write", "append", "poke", "mkdir", "symlink", "fifo", "link", "rename", "swap", "delete", "chmod", "utime"]
    ),
    st.sampled_from(PATHS),
    st.sampled_from(PATHS),
    st.integers(0, 3),
)


def _write(path: bytes, flags: int, data: bytes) -> None:
    fd = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK, 0o644)
    try:
        os.write(fd, data)
    finally:
        os.close(fd)


def _act(root: bytes, act: str, one: bytes, two: bytes, seed: int) -> None:
    one, two = root + b"/" + one, root + b"/" + two
    data = b"%d" % seed * (seed * 3000 + 1)
    with contextlib.suppress(OSError):
        if act in ("write", "append", "poke"):
            extra = {"write": os.O_CREAT | os.O_TRUNC, "append": os.O_APPEND, "poke": 0}[act]
            _write(one, os.O_WRONLY | extra, data)
        elif act == "delete":
            shutil.rmtree(one) if os.path.isdir(one) and not os.path.islink(one) else os.unlink(one)
        elif act == "swap":
            for here, there in ((one, root + b"/t"), (two, one), (root + b"/t", two)):
                os.rename(here, there)
        elif act == "utime":
            os.utime(one, ns=(seed, seed * 10**9 + 1), follow_symlinks=False)
        else:
            calls = {
                "mkdir": lambda: os.mkdir(one),
                "symlink": lambda: os.symlink(two, one),
                "fifo": lambda: os.mkfifo(one),
                "link": lambda: os.link(one, two, follow_symlinks=False),
                "rename": lambda: os.rename(one, two),
                "chmod": lambda: os.path.islink(one) or os.chmod(one, 0o700 + seed),
            }
            calls[act]()


@given(st.lists(st.lists(ACTS, max_size=14), min_size=2, max_size=4))
@settings(max_examples=70, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_trees_and_deltas(cross, picture, rounds):
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "s"), Path(folder, "t")
        source.mkdir()
        snapshot = None
        for acts in rounds:
            for act in acts:
                _act(os.fsencode(source), *act)
            snapshot, _ = cross(source, target, previous=snapshot, all_candidates=False)
            assert picture(source) == picture(target)
            assert snapshot.unstable == []
