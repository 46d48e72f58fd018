"""Whether a set of images has the pages that it promises: what is found before criu reads them, and what is fine."""

from __future__ import annotations

import os
import struct

import pytest

from reberth.node.criu.complete import lacking
from reberth.node.criu.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, pack
from reberth.node.errors import OpError

PAGE = os.sysconf("SC_PAGE_SIZE")
MAGIC = b"\x01\x02\x03\x04\x05\x06\x07\x08"
BASE = 0x7F0000000000


def write(directory, name, pages_id, runs):
    """A pagemap image of these (pages, flags), and as many pages in its pages image as CRIU would write."""
    directory.mkdir(exist_ok=True)
    parts = [{1: pages_id}, *({1: BASE, 2: count, 4: flags, 5: count} for count, flags in runs)]
    data = b"".join(struct.pack("<I", len(pack(one))) + pack(one) for one in parts)
    (directory / name).write_bytes(MAGIC + data)
    count = sum(count for count, flags in runs if flags & PE_PRESENT)
    (directory / f"pages-{pages_id}.img").write_bytes(bytes(count * PAGE))


@pytest.fixture
def final(tmp_path):
    """Three rounds of a process, the last one with a second process and with shared memory."""
    write(tmp_path / "001", "pagemap-1.img", 1, [(10, PE_PRESENT)])
    write(tmp_path / "003", "pagemap-1.img", 1, [(8, PE_PARENT), (2, PE_PRESENT)])
    write(tmp_path / "final", "pagemap-1.img", 1, [(9, PE_PARENT), (1, PE_PRESENT | PE_LAZY)])
    write(tmp_path / "final", "pagemap-7.img", 2, [(4, PE_LAZY)])
    write(tmp_path / "final", "pagemap-shmem-55.img", 3, [(3, PE_PRESENT)])
    (tmp_path / "003/parent").symlink_to("../001")
    (tmp_path / "final/parent").symlink_to("../003")
    return tmp_path / "final"


def test_whole_images_lack_nothing(final):
    assert lacking(str(final)) == ""
    (final / "pages-2.img").unlink()  # of which no page was promised
    assert lacking(str(final)) == ""


def test_images_of_a_criu_that_knew_no_flags(tmp_path):
    """Before 2.x an entry only said whether it is in the parent."""
    write(tmp_path, "pagemap-1.img", 1, [])
    parts = [{1: 1}, {1: BASE, 2: 2}, {1: BASE + 2 * PAGE, 2: 3, 3: 1}]
    data = b"".join(struct.pack("<I", len(pack(one))) + pack(one) for one in parts)
    (tmp_path / "pagemap-1.img").write_bytes(MAGIC + data)
    (tmp_path / "pages-1.img").write_bytes(bytes(2 * PAGE))
    assert lacking(str(tmp_path)) == ""


@pytest.mark.parametrize("name", ["pages-1.img", "pages-3.img"])
@pytest.mark.parametrize("change", [-1, -PAGE, PAGE])
def test_a_pages_image_of_another_length(final, name, change):
    path = final / name
    had = path.stat().st_size
    os.truncate(path, had + change)
    assert f"{name} has {had + change} bytes, and its pagemaps name {had}" in lacking(str(final))


@pytest.mark.parametrize("round_", ["001", "003"])
def test_an_image_of_an_earlier_round(final, round_):
    os.truncate(final.parent / round_ / "pages-1.img", PAGE // 2)
    said = lacking(str(final))
    assert f"pages-1.img has {PAGE // 2} bytes" in said and "before the last" in said


def test_an_image_that_is_gone(final):
    (final / "pages-3.img").unlink()
    assert "pages-3.img is missing" in lacking(str(final))


def test_a_pagemap_that_is_cut_off(final):
    os.truncate(final / "pagemap-7.img", 20)
    with pytest.raises(OpError, match=r"pagemap-7\.img cannot be read"):
        lacking(str(final))


def test_rounds_without_an_end(tmp_path):
    write(tmp_path / "001", "pagemap-1.img", 1, [(1, PE_PRESENT)])
    (tmp_path / "001/parent").symlink_to("../001")
    with pytest.raises(OpError, match="rounds"):
        lacking(str(tmp_path / "001"))
