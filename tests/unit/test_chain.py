"""The rounds' images as one: which pages become lazy, where each lies, and what is refused."""

from __future__ import annotations

import os
import struct

import pytest

from reberth.node.criu import parents
from reberth.node.criu.pagemap import PE_LAZY, PE_PARENT, PE_PRESENT, Extent, extents, lazy_pages, pack
from reberth.node.errors import OpError

PAGE = 4096
BASE, FILE = 0x7F0000000000, 0x400000
MAGIC = b"\x01\x02\x03\x04\x05\x06\x07\x08"
ANON = PE_LAZY | PE_PRESENT


def content(round_: int, address: int) -> bytes:
    return struct.pack("<QQ", round_, address) * (PAGE // 16)


def write(directory, round_, entries, pid=5, old=False):
    """One round: entries are (first page's address, pages, flags)."""
    directory.mkdir(exist_ok=True)
    if round_:
        (directory / "parent").symlink_to(f"../round-{round_ - 1}")
    parts, pages = [{1: round_ + 1}], b""
    for address, count, flags in entries:
        fields = {1: address, 2: count, 4: flags}
        parts.append(fields if old else {**fields, 5: count})
        if flags & PE_PRESENT:
            pages += b"".join(content(round_, address + i * PAGE) for i in range(count))
    data = b"".join(struct.pack("<I", len(pack(one))) + pack(one) for one in parts)
    (directory / f"pagemap-{pid}.img").write_bytes(MAGIC + data)
    (directory / f"pages-{round_ + 1}.img").write_bytes(pages)


def at(local, address, pid=5):
    found = local.find(pid, address)
    return (os.pread(found[0], PAGE, found[1]), found[2]) if found else None


@pytest.fixture
def rounds(tmp_path):
    """Ten pages and two of a file; then two written; then one written, one new, and the rest as before."""
    write(tmp_path / "round-0", 0, [(FILE, 2, PE_PRESENT), (BASE, 10, ANON)])
    entries = [(FILE, 2, PE_PARENT), (BASE, 3, PE_PARENT), (BASE + 3 * PAGE, 2, ANON), (BASE + 5 * PAGE, 5, PE_PARENT)]
    write(tmp_path / "round-1", 1, entries)
    return tmp_path


def final(rounds, flags, **how):
    of_files = [(FILE, 2, PE_PARENT), (FILE + 2 * PAGE, 3, PE_PRESENT)]
    entries = [*of_files, (BASE, 4, PE_PARENT), (BASE + 4 * PAGE, 1, flags), (BASE + 5 * PAGE, 5, PE_PARENT)]
    write(rounds / "round-2", 2, [*entries, (BASE + 20 * PAGE, 1, flags)], **how)
    return rounds / "round-2"


@pytest.mark.parametrize("old", [False, True])
def test_each_page_is_found_in_the_round_that_wrote_it_last(rounds, old):
    directory = final(rounds, ANON, old=old)
    local = parents.join(str(directory))
    expected = {0: 0, 1: 0, 2: 0, 3: 1, 4: 2, 5: 0, 9: 0, 20: 2}
    for number, round_ in expected.items():
        address = BASE + number * PAGE
        assert at(local, address)[0] == content(round_, address), number
    assert at(local, BASE + 10 * PAGE) is None
    assert at(local, FILE) is None, "pages of a file are not lazy: CRIU reads them itself"
    assert at(local, BASE, pid=6) is None
    assert at(local, BASE + PAGE)[1] == 2
    found = list(extents(str(directory / "pagemap-5.img")))
    written_in_a_row = [Extent(BASE, 10, PE_LAZY), Extent(BASE + 20 * PAGE, 1, PE_LAZY)]
    assert found == [Extent(FILE, 2, PE_PARENT), Extent(FILE + 2 * PAGE, 3, PE_PRESENT), *written_in_a_row]
    assert lazy_pages(str(directory)) == {5: 11}
    stay = b"".join(content(2, FILE + i * PAGE) for i in range(2, 5))
    assert (directory / "pages-3.img").read_bytes() == stay, "CRIU counts the pages that are there"
    assert sorted(os.listdir(directory)) == ["pagemap-5.img", "pages-3.img", "parent"]
    opened = list(local.files)
    assert opened and all(os.path.exists(f"/proc/self/fd/{fd}") for fd in opened)
    local.close()
    assert not any(os.path.exists(f"/proc/self/fd/{fd}") for fd in opened)
    assert at(local, BASE) is None


def test_what_the_source_keeps_is_not_here(rounds):
    directory = final(rounds, PE_LAZY)
    local = parents.join(str(directory))
    assert at(local, BASE + 4 * PAGE) is None and at(local, BASE + 20 * PAGE) is None
    assert at(local, BASE + 5 * PAGE)[1] == 5
    assert lazy_pages(str(directory)) == {5: 11}
    left = list(extents(str(directory / "pagemap-5.img")))
    assert Extent(BASE, 10, PE_LAZY) in left, "one run, wherever its pages lie"
    assert (directory / "pages-3.img").read_bytes()[:PAGE] == content(2, FILE + 2 * PAGE)
    local.close()


def test_images_without_rounds_stay_as_they_are(tmp_path):
    write(tmp_path / "one", 0, [(BASE, 4, PE_LAZY), (FILE, 1, PE_PRESENT)])
    before = (tmp_path / "one/pagemap-5.img").read_bytes()
    local = parents.join(str(tmp_path / "one"))
    assert (tmp_path / "one/pagemap-5.img").read_bytes() == before
    assert at(local, BASE) is None


def test_a_task_that_was_born_in_the_last_round(rounds):
    directory = final(rounds, ANON)
    write(directory, 0, [(BASE, 1, ANON)], pid=9)
    local = parents.join(str(directory))
    assert at(local, BASE, pid=9)[0] == content(0, BASE)
    local.close()


def test_rounds_that_were_read_before_give_the_same(rounds):
    """While the workload runs each round is read as it comes, so that the restore has to read the last one alone."""
    past = parents.Past()
    assert {pid: len(found.rounds) for pid, found in past.layers(str(rounds / "round-0")).items()} == {5: 1}
    past.learn(str(rounds / "round-1"))
    found = past.layers(str(rounds / "round-1"))[5]
    assert len(found.rounds) == 2 and [run[:2] for run in found.cover.runs] == [(BASE, 10)]
    read_before = len(past.files)
    directory = final(rounds, ANON)
    local = parents.join(str(directory), past)
    assert len(local.files) == read_before + 1 and not past.files
    expected = {0: 0, 3: 1, 4: 2, 9: 0}
    assert {number: at(local, BASE + number * PAGE)[0] for number in expected} == {
        number: content(round_, BASE + number * PAGE) for number, round_ in expected.items()
    }
    local.close()


def test_python_3_9_is_enough(rounds, monkeypatch):
    """Its bisect knows no `key`."""
    monkeypatch.setattr(parents.bisect, "bisect_right", lambda a, x, lo=0, hi=None: sum(one <= x for one in a))
    local = parents.join(str(final(rounds, ANON)))
    assert at(local, BASE + 4 * PAGE)[0] == content(2, BASE + 4 * PAGE)
    local.close()


def test_a_round_that_cannot_be_read_is_told_by_the_restore(rounds):
    past = parents.Past()
    (rounds / "round-0/pagemap-5.img").write_bytes(MAGIC + b"rubbish")
    past.learn(str(rounds / "round-1"))
    directory = final(rounds, ANON)
    with pytest.raises(OpError, match="cannot be read"):
        parents.join(str(directory), past)


@pytest.mark.parametrize("count", [11, 40])
def test_pages_that_no_round_has_are_refused(rounds, count):
    directory = rounds / "round-2"
    write(directory, 2, [(BASE, count, PE_PARENT)])
    before = (directory / "pagemap-5.img").read_bytes()
    with pytest.raises(OpError, match="no round has the page"):
        parents.join(str(directory))
    assert (directory / "pagemap-5.img").read_bytes() == before


def test_a_chain_without_its_first_round_is_refused(rounds):
    directory = final(rounds, ANON)
    (rounds / "round-0/pagemap-5.img").unlink()
    with pytest.raises(OpError, match="no round has the page"):
        parents.join(str(directory))
