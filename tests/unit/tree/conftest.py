"""Two directories, a pipe between them, and pictures of trees to compare."""

from __future__ import annotations

import contextlib
import hashlib
import os
import stat
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from reberth.node.tree import send
from reberth.node.tree import snapshot as treelist
from reberth.node.tree.metadata import travels
from reberth.node.tree.receive import Manifest, digest_of, recv_tree
from reberth.node.tree.send import Snapshot, send_tree
from reberth.node.tree.wire import Writer

OLD_NS = 1_600_000_000_123_456_789


def _names(root: bytes) -> Iterator[bytes]:
    yield b""
    for folder, dirs, files in os.walk(root):
        for name in dirs + files:
            yield os.path.relpath(os.path.join(folder, name), root)


def _content(path: bytes, st: os.stat_result) -> object:
    if stat.S_ISREG(st.st_mode):
        return st.st_size, hashlib.sha256(Path(os.fsdecode(path)).read_bytes()).hexdigest()
    return os.readlink(path) if stat.S_ISLNK(st.st_mode) else st.st_rdev


def take_picture(root: str | Path) -> dict[bytes, Any]:
    """Everything that must cross, by name; hard links as the least name of the same inode."""
    base = os.fsencode(root)
    stats = {name: os.lstat(os.path.join(base, name)) for name in sorted(_names(base))}
    first: dict[int, bytes] = {}
    found = {}
    for name, st in stats.items():
        path = os.path.join(base, name)
        xattrs = {
            key: os.getxattr(path, key, follow_symlinks=False)
            for key in os.listxattr(path, follow_symlinks=False)
            if travels(os.fsencode(key))
        }
        group = first.setdefault(st.st_ino, name)
        found[name] = (st.st_mode, st.st_uid, st.st_gid, st.st_mtime_ns, group, _content(path, st), xattrs)
    return found


def do_cross(source: str | Path, target: str | Path, **options: Any) -> tuple[Snapshot, Manifest]:
    """Send and receive at once; both lists must agree."""
    receiving = {
        key: options.pop(key) for key in ("expect_empty", "max_bytes", "max_entries", "should_stop") if key in options
    }
    receiving.setdefault("expect_empty", options.get("previous") is None)
    receiving["flat"] = options.get("flat", False)
    read_fd, write_fd = os.pipe()
    answer: list[Any] = []

    def receive() -> None:
        try:
            answer.append(recv_tree(str(target), read_fd, **receiving))
        except Exception as error:
            answer.append(error)
        finally:
            os.close(read_fd)

    thread = threading.Thread(target=receive)
    thread.start()
    failed: Exception | None = None
    try:
        snapshot = send_tree(str(source), write_fd, **options)
    except Exception as error:
        failed = error
    finally:
        os.close(write_fd)
        thread.join(60)
    if isinstance(answer[0], Exception):
        raise answer[0]
    if failed is not None:
        raise failed
    manifest: Manifest = answer[0]
    assert treelist.verify(send.manifest_of(snapshot), manifest.files) == []
    assert send.digest_of_sent(snapshot) == digest_of(manifest)
    return snapshot, manifest


def do_record(source: str | Path, **options: Any) -> bytes:
    """The stream as bytes."""
    with tempfile.TemporaryFile() as out:
        send_tree(str(source), out.fileno(), **options)
        out.seek(0)
        return out.read()


def do_replay(stream: bytes, target: str | Path, **options: Any) -> Manifest:
    """Receive these bytes."""
    with tempfile.TemporaryFile() as out:
        out.write(stream)
        out.seek(0)
        return recv_tree(str(target), out.fileno(), **options)


def do_forge(*parts: dict[str, Any] | tuple[str, Any], begin: bool = True) -> bytes:
    """A stream of these records and pieces, framed as it should be."""
    with tempfile.TemporaryFile() as out:
        writer = Writer(out.fileno())
        if begin:
            writer.record({"t": "begin", "full": True})
        for part in parts:
            if isinstance(part, dict):
                writer.record(part)
            else:
                getattr(writer, part[0])(*part[1])
        writer.flush()
        out.seek(0)
        return out.read()


@pytest.fixture(scope="session")
def picture() -> Callable[..., dict[bytes, Any]]:
    return take_picture


@pytest.fixture(scope="session")
def cross() -> Callable[..., tuple[Snapshot, Manifest]]:
    return do_cross


@pytest.fixture(scope="session")
def record() -> Callable[..., bytes]:
    return do_record


@pytest.fixture(scope="session")
def replay() -> Callable[..., Manifest]:
    return do_replay


@pytest.fixture(scope="session")
def forge() -> Callable[..., bytes]:
    return do_forge


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = tmp_path / "source"
    path.mkdir()
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    return tmp_path / "target"


@pytest.fixture(scope="session")
def tmpfs() -> Callable[..., Any]:
    """A context manager that mounts a small tmpfs, or skips where that is not allowed."""

    @contextlib.contextmanager
    def mounted(path: Path, size: str = "2m") -> Iterator[Path]:
        if os.geteuid() != 0:
            pytest.skip("mounting needs root")
        path.mkdir(exist_ok=True)
        done = subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(path)], check=False)
        if done.returncode:
            pytest.skip("no right to mount")
        try:
            yield path
        finally:
            subprocess.run(["umount", "-l", str(path)], check=True)

    return mounted


@pytest.fixture(scope="session")
def age() -> Callable[..., None]:
    """Put a file's mtime far into the past."""

    def aged(path: Path) -> None:
        os.utime(path, ns=(OLD_NS, OLD_NS), follow_symlinks=False)

    return aged
