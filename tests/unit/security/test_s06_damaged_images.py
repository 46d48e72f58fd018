"""S6: what arrives is what was sent, byte for byte, or criu never sees it: 112 damages of 16 images, and more."""

from __future__ import annotations

import os
import random
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest
from livekit.damage import DAMAGES, cases, damage_file

from reberth.archive import directory
from reberth.node.tree import receive as treerecv
from reberth.node.tree import send
from reberth_hooks import ReberthError, RefusedError, Tree
from reberth_hooks.ssh import carry_tree

IMAGES = (
    *("inventory", "core-1", "mm-1", "pagemap-1", "pages-1", "pstree", "files", "fdinfo-2", "fs-1", "ids-1", "seccomp"),
    *("creds-1", "sigacts-1", "timens-0", "tty-info", "cgroup"),
)


def write(folder: Path) -> None:
    folder.mkdir(parents=True)
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
    sent = send.send_tree(str(source), writer, flat=True)
    os.close(writer)
    thread.join(30)
    return send.digest_of_sent(sent), treerecv.digest_of(found["manifest"])


def carry(sent: str, got: str) -> str:
    """The transport's own verdict over the two digests; raises what stops the move."""
    answers = [
        {"digest": got, "warnings": []},
        {"digest": sent, "skipped_mounts": [], "bytes": 1, "files": 1, "seconds": 1.0},
    ]
    end = SimpleNamespace(begin=lambda *words, **more: None)
    move = SimpleNamespace(source=end, target=end, gather=lambda *both: answers, emit=lambda *words, **more: None)
    return carry_tree(move, Tree("images", "/from", "/into")).kind


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """The digest of the images as criu wrote them."""
    place = tmp_path_factory.mktemp("good")
    write(place / "source")
    here, there = cross(place / "source", place / "target")
    assert here == there
    return here


@pytest.mark.parametrize("image", IMAGES)
@pytest.mark.parametrize("damage", DAMAGES)
def test_s6_an_image_that_was_damaged_on_its_way_stops_the_move(tmp_path, good, image, damage):
    write(tmp_path / "source")
    damage_file(tmp_path / "source" / f"{image}.img", damage)
    _, there = cross(tmp_path / "source", tmp_path / "target")
    with pytest.raises(ReberthError) as caught:
        carry(good, there)
    assert "is not what left the source" in caught.value.message


def test_s6_undamaged_images_are_taken(tmp_path, good):
    write(tmp_path / "source")
    here, there = cross(tmp_path / "source", tmp_path / "target")
    assert here == there == good
    assert carry(here, there) == "images"


def test_s6_a_kept_image_that_was_damaged_is_refused_112_of_112(tmp_path):
    """Of a checkpoint, whose images lie about for longer: its document is sealed and names every byte."""
    place = tmp_path / "kept"
    write(place / "images")
    directory.write_signed(place, {"plan": {}})
    refused = 0
    for path, damage in cases(list((place / "images").iterdir())):
        assert directory.read_signed(place)["plan"] == {}  # the twin: whole, before each damage
        whole = damage_file(path, damage)
        with pytest.raises(RefusedError):
            directory.read_signed(place)
        whole()
        refused += 1
    assert refused == 112


@pytest.mark.parametrize("change", ["swapped", "added", "renamed"])
def test_s6_other_changes_are_seen_too(tmp_path, good, change):
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
def test_s6_only_regular_files_travel(tmp_path, good, kind):
    write(tmp_path / "source")
    path = tmp_path / "source" / "odd.img"
    {"link": lambda: path.symlink_to("/etc/passwd"), "folder": path.mkdir, "pipe": lambda: os.mkfifo(path)}[kind]()
    assert cross(tmp_path / "source", tmp_path / "target") == (good, good)
    assert not os.path.lexists(tmp_path / "target" / "odd.img")
