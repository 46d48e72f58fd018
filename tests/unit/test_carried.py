"""Files that travel with a process tree: sent twice, staged beside their paths, named, put back."""

from __future__ import annotations

import os
import threading

import pytest

from reberth.node.operations import carried
from reberth.node.runs.run import boot_id
from reberth.node.tree import aside
from reberth.node.tree.arrive import Arrivals
from reberth.node.tree.carry import BLOCK_BYTES, Item, Sender
from reberth.node.tree.receive import Manifest, digest_of
from reberth.node.tree.snapshot import digest
from reberth.node.tree.wire import TreeError


def there(*paths, size: int = 1, **identity) -> list[dict[str, str]]:
    """What the target says of these files."""
    return carried.files_there(None, None, [{"path": str(path), "size": size, **identity} for path in paths])


HANDLERS = {"files_back": aside.put_back, "files_drop": aside.drop, "folder_remove": aside.remove_folder}


class World:
    """A source and a target in one folder: a path of the source is the same path below `there`."""

    def __init__(self, tmp_path) -> None:
        self.here, self.there = tmp_path / "here", tmp_path / "there"
        self.here.mkdir()
        self.there.mkdir()
        self.sender = Sender()
        self.undo: list[tuple[str, str, dict]] = []
        self.arrivals = Arrivals("7", "boot-there", lambda on, do, **data: self.undo.append((on, do, data)))

    def item(self, name: str, boot: str = "boot-here", as_there: bool = True) -> Item:
        path = self.here / name
        found = path.stat()
        place = self.there / name if as_there else path
        return Item(str(place), lambda: (os.open(path, os.O_RDONLY), True), (boot, found.st_dev, found.st_ino))

    def carry(self, *items: Item, delta: bool = False, folders=(), links=()) -> tuple[Manifest, int]:
        read_fd, write_fd = os.pipe()
        sent: list = []

        def send() -> None:
            try:
                sent.append(self.sender.send(items, folders, write_fd, delta=delta, links=links))
            finally:
                os.close(write_fd)

        thread = threading.Thread(target=send)
        thread.start()
        try:
            manifest = self.arrivals.receive(read_fd, delta, None, None)
        finally:
            os.close(read_fd)
            thread.join()
        assert digest_of(manifest) == digest(sent[0].files)
        return manifest, sent[0].bytes

    def do(self, occasion: str) -> None:
        for on, do, data in reversed(self.undo):
            if on == occasion:
                HANDLERS[do](data)

    def names(self) -> list[str]:
        return sorted(str(p.relative_to(self.there)) for p in self.there.rglob("*"))


@pytest.fixture
def world(tmp_path) -> World:
    return World(tmp_path)


def test_a_log_that_grew_is_there_in_full_with_mode_and_times(world):
    log = world.here / "log"
    log.write_bytes(os.urandom(5 * BLOCK_BYTES + 77))
    log.chmod(0o640)
    first = world.carry(world.item("log"))[1]
    assert world.names() == [".reberth-7-0"]
    with log.open("ab") as file:
        file.write(b"more")
    os.utime(log, ns=(5, 1_234_567_891))
    second = world.carry(world.item("log"), delta=True)[1]
    assert (world.there / "log").read_bytes() == log.read_bytes()
    found = (world.there / "log").stat()
    assert (found.st_mode & 0o7777, found.st_mtime_ns) == (0o640, 1_234_567_891)
    assert first == 5 * BLOCK_BYTES + 77 and second == 81  # the last, unfinished block alone
    world.do("commit")
    assert world.names() == ["log"]


def test_a_store_that_was_written_in_its_middle_sends_that_block(world):
    store = world.here / "store"
    store.write_bytes(os.urandom(40 * BLOCK_BYTES))
    world.carry(world.item("store"))
    with store.open("r+b") as file:
        file.seek(17 * BLOCK_BYTES + 5)
        file.write(b"record")
    assert world.carry(world.item("store"), delta=True)[1] == BLOCK_BYTES
    assert (world.there / "store").read_bytes() == store.read_bytes()


@pytest.mark.parametrize("size", [0, 1, BLOCK_BYTES, 3 * BLOCK_BYTES - 1, (1 << 20) + 3])
@pytest.mark.parametrize("then", [0, 1, BLOCK_BYTES, 2 * BLOCK_BYTES + 9, (2 << 20) + 1])
def test_any_size_becomes_any_other(world, size, then):
    path = world.here / "f"
    path.write_bytes(os.urandom(size))
    world.carry(world.item("f"))
    path.write_bytes(path.read_bytes()[: then // 2] + os.urandom(then - min(then // 2, size)))
    world.carry(world.item("f"), delta=True)
    assert (world.there / "f").read_bytes() == path.read_bytes()


def test_data_that_became_a_hole_and_a_hole_that_became_data(world):
    path = world.here / "sparse"
    data = os.urandom(BLOCK_BYTES)
    with path.open("wb") as file:
        file.write(data * 4)
        file.truncate(64 * BLOCK_BYTES)
    world.carry(world.item("sparse"))
    with path.open("wb") as file:
        file.truncate(64 * BLOCK_BYTES)
        file.seek(30 * BLOCK_BYTES)
        file.write(data)
    world.carry(world.item("sparse"), delta=True)
    there = world.there / "sparse"
    assert there.read_bytes() == path.read_bytes()
    assert there.stat().st_blocks * 512 < 8 * BLOCK_BYTES


def test_what_stood_there_comes_back_and_nothing_else_is_left(world):
    for name in ("old", "new"):
        (world.here / name).write_text("of the source")
    (world.there / "old").write_text("of the target")
    inode = (world.there / "old").stat().st_ino
    items = [world.item("old"), world.item("new")]
    world.carry(*items)
    world.carry(*items, delta=True)
    assert (world.there / "old").read_text() == (world.there / "new").read_text() == "of the source"
    for _ in range(2):  # a helper that was killed in between does it again
        world.do("abort")
        assert world.names() == ["old"]
        assert (world.there / "old").read_text() == "of the target" and (world.there / "old").stat().st_ino == inode


def test_after_the_move_what_was_kept_goes(world):
    (world.here / "f").write_text("of the source")
    (world.there / "f").write_text("of the target")
    world.carry(world.item("f"))
    world.carry(world.item("f"), delta=True)
    assert len(world.names()) == 2
    world.do("commit")
    assert world.names() == ["f"] and (world.there / "f").read_text() == "of the source"


def test_a_run_that_ends_after_the_first_pass_leaves_nothing(world):
    (world.here / "f").write_text("x")
    world.carry(world.item("f"))
    world.do("abort")
    assert world.names() == []


def test_a_file_that_comes_up_at_the_freeze_travels_and_one_that_is_closed_by_then_goes(world):
    (world.here / "first").write_text("1")
    (world.here / "second").write_text("2")
    world.carry(world.item("first"))
    world.carry(world.item("second"), delta=True)
    assert (world.there / "second").read_text() == "2" and not (world.there / "first").exists()
    world.do("commit")
    assert world.names() == ["second"]


def test_folders_are_made_as_they_are_and_go_again(world):
    deep = world.here / "a" / "b"
    deep.mkdir(parents=True)
    deep.chmod(0o750)
    (deep / "f").write_text("x")
    os.symlink(world.here, world.there / "link")
    folders = [str(world.there / "a"), str(world.there / "a" / "b")]
    (world.there / "a").mkdir()  # for the sender, which reads them at the same path
    (world.there / "a" / "b").mkdir(mode=0o750)
    read_fd, write_fd = os.pipe()
    world.sender.send([world.item("a/b/f")], folders, write_fd, delta=False)
    (world.there / "a" / "b").rmdir()
    (world.there / "a").rmdir()
    world.arrivals.receive(read_fd, False, None, None)
    os.close(read_fd)
    os.close(write_fd)
    assert (world.there / "a" / "b").stat().st_mode & 0o777 == 0o750
    world.do("abort")
    assert world.names() == ["link"]


def test_nothing_is_written_through_a_symbolic_link(world, tmp_path):
    (world.here / "d").mkdir()
    (world.here / "d" / "f").write_text("x")
    outside = tmp_path / "outside"
    outside.mkdir()
    (world.there / "d").symlink_to(outside)
    with pytest.raises(TreeError, match="symbolic link"):
        world.carry(world.item("d/f"))
    (world.there / "d").unlink()
    (world.there / "d").mkdir()
    (world.there / "d" / "f").symlink_to(outside / "f")
    with pytest.raises(TreeError, match="no regular file"):
        world.carry(world.item("d/f"))
    assert list(outside.iterdir()) == []


def test_to_put_back_follows_no_link_that_came_since(world, tmp_path):
    """The folder's owner swaps it for a link: root must not rename files where that leads."""
    (world.here / "d").mkdir()
    (world.there / "d").mkdir()
    (world.here / "d" / "shadow").write_text("x")
    (world.there / "d" / "shadow").write_text("old")
    world.carry(world.item("d/shadow"))
    world.carry(world.item("d/shadow"), delta=True)
    outside = tmp_path / "etc"
    outside.mkdir()
    (outside / "shadow").write_text("secret")
    (outside / ".reberth-7-0.old").write_text("planted")
    (world.there / "d").rename(world.there / "moved")
    (world.there / "d").symlink_to(outside)
    with pytest.raises(OSError):
        world.do("abort")
    assert (outside / "shadow").read_text() == "secret"


def test_a_further_name_is_one_of_the_same_file_and_goes_again(world):
    (world.here / "f").write_text("x")
    item = world.item("f")
    world.carry(item)
    world.carry(item, delta=True, links=[(str(world.there / "link_remap.3"), item.path)])
    assert (world.there / "link_remap.3").stat().st_ino == (world.there / "f").stat().st_ino
    world.do("abort")
    assert world.names() == []


def test_a_further_name_of_what_did_not_come_is_refused(world):
    (world.here / "f").write_text("x")
    world.carry(world.item("f"))
    with pytest.raises(TreeError, match="did not come"):
        world.carry(world.item("f"), delta=True, links=[(str(world.there / "l"), "/etc/passwd")])


def test_one_file_that_both_nodes_see_stays_as_it_is(world):
    path = world.here / "f"
    path.write_bytes(os.urandom(3 * BLOCK_BYTES))
    inode = path.stat().st_ino
    for delta in (False, True):
        world.carry(world.item("f", boot="boot-there", as_there=False), delta=delta)
    assert path.stat().st_ino == inode and world.undo == []


def test_a_staged_file_that_was_swapped_is_not_taken(world):
    (world.here / "f").write_text("x")
    world.carry(world.item("f"))
    (world.there / ".reberth-7-0").unlink()
    (world.there / ".reberth-7-0").write_text("of somebody else")
    with pytest.raises(TreeError, match="somebody has changed"):
        world.carry(world.item("f"), delta=True)
    assert not (world.there / "f").exists()


def test_the_target_says_what_it_cannot_take_and_what_would_give_way(tmp_path):
    (tmp_path / "old").write_text("x")
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    (tmp_path / "pipe").symlink_to(tmp_path / "old")
    assert there(tmp_path / "new", tmp_path / "missing" / "too") == []
    assert there(tmp_path / "old", size=2) == [{"path": str(tmp_path / "old"), "problem": ""}]
    assert there(tmp_path / "old", size=1) == []
    (found,) = there(tmp_path / "folder")
    assert "no regular file" in found["problem"]
    (found,) = there(tmp_path / "link" / "f")
    assert "symbolic link" in found["problem"]
    (found,) = there(tmp_path / "new", size=1 << 60)
    assert "no space" in found["problem"]
    known = (tmp_path / "old").stat()
    assert there(tmp_path / "old", boot_id=boot_id(), dev=known.st_dev, ino=known.st_ino) == []


def test_a_file_that_is_written_on_the_target_is_not_replaced(tmp_path):
    with (tmp_path / "busy").open("w"):
        (found,) = there(tmp_path / "busy")
    assert f"({os.getpid()}) has it open there" in found["problem"]
