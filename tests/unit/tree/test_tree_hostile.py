"""A stream that is damaged, cut or made to do harm ends in TreeError and leaves nothing outside the root."""

from __future__ import annotations

import hashlib
import os
import random
import struct
import zlib
from pathlib import Path

import pytest

from reberth.node.tree.wire import MAGIC, MAX_HEADER_BYTES, TreeError

META = {"m": 0o755, "u": os.getuid(), "g": os.getgid(), "mt": 5, "at": 5}
ROOT = {"t": "d", "n": "", **META}
CONTENT = [("data", (memoryview(b"evil"),)), ("end_file", (4, hashlib.sha256(b"evil").digest(), False))]


def _file(name, **more):
    return [{"t": "f", "n": name, **META, **more}, *CONTENT]


def _refused(forge, replay, target, *parts, **options):
    with pytest.raises(TreeError) as caught:
        replay(forge(*parts), target, **options)
    return caught.value


@pytest.fixture
def outside(tmp_path, target):
    """A directory beside the root with one file; both must stay as they are."""
    place = tmp_path / "outside"
    place.mkdir()
    (place / "victim").write_bytes(b"safe")
    target.mkdir()
    before = [(path.name, path.lstat()) for path in (place, place / "victim")]
    yield place
    assert (place / "victim").read_bytes() == b"safe" and os.listdir(place) == ["victim"]
    for (_, old), path in zip(before, (place, place / "victim"), strict=True):
        now = path.lstat()
        assert (old.st_mode, old.st_mtime_ns, old.st_ctime_ns) == (now.st_mode, now.st_mtime_ns, now.st_ctime_ns)


def test_forged_stream_is_otherwise_good(forge, replay, target):
    parts = [ROOT, *_file("f"), {"t": "end", "records": 3, "files": 1, "bytes": 4}]
    replay(forge(*parts), target)
    assert (target / "f").read_bytes() == b"evil"


NAMES = ["..", ".", "../x", "/etc/x", "a/../b", "a//b", "a/", "/", "x\0y", "n" * 256, "./x", "d/.."]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", ["f", "d", "s", "p", "l", "m", "x"])
def test_bad_names(forge, replay, target, outside, name, kind):
    record = {"t": kind, "n": name, "to": "d", "k": "f", **META}
    _refused(forge, replay, target, ROOT, {"t": "d", "n": "d", **META}, record, *CONTENT)
    assert sorted(path.name for path in target.iterdir()) in ([], ["d"])


@pytest.mark.parametrize("to", ["../outside/victim", "/etc/passwd", "", ".", 5, None])
def test_bad_hard_link(forge, replay, target, outside, to):
    _refused(forge, replay, target, ROOT, {"t": "l", "n": "x", "to": to})


@pytest.mark.parametrize("to", ["../outside", "OUTSIDE"])
def test_nothing_goes_through_a_symlink(forge, replay, target, outside, to):
    link = {"t": "s", "n": "l", "to": to.replace("OUTSIDE", str(outside)), **META}
    for part in (
        _file("l/victim"),
        [{"t": "d", "n": "l/new", **META}],
        [{"t": "l", "n": "y", "to": "l/victim"}],
        [{"t": "m", "n": "l/victim", "k": "f", **META}],
        [{"t": "s", "n": "l/new", "to": "x", **META}],
    ):
        _refused(forge, replay, target, ROOT, link, *part)
        (target / "l").unlink()
    # Links and metadata of the link itself never reach what it points to.
    end = {"t": "end", "records": 4, "files": 0, "bytes": 0}
    replay(forge(ROOT, link, {"t": "l", "n": "y", "to": "l"}, end), target)
    assert (target / "y").is_symlink()


@pytest.mark.parametrize("kind", ["f", "s", "d"])
def test_second_pass_through_the_symlink_of_the_first(forge, replay, target, outside, kind):
    (target / "l").symlink_to(outside / "victim")
    (target / "dir").symlink_to(outside)
    begin = {"t": "begin", "full": False}
    bad = [{"t": "m", "n": "l", "k": kind, **META, "m": 0o666}, {"t": "m", "n": "dir/victim", "k": "f", **META}]
    bad += [{"t": "x", "n": "dir/victim"}]
    for record in bad:
        if kind == "s" and record["n"] == "l":
            continue
        with pytest.raises(TreeError):
            replay(forge(begin, record, begin=False), target, expect_empty=False)
    good = [begin, *_file("l"), {"t": "d", "n": "dir", **META}, {"t": "end", "records": 3, "files": 1, "bytes": 4}]
    replay(forge(*good, begin=False), target, expect_empty=False)
    assert not (target / "l").is_symlink() and not (target / "dir").is_symlink()


def test_removal_does_not_leave_the_root(forge, replay, target, outside):
    (target / "d" / "e").mkdir(parents=True)
    (target / "d" / "e" / "link").symlink_to(outside)
    begin = {"t": "begin", "full": False}
    replay(
        forge(begin, {"t": "x", "n": "d"}, {"t": "end", "records": 2, "files": 0, "bytes": 0}, begin=False),
        target,
        expect_empty=False,
    )
    assert list(target.iterdir()) == []


def test_names_used_again(forge, replay, target):
    (target / "d").mkdir(parents=True)
    (target / "x").touch()
    os.link(target / "x", target / "y")
    os.mkfifo(target / "fifo")
    begin, end = {"t": "begin", "full": False}, {"t": "end", "records": 5, "files": 1, "bytes": 4}
    parts = [{"t": "x", "n": "d"}, {"t": "d", "n": "d", **META}, *_file("d/f"), {"t": "l", "n": "y", "to": "x"}, end]
    replay(forge(begin, *parts, begin=False), target, expect_empty=False)
    assert sorted(path.name for path in target.rglob("*")) == ["d", "f", "fifo", "x", "y"]
    with pytest.raises(TreeError, match="another kind"):
        replay(forge(begin, {"t": "m", "n": "fifo", "k": "f", **META}, begin=False), target, expect_empty=False)


def test_order_and_duplicates(forge, replay, target):
    again = [ROOT, *_file("f"), *_file("f")]
    assert "twice" in str(_refused(forge, replay, target, *again))
    (target / "f").unlink()
    assert "place" in str(_refused(forge, replay, target, ROOT, *_file("f"), {"t": "x", "n": "f"}))


@pytest.mark.parametrize(
    "change",
    [
        {"m": 0o10000},
        {"m": -1},
        {"m": "7"},
        {"m": True},
        {"u": 1 << 32},
        {"u": (1 << 32) - 1},
        {"mt": 1 << 63},
        {"mt": 1.5},
        {"at": None},
        {"x": []},
        {"x": {"security.selinux": "eA=="}},
        {"x": {"trusted.overlay.opaque": "eQ=="}},
        {"x": {"user.x": "***"}},
        {"x": {"user.x": 1}},
        {"t": "w"},
        {"t": "c", "r": [1]},
        {"t": "c", "r": [1, -1]},
        {"t": "s", "to": ""},
        {"t": "s", "to": "x" * 4096},
        {"t": "s", "to": "a\0b"},
        {"t": "m", "k": "?"},
        {"t": "m", "k": []},
        {"n": 5},
        {"n": None},
    ],
)
def test_bad_values(forge, replay, target, change):
    _refused(forge, replay, target, ROOT, {**_file("f")[0], **change}, *CONTENT)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    "pieces",
    [
        [("_piece", (ord("D"), 0))],
        [("_piece", (ord("D"), (1 << 20) + 1))],
        [("hole", (0,))],
        [("hole", ((1 << 64) - 1,))],
        [("hole", (1 << 62,)), ("hole", (1 << 62,))],
        [("_piece", (ord("?"), 4))],
        [CONTENT[0], ("end_file", (5, CONTENT[1][1][1], False))],
        [CONTENT[0], ("end_file", (4, b"\0" * 32, False))],
    ],
)
def test_bad_pieces(forge, replay, target, pieces):
    _refused(forge, replay, target, ROOT, _file("f")[0], *pieces)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("name", ["-x", ".x", "a/b", "a b", "x" * 129, "a\n", "\xe9"])
def test_flat_names(forge, replay, target, name):
    _refused(forge, replay, target, *_file(name), flat=True)
    assert list(target.iterdir()) == []


@pytest.mark.parametrize("kind", ["d", "s", "p", "k", "c", "b", "l", "m", "x"])
def test_flat_takes_files_only(forge, replay, target, kind):
    record = {"t": kind, "n": "x", "to": "y", "k": "f", "r": [1, 3], **META}
    _refused(forge, replay, target, *_file("y"), record, flat=True)
    assert sorted(path.name for path in target.iterdir()) == ["y"]


def test_flat_never_replaces(forge, replay, target, outside):
    (target / "x").symlink_to(outside / "victim")
    _refused(forge, replay, target, *_file("x"), flat=True, expect_empty=False)
    assert [path.name for path in target.iterdir()] == ["x"]


def test_bounds(forge, replay, target):
    _refused(forge, replay, target, ROOT, *_file("f"), max_bytes=3)
    _refused(forge, replay, target, ROOT, *_file("f"), max_entries=1)
    assert list(target.iterdir()) == []
    (target / "old").touch()
    assert "not empty" in str(_refused(forge, replay, target, ROOT))


def _frame(body: bytes) -> bytes:
    size = struct.pack(">I", len(body))
    return size + struct.pack(">I", zlib.crc32(size + body)) + body


@pytest.mark.parametrize(
    "frame",
    [
        struct.pack(">II", MAX_HEADER_BYTES + 1, 0),
        struct.pack(">II", (1 << 32) - 1, 0),
        _frame(b""),
        _frame(b"[]"),
        _frame(b"{}"),
        _frame(b'{"t":5}'),
        _frame(b"[" * 60000),
        _frame(b'{"t":"f","n":' + b"9" * 60000 + b"}"),
        _frame(b'{"t":"f","n":NaN}'),
        _frame(b'{"t":"f","n":"\\ud800"}'),
        _frame(b'{"t":"f","n":"' + b"x" * 70000 + b'"}'),
        _frame(b'{"t":"begin","full":true}'),
    ],
)
def test_bad_headers(replay, forge, target, frame):
    with pytest.raises(TreeError):
        replay(forge() + frame, target)
    with pytest.raises(TreeError):
        replay(MAGIC + frame, target)


@pytest.mark.parametrize("start", [b"", b"RBTREE", b"RBTREE\0\1", b"ustar\0\0\0\0\0\0"])
def test_bad_magic(replay, target, start):
    with pytest.raises(TreeError):
        replay(start, target)


@pytest.fixture
def sample(source, record):
    """A small stream with one of each, and the right contents of its files."""
    (source / "d").mkdir()
    (source / "d" / "f").write_bytes(b"some data")
    os.truncate(source / "d" / "f", 40960)
    (source / "g").write_bytes(b"")
    os.link(source / "d" / "f", source / "h")
    (source / "l").symlink_to("g")
    os.setxattr(source / "g", "user.x", b"value")
    files = {name: (source / name).read_bytes() for name in ("d/f", "g", "h")}
    return record(source), files


def _check_whole(target: Path, files: dict[str, bytes]) -> None:
    """What has a final name is complete, and no temporary file is left."""
    for path in target.rglob("*"):
        assert not path.name.startswith(".reberth-")
        if path.is_file() and not path.is_symlink():
            assert path.read_bytes() == files[str(path.relative_to(target))]


@pytest.mark.slow
def test_cut_at_every_byte(sample, replay, tmp_path):
    stream, files = sample
    for end in range(0, len(stream), 1 if len(stream) < 1500 else 7):
        target = tmp_path / f"t{end}"
        with pytest.raises(TreeError):
            replay(stream[:end], target)
        _check_whole(target, files)


@pytest.mark.slow
def test_one_flipped_bit_at_every_byte(sample, replay, tmp_path):
    stream, files = sample
    rng = random.Random(7)
    for at in range(len(stream)):
        if b"\0" * 64 in stream[max(0, at - 32) : at + 33]:
            continue  # inside the 4 KiB block around the data, where each byte is like the other
        target = tmp_path / f"t{at}"
        damaged = bytearray(stream)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(TreeError):
            replay(bytes(damaged), target)
        _check_whole(target, files)


def test_flips_in_large_data(source, record, replay, tmp_path):
    (source / "f").write_bytes(os.urandom(3 << 20))
    stream = record(source)
    rng = random.Random(11)
    for turn in range(12):
        damaged = bytearray(stream)
        damaged[rng.randrange(len(stream))] ^= 1 << rng.randrange(8)
        with pytest.raises(TreeError):
            replay(bytes(damaged), tmp_path / f"t{turn}")
        assert not (tmp_path / f"t{turn}" / "f").exists()


def test_error_names_the_file(sample, replay, target):
    stream, _ = sample
    with pytest.raises(TreeError) as caught:
        replay(stream[: stream.index(b"some data") + 4], target)
    assert caught.value.name == "d/f"


def test_lost_record_is_found(sample, replay, target):
    stream, _ = sample
    start = stream.index(b'{"t":"s"') - 8
    (length,) = struct.unpack(">I", stream[start : start + 4])
    with pytest.raises(TreeError, match="records"):
        replay(stream[:start] + stream[start + 8 + length :], target)
