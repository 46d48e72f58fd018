"""Send a tree: all of it, or what changed since the snapshot that an earlier pass left in memory.

The first pass runs beside the workload, so anything may change at any moment: what is gone is skipped, what changes
while it is read is marked, and the next pass looks at it again. Whether something changed is decided by content, here.
"""

from __future__ import annotations

import copy
import os
import re
import time
from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Optional, Union

from reberth.node.tree.directories import Dirs, split
from reberth.node.tree.hash import HashLane
from reberth.node.tree.metadata import BLOCK, CHAR, DIR, FILE, SYMLINK, read_xattrs, to_header
from reberth.node.tree.mounts import below, mounts, times_tell
from reberth.node.tree.read import pump
from reberth.node.tree.snapshot import Snapshot, digest_of_sent, manifest_of
from reberth.node.tree.walk import Entry, Inode, open_file, read_special, scan, state_of
from reberth.node.tree.wire import (
    OnProgress,
    ShouldStop,
    TreeError,
    TreeStoppedError,
    Writer,
    check_stop,
    from_os_error,
    raw,
    text,
)

if TYPE_CHECKING:
    from reberth.node.tree.compression import Packer
    from reberth.node.tree.presend import Matcher

__all__ = ["Snapshot", "TreeError", "TreeStoppedError", "digest_of_sent", "manifest_of", "send_tree"]

FLAT_NAME = re.compile(rb"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


def send_tree(
    root: str,
    out_fd: int,
    *,
    previous: Optional[Snapshot] = None,
    always: Collection[Union[str, Inode]] = frozenset(),
    all_candidates: Optional[bool] = None,
    cross_mounts: bool = False,
    flat: bool = False,
    matchers: Optional[dict[str, Optional[Matcher]]] = None,
    packer: Optional[Packer] = None,
    on_progress: OnProgress = None,
    should_stop: ShouldStop = None,
) -> Snapshot:
    """Send the tree below `root` into `out_fd` and answer the snapshot for the next pass; TreeError names the culprit.

    `always`: relative paths or (device, inode) pairs to compare whatever their times say. Give what is mapped or open
    for writing to *each* pass: a page that is dirty when a pass reads it may be written again without a new mtime.
    `all_candidates`: compare every file; None asks the file system. `flat`: only the regular files of an image
    directory. `matchers`: by file name, what finds pieces that the receiver has already. `packer` makes data
    smaller. `on_progress` gets the bytes of data and the entries done, `should_stop` is asked at least per chunk.
    """
    writer = Writer(out_fd, should_stop, packer)
    job: Optional[_Pass] = None
    try:
        with Dirs(root) as dirs, HashLane() as lane:
            job = _Pass(dirs, lane, writer, previous, always)
            job.on_progress, job.should_stop, job.flat = on_progress, should_stop, flat
            job.matchers = matchers or {}
            table = mounts()
            job.all = not times_tell(dirs.root_fd, table) if all_candidates is None else all_candidates
            return job.run(frozenset() if cross_mounts else below(root, table), cross_mounts)
    except OSError as error:
        raise from_os_error(error, text(job.at) if job else root) from error
    except TreeError as error:
        error.name = error.name or text(job.at if job else b"")
        raise
    finally:
        writer.close()


class _Pass:
    """One run of `send_tree`."""

    on_progress: OnProgress = None
    should_stop: ShouldStop = None
    flat = False
    all = True
    matchers: Mapping[str, Optional[Matcher]] = {}

    def __init__(
        self,
        dirs: Dirs,
        lane: HashLane,
        writer: Writer,
        previous: Optional[Snapshot],
        always: Collection[Union[str, Inode]],
    ) -> None:
        self.dirs, self.lane, self.writer = dirs, lane, writer
        self.always = {raw(item) if isinstance(item, str) else item for item in always}
        self.since_ns = time.time_ns()
        self.now: dict[bytes, Entry] = {}
        self.out = Snapshot(full=previous is None)
        self.claims: dict[int, Inode] = {}  # which inode here each inode of the target stands for
        self.at = b""
        self.done = 0
        if previous is not None:
            self.out.entries.update(previous.entries)
            self.out.next_place = previous.next_place

    def run(self, points: frozenset[bytes], cross: bool) -> Snapshot:
        """The whole pass, in the order that the receiver relies on: deletions, directories, the rest."""
        known = self.out.entries
        self.now, self.out.skipped_mounts = scan(self.dirs, self.since_ns, points, cross, known, self.should_stop)
        self.writer.record({"t": "begin", "full": self.out.full})
        if self.flat:
            self.now = {path: entry for path, entry in self.now.items() if _fits_flat(path, entry)}
        paths = sorted(self.now)
        self._deletions()
        for path in paths:
            if self.now[path].kind == DIR:
                self._name(path)
                self._special(path, self.now[path])
        for names in self._groups(paths):
            self._group(names)
        out = self.out
        self.writer.record(
            {"t": "end", "records": self.writer.records, "files": len(out.sent), "bytes": out.bytes_sent}
        )
        self.writer.flush()
        out.records, out.stream_bytes, out.files_sent = self.writer.records, self.writer.stream_bytes, len(out.sent)
        return out

    def _deletions(self) -> None:
        """Delete what is gone or has become another kind of thing; with a directory goes all below it."""
        gone: set[bytes] = set()
        for path in sorted(self.out.entries):
            new = self.now.get(path)
            if split(path)[0] in gone and path:
                gone.add(path)
            elif new is None or new.kind != self.out.entries[path].kind:
                gone.add(path)
                self.writer.record({"t": "x", "n": text(path)})
        for path in gone:
            del self.out.entries[path]
        self.out.deleted = len(gone)

    def _groups(self, paths: list[bytes]) -> list[list[bytes]]:
        """Names by inode; first the one that the target already has as this inode, so that the others link to it."""
        groups: dict[Inode, list[bytes]] = {}
        found: list[list[bytes]] = []
        for path in paths:
            entry = self.now[path]
            if entry.kind == DIR:
                continue
            group = groups.setdefault(entry.inode, []) if entry.links > 1 else []
            if not group:
                found.append(group)
            group.append(path)
        for group in groups.values():
            group.sort(key=self._strangeness)
        return found

    def _strangeness(self, path: bytes) -> int:
        old = self.out.entries.get(path)
        return 2 if old is None else int(old.inode != self.now[path].inode)

    def _group(self, names: list[bytes]) -> None:
        leader: Optional[Entry] = None
        first = b""
        for path in names:
            self._name(path)
            entry = self.now[path]
            # The leader is as it was read; if another file took its name since the scan, this name is no link to it.
            if leader is not None and leader.inode == entry.inode and not self.flat:
                old = self.out.entries.get(path)
                if old is None or old.place != leader.place:
                    self.writer.record({"t": "l", "n": text(path), "to": text(first)})
                self.out.entries[path] = leader
                continue
            done = self._file(path, entry) if entry.kind == FILE else self._special(path, entry)
            if done is not None:
                leader, first = done, path

    def _special(self, path: bytes, entry: Entry) -> Optional[Entry]:
        """Everything but a regular file; None when it is gone."""
        if self._quiet(path, entry):
            return entry
        old = self._reusable(path, entry)
        if entry is old:
            entry = copy.copy(entry)
        if not read_special(self.dirs, path, entry):
            self._vanished(path)
            return None
        same = old is not None and (entry.content, entry.rdev) == (old.content, old.rdev)
        if old is not None and same:
            return self._compared(path, entry, old)
        header = self._header(entry.kind, path, entry)
        if entry.kind == SYMLINK:
            header["to"] = text(entry.content or b"")
        elif entry.kind in (CHAR, BLOCK):
            header["r"] = [os.major(entry.rdev), os.minor(entry.rdev)]
        self.writer.record(header)
        return self._placed(path, entry)

    def _file(self, path: bytes, entry: Entry) -> Optional[Entry]:
        """Return a regular file as it was when it was read; None when it is gone."""
        if self._quiet(path, entry):
            return entry
        fd = open_file(self.dirs, path)
        if fd < 0:
            self._vanished(path)
            return None
        try:
            entry = Entry(os.fstat(fd), self.since_ns)  # it may be newer than the scan
            entry.meta = entry.meta._replace(xattrs=read_xattrs(fd))
            return self._read(path, entry, self._reusable(path, entry), fd)
        finally:
            os.close(fd)

    def _read(self, path: bytes, entry: Entry, old: Optional[Entry], fd: int) -> Entry:
        sparse = entry.blocks * 512 < entry.size
        if old is not None and old.content is not None and old.size == entry.size:
            self.out.reread += 1
            length, entry.content = pump(fd, entry.size, sparse, self.lane, None, self._tick)
            if entry.content == old.content and length == entry.size:
                self._check_stable(path, entry, fd, length)
                return self._compared(path, entry, old)
        self.writer.record(dict(self._header(FILE, path, entry), s=entry.size))
        matcher = self.matchers.get(text(path))
        length, entry.content = pump(fd, entry.size, sparse, self.lane, self.writer, self._sent, matcher)
        unstable = not self._check_stable(path, entry, fd, length)
        entry.size = length
        self.writer.end_file(length, entry.content, unstable)
        self.out.sent[text(path)] = (length, entry.content.hex())
        return self._placed(path, entry)

    def _check_stable(self, path: bytes, entry: Entry, fd: int, length: int) -> bool:
        """Mark a file that changed while it was read."""
        if state_of(os.fstat(fd)) == entry.state and length == entry.size:
            return True
        entry.unsure = True
        self.out.unstable.append(text(path))
        return False

    def _reusable(self, path: bytes, entry: Entry) -> Optional[Entry]:
        """Return what the target has under this name, unless that inode already stands for another one of ours."""
        old = self.out.entries.get(path)
        if old is None or self.claims.get(old.place, entry.inode) != entry.inode:
            return None
        return old

    def _watched(self, path: bytes, entry: Entry) -> bool:
        return path in self.always or entry.inode in self.always

    def _quiet(self, path: bytes, entry: Entry) -> bool:
        """Tell whether nothing can have changed and the target has it, as an inode that stands for no other one
        of ours.
        """
        if self.all or entry is not self.out.entries.get(path) or self._watched(path, entry):
            return False
        return self.claims.setdefault(entry.place, entry.inode) == entry.inode

    def _compared(self, path: bytes, entry: Entry, old: Entry) -> Entry:
        """The content is the same: only the metadata goes, and only if it differs."""
        if not entry.same_meta(old):
            is_dir = entry.kind == DIR  # its own record does no more than that
            self.writer.record(dict(self._header(DIR if is_dir else "m", path, entry), k=entry.kind))
        return self._claim(path, entry, old.place)

    def _placed(self, path: bytes, entry: Entry) -> Entry:
        """It was sent whole and is a new inode there."""
        self.out.next_place += 1
        return self._claim(path, entry, self.out.next_place)

    def _claim(self, path: bytes, entry: Entry, place: int) -> Entry:
        entry.place = place
        entry.unsure |= self._watched(path, entry)
        self.claims[place] = entry.inode
        self.out.entries[path] = entry
        return entry

    def _vanished(self, path: bytes) -> None:
        """Gone since the scan; if the target has something there, the next pass replaces it whatever it is."""
        self.out.unstable.append(text(path))
        if path in self.out.entries:
            ghost = copy.copy(self.out.entries[path])  # links share an entry
            ghost.kind, ghost.unsure = "", True
            self.out.entries[path] = ghost

    def _header(self, kind: str, path: bytes, entry: Entry) -> dict[str, Any]:
        return {"t": kind, "n": text(path), **to_header(entry.meta)}

    def _name(self, path: bytes) -> None:
        self.at = path
        self.done += 1
        self._tick(0)

    def _sent(self, count: int) -> None:
        self.out.bytes_sent += count
        self._tick(count)

    def _tick(self, _: int) -> None:
        check_stop(self.should_stop)
        if self.on_progress is not None:
            self.on_progress(self.out.bytes_sent, self.done)


def _fits_flat(path: bytes, entry: Entry) -> bool:
    """Tell whether it is a file of an image directory; other kinds (the `parent` link, sockets) stay here."""
    if entry.kind != FILE:
        return False
    if not FLAT_NAME.fullmatch(path):
        raise TreeError("no name for an image file", text(path))
    return True
