"""S6: what arrives is what was sent, byte for byte, or criu never sees it: 112 damages of 16 images, and more."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path

import pytest

from reberth.node import treerecv, treesend

IMAGES = (
    *("inventory", "core-1", "mm-1", "pagemap-1", "pages-1", "pstree", "files", "fdinfo-2", "fs-1", "ids-1", "seccomp"),
    *("creds-1", "sigacts-1", "timens-0", "tty-info", "cgroup"),
)


def half(data: bytes) -> bytes:
    return data[: len(data) // 2]


def shorter(data: bytes) -> bytes:
    return data[:-1]


def flip(seed: int):
    def flipped(data: bytes) -> bytes:
        at = random.Random(seed).randrange(len(data))
        return data[:at] + bytes([data[at] ^ 1 << seed % 8]) + data[at + 1 :]

    flipped.__name__ = f"flip-{seed}"
    return flipped


DAMAGES = [lambda data: None, half, shorter, lambda data: b"", flip(1), flip(2), flip(3)]
NAMES = ["deleted", "half", "shorter", "empty", "flip-1", "flip-2", "flip-3"]


def write(folder: Path) -> None:
    folder.mkdir()
    for name in IMAGES:
        (folder / f"{name}.img").write_bytes(random.Random(name).randbytes(5000))


def cross(source: Path, target: Path) -> tuple[str, str]:
    """The digests of both ends, as the transport compares them before any restore."""
    reader, writer = os.pipe()
    found = {}

    def receive() -> None:
        try:
            found["manifest"] = treerecv.recv_tree(str(target), reader, flat=True)
        finally:
            os.close(reader)

    thread = threading.Thread(target=receive)
    thread.start()
    sent = treesend.send_tree(str(source), writer, flat=True)
    os.close(writer)
    thread.join(30)
    return treesend.digest_of_sent(sent), treerecv.digest_of(found["manifest"])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The digest of the images as criu wrote them."""
    place = tmp_path_factory.mktemp("good")
    write(place / "source")
    here, there = cross(place / "source", place / "target")
    assert here == there
    return here


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("damage", DAMAGES, ids=NAMES)
def test_a_damaged_image_has_another_digest(tmp_path, good, image, damage):
    write(tmp_path / "source")
    path = tmp_path / "source" / f"{image}.img"
    data = damage(path.read_bytes())
    if data is None:
        path.unlink()
    else:
        path.write_bytes(data)
    _, there = cross(tmp_path / "source", tmp_path / "target")
    assert there != good


def test_there_are_112():
    assert len(IMAGES) * len(DAMAGES) == 112


def test_undamaged_images_have_the_same_one(tmp_path, good):
    write(tmp_path / "source")
    assert cross(tmp_path / "source", tmp_path / "target") == (good, good)


@pytest.mark.parametrize("change", ["swapped", "added", "renamed"])
def test_other_changes_are_seen_too(tmp_path, good, change):
    write(tmp_path / "source")
    source = tmp_path / "source"
    if change == "swapped":
        one, two = source / "core-1.img", source / "mm-1.img"
        first, second = one.read_bytes(), two.read_bytes()
        one.write_bytes(second)
        two.write_bytes(first)
    elif change == "added":
        (source / "extra.img").write_bytes(b"x")
    else:
        (source / "core-1.img").rename(source / "core-2.img")
    assert cross(source, tmp_path / "target")[1] != good


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_only_regular_files_travel(tmp_path, good, kind):
    write(tmp_path / "source")
    path = tmp_path / "source" / "odd.img"
    {"link": lambda: path.symlink_to("/etc/passwd"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    assert cross(tmp_path / "source", tmp_path / "target") == (good, good)
    assert not os.path.lexists(tmp_path / "target" / "odd.img")
