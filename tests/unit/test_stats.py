"""CRIU's stats-dump, byte by byte."""

from __future__ import annotations

import struct

import pytest

from reberth.node.criu.stats import read_dump_stats

MAGIC = struct.pack("<II", 0x57093306, 0x57093306)


def varint(value: int) -> bytes:
    out = b""
    while value > 0x7F:
        out, value = out + bytes([value & 0x7F | 0x80]), value >> 7
    return out + bytes([value])


def stats(*fields: tuple[int, int], key: int = 0x0A) -> bytes:
    inner = b"".join(varint(number << 3) + varint(value) for number, value in fields)
    record = bytes([key]) + varint(len(inner)) + inner
    return MAGIC + struct.pack("<I", len(record)) + record


def read(tmp_path, data: bytes):
    (tmp_path / "stats-dump").write_bytes(data)
    return read_dump_stats(str(tmp_path / "stats-dump"))


def test_counters_and_times(tmp_path):
    found = read(tmp_path, stats((1, 900), (2, 123456), (3, 5), (4, 6), (5, 26381), (6, 25242), (7, 1064), (8, 1)))
    assert found["freezing_us"] == 900
    assert found["frozen_us"] == 123456
    assert (found["pages_scanned"], found["pages_skipped_parent"], found["pages_written"]) == (26381, 25242, 1064)
    assert "pages_lazy" not in found


def test_shared_memory_is_added(tmp_path):
    found = read(tmp_path, stats((5, 10), (6, 4), (7, 6), (9, 2), (12, 100), (13, 40), (14, 60)))
    assert (found["pages_scanned"], found["pages_skipped_parent"], found["pages_written"]) == (110, 44, 66)
    assert found["pages_lazy"] == 2
    assert not any(name.startswith("sh") for name in found)


def test_large_values_and_what_follows_the_record(tmp_path):
    found = read(tmp_path, stats((2, 2**40), (7, 2**33 + 1)) + b"\xff" * 50)
    assert (found["frozen_us"], found["pages_written"]) == (2**40, 2**33 + 1)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        MAGIC,
        MAGIC + b"\x05\0\0\0",
        stats((2, 5), key=0x12),
        stats((2, 5))[:-1],
        b"\xff" * 40,
        MAGIC + b"\x02\0\0\0\x0a\x09",
    ],
)
def test_what_makes_no_sense_has_no_counters(tmp_path, data):
    assert read(tmp_path, data) == {}


def test_a_field_that_is_no_number_has_no_counters(tmp_path):
    inner = bytes([2 << 3 | 2]) + varint(1) + b"x"
    record = b"\x0a" + varint(len(inner)) + inner
    assert read(tmp_path, MAGIC + struct.pack("<I", len(record)) + record) == {}


def test_without_the_file_there_are_none(tmp_path):
    assert read_dump_stats(str(tmp_path / "none")) == {}
