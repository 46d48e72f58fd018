"""Data that is made smaller on its way: the same tree arrives, damage is found, nothing becomes larger than it may."""

from __future__ import annotations

import os
import random
import zlib

import pytest

from reberth.node.errors import OpError
from reberth.node.tree import compression
from reberth.node.tree.compression import Packer, Unpacker
from reberth.node.tree.wire import CHUNK_BYTES, PACKED_ZLIB, PACKED_ZSTD, TreeError

METHODS = [
    pytest.param("zstd", marks=pytest.mark.skipif("zstd" not in compression.known(), reason="no libzstd.so.1 here")),
    "zlib",
]
KINDS = {"zstd": PACKED_ZSTD, "zlib": PACKED_ZLIB}
META = {"m": 0o644, "u": os.getuid(), "g": os.getgid(), "mt": 5, "at": 5}


def few_symbols(size: int) -> bytes:
    """Two bits in each byte."""
    return random.Random(3).randbytes(size).translate(bytes(b"abcd"[value % 4] for value in range(256)))


def packed(method: str, data: bytes) -> bytes:
    found = Packer(method)(memoryview(bytearray(data)))
    assert found is not None and found[0] == KINDS[method]
    return bytes(found[1])


@pytest.fixture
def files(source):
    """Of all sizes, of which some gain nothing."""
    found = {
        "large": few_symbols((3 << 20) + 17),
        "random": os.urandom(2 << 20),
        "small": b"few",
        "page": few_symbols(4096),
        "mixed": few_symbols(1 << 20) + os.urandom(1 << 20) + few_symbols(1 << 20),
    }
    for name, data in found.items():
        (source / name).write_bytes(data)
    return found


@pytest.mark.parametrize("method", METHODS)
def test_a_tree_arrives_as_it_is_and_takes_less(cross, source, target, files, method):
    packer = Packer(method)
    snapshot, manifest = cross(source, target, packer=packer, flat=True)
    assert {name: (target / name).read_bytes() for name in files} == files
    assert snapshot.bytes_sent == manifest.bytes_received == packer.raw_bytes == sum(map(len, files.values()))
    assert packer.wire_bytes < 0.75 * packer.raw_bytes
    assert packer.wire_bytes < snapshot.stream_bytes < packer.wire_bytes + 4096


def test_the_method_can_change_with_each_piece(cross, source, target, files):
    packer, words = Packer(), iter(["zlib", "none", compression.known()[0]] * 9)
    cross(source, target, packer=packer, on_progress=lambda *_: packer.use(next(words, "none")))
    assert {name: (target / name).read_bytes() for name in files} == files
    assert packer.wire_bytes < packer.raw_bytes


@pytest.mark.parametrize("method", METHODS)
def test_what_gains_nothing_is_tried_less_and_less_often(mocker, method):
    packer, tried = Packer(method), 0
    noise, text = (memoryview(bytearray(data)) for data in (os.urandom(1 << 16), few_symbols(1 << 16)))
    spy = mocker.spy(compression.zlib, "compress") if method == "zlib" else mocker.spy(packer, "_zstd")
    for _ in range(64):
        assert packer(noise) is None
    tried = spy.call_count
    assert 4 <= tried <= 8
    assert any(packer(text) for _ in range(compression.MOST_SKIPPED + 1)), "it is never given up for good"
    assert packer(text) is not None


def test_a_method_that_is_not_here_is_refused(mocker):
    mocker.patch.object(compression, "_library", autospec=True, return_value=None)
    assert compression.known() == ("zlib",)
    for word in ("zstd", "gzip", "/bin/sh", ""):
        with pytest.raises(OpError, match="cannot compress"):
            Packer(word)
    with pytest.raises(TreeError, match="no libzstd"):
        Unpacker()(PACKED_ZSTD, b"x" * 100, memoryview(bytearray(200)))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [-1, 1])
def test_a_piece_is_as_large_as_it_says(method, size):
    data = few_symbols(1 << 16)
    room = bytearray(len(data) + size + 64)
    view = memoryview(room)[: len(data) + size]
    with pytest.raises(TreeError, match="does not unpack"):
        Unpacker()(KINDS[method], packed(method, data), view)
    assert not any(room[len(data) + size :])


@pytest.mark.parametrize("method", METHODS)
def test_a_bomb_is_bounded_by_its_buffer(method, mocker):
    """64 MiB of zeros in a piece that says it is 4 KiB."""
    if method == "zlib":
        job = zlib.compressobj(1)
        bomb = b"".join(job.compress(bytes(CHUNK_BYTES)) for _ in range(64)) + job.flush()
        given = mocker.spy(compression.zlib, "decompressobj")
        with pytest.raises(TreeError):
            Unpacker()(PACKED_ZLIB, bomb, memoryview(bytearray(4096)))
        assert given.call_count == 1
        assert len(zlib.decompressobj().decompress(bomb, 4097)) == 4097  # no more than that was made
    else:
        bomb = packed("zstd", bytes(CHUNK_BYTES)) * 64
        with pytest.raises(TreeError):
            Unpacker()(PACKED_ZSTD, bomb, memoryview(bytearray(4096)))


def piece(method, size, data, kind=None):
    """The calls of a writer that make one piece that says it becomes `size` bytes."""
    head = ("_piece", (kind or KINDS[method], len(data)))
    return [head, ("_put", (size.to_bytes(4, "big"),)), ("_put", (data,))]


@pytest.mark.parametrize("size", [0, 1, CHUNK_BYTES + 1, 0xFFFFFFFF])
def test_a_size_out_of_bounds_is_refused_before_anything_is_unpacked(forge, replay, target, mocker, size):
    unpack = mocker.patch.object(Unpacker, "__call__", autospec=True)
    parts = [{"t": "d", "n": "", **META}, {"t": "f", "n": "f", **META}, *piece("zlib", size, zlib.compress(b"x" * 300))]
    with pytest.raises(TreeError, match="bad piece"):
        replay(forge(*parts), target)
    assert not unpack.called


def test_the_whole_is_bounded_too(forge, replay, target, mocker):
    unpack = mocker.patch.object(Unpacker, "__call__", autospec=True)
    parts = [{"t": "d", "n": "", **META}, {"t": "f", "n": "f", **META}]
    parts += piece("zlib", CHUNK_BYTES, zlib.compress(bytes(CHUNK_BYTES)))
    with pytest.raises(TreeError, match="more than 4096 bytes"):
        replay(forge(*parts), target, max_bytes=4096)
    assert not unpack.called


@pytest.mark.parametrize("method", METHODS)
def test_one_flipped_bit_anywhere_is_found(source, record, replay, tmp_path, method):
    (source / "f").write_bytes(few_symbols(6000))
    stream = record(source, packer=Packer(method))
    assert len(stream) < 3000
    rng = random.Random(5)
    for at in sorted({*rng.sample(range(len(stream)), 60), *range(90, 130)}):  # there the piece begins
        damaged = bytearray(stream)
        damaged[at] ^= 1 << rng.randrange(8)
        with pytest.raises(TreeError):
            replay(bytes(damaged), tmp_path / f"t{at}")
        arrived = tmp_path / f"t{at}" / "f"  # complete before what was damaged, or not there
        assert not arrived.exists() or arrived.read_bytes() == (source / "f").read_bytes()
