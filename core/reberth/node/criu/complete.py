"""Whether images have the pages that they promise: CRIU's restorer reads a pages image that is cut short for ever.

Only lengths are compared, of each pages image with what the pagemaps name of it: that costs 3 us for each run of pages
(measured 2026-11-29). A round that looks back at an earlier one names its own pages only, and so does the earlier one.
"""

from __future__ import annotations

import os
import re

from reberth.node.criu.pagemap import COUNT, FLAGS, IN_PARENT, OLD_COUNT, PE_PARENT, PE_PRESENT, messages
from reberth.node.criu.parents import MOST_ROUNDS, PAGE_BYTES
from reberth.node.errors import OpError

PAGEMAP = re.compile(r"pagemap-(?:shmem-)?\d+\.img\Z")
PAGES_ID = 1  # of a pagemap's head
WHOLE = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def lacking(directory: str) -> str:
    """Return what is wrong with the pages of a dump or of the rounds before it, in words that name the image; empty:
    nothing.

    Raises OpError `images` for a pagemap that cannot be read, OSError for a directory that cannot.
    """
    at = os.open(directory, WHOLE)
    try:
        for back in range(MOST_ROUNDS):
            if said := _lacking(at):
                return f"{said} (of {back} before the last round)" if back else said
            try:  # each link is followed where it lies: a daemon may see another root than we do
                at, earlier = os.open("parent", WHOLE, dir_fd=at), at
            except FileNotFoundError:
                return ""
            os.close(earlier)
        raise OpError("images", f"{directory}: more than {MOST_ROUNDS} rounds")
    finally:
        os.close(at)


def _lacking(at: int) -> str:
    promised: dict[int, int] = {}
    for name in sorted(os.listdir(at)):
        if PAGEMAP.match(name):
            head, *runs = _messages(at, name)
            number = head.get(PAGES_ID, 0)
            promised[number] = promised.get(number, 0) + sum(map(_pages, runs))
    for number, pages in sorted(promised.items()):
        name = f"pages-{number}.img"
        try:
            found = os.stat(name, dir_fd=at).st_size
        except FileNotFoundError:
            if pages:
                return f"{name} is missing, and its pagemaps name {pages * PAGE_BYTES} bytes of it"
            continue
        if found != pages * PAGE_BYTES:
            return f"{name} has {found} bytes, and its pagemaps name {pages * PAGE_BYTES}"
    return ""


def _messages(at: int, name: str) -> list[dict[int, int]]:
    try:
        return messages(f"/proc/self/fd/{at}/{name}")
    except OpError as error:
        raise OpError("images", error.message.replace(f"/proc/self/fd/{at}/", "")) from error


def _pages(run: dict[int, int]) -> int:
    """Pages of a run that lie in the image, and neither in an earlier one nor at the source."""
    flags = run.get(FLAGS, PE_PARENT if run.get(IN_PARENT) else PE_PRESENT)
    return run.get(COUNT, run.get(OLD_COUNT, 0)) if flags & PE_PRESENT else 0
