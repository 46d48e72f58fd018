"""Files that a tree writes where they lie: open for writing, or mapped shared from a descriptor that may write.

They do not travel with a process tree, nor with a container when they lie outside its bundle. So the copy may only run
where the target's file of that name holds the same: size and times are no proof, as a store of fixed size is written
in place, and a write through a mapping changes no time. Content is compared while the tree stands still.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import itertools
import os
import re
import stat
import threading
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Callable, NamedTuple, Optional

from reberth.node.errors import OpError
from reberth.node.runs.run import boot_id
from reberth.node.survey.objects import NAMELESS, NETWORK_FILESYSTEMS
from reberth.node.system import procs

_SHARED = re.compile(rb"^([0-9a-f]+-[0-9a-f]+) ..[-x]s \S+ \S+ [1-9]")
BLOCK_BYTES = 1 << 20
_ZEROS = bytes(BLOCK_BYTES)
# Filesystems without a content of their own: what a file there says is the node's affair.
_STATELESS = ("proc", "sysfs", "cgroup", "debugfs", "tracefs", "securityfs", "pstore", "bpf", "configfs", "devpts")
MOST_NAMED = 3
DELETED, LINK_REMAP, MOST_ENTRIES = " (deleted)", "link_remap.", 100_000
REMEDY = (
    "files that a workload has open for writing do not travel with it: let both nodes see them on storage that they "
    "share, or run it as a container (runc) with these files in its bundle, which travels"
)


class Written(NamedTuple):
    """One file: its name as the tree's processes see it, a way to it through /proc, and what stat(2) said.

    A file that is open by a name that was `deleted`, while it has another, is told by that one.
    """

    path: str
    through: str
    found: os.stat_result
    network: bool  # on a filesystem that two nodes may share
    deleted: str = ""


def written(pids: Collection[int]) -> list[Written]:
    """Return each such file of these processes once; one that goes meanwhile counts for nothing."""
    files: dict[tuple[int, int], Written] = {}
    kinds: dict[str, str] = {}
    for pid in pids:
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):
            for through in (*_descriptors(pid), *_mappings(pid)):
                with contextlib.suppress(FileNotFoundError):
                    _add(through, pid, files, kinds)
    return sorted(files.values())


def _add(through: str, pid: int, files: dict[tuple[int, int], Written], kinds: dict[str, str]) -> None:
    path = procs.link(through)
    if not path.startswith("/") or path.startswith(NAMELESS):
        return
    deleted = path.removesuffix(DELETED) if path.endswith(DELETED) else ""
    # The link's own mode tells how it is open (proc(5)).
    if not deleted and not os.lstat(through).st_mode & stat.S_IWUSR:
        return
    found = os.stat(through)
    key = (found.st_dev, found.st_ino)
    if not stat.S_ISREG(found.st_mode):
        return
    if key in files:  # it may be open by both names
        files[key] = files[key]._replace(deleted=files[key].deleted or deleted)
        return
    path = other_name(deleted, pid, found) if deleted else path
    if not path:
        return
    if not kinds:
        kinds.update(_filesystems(pid))
    kind = kinds.get(f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}", "")
    if not kind.startswith(_STATELESS):
        files[key] = Written(path, through, found, kind.startswith(NETWORK_FILESYSTEMS), deleted)


def other_name(deleted: str, pid: int, found: os.stat_result) -> str:
    """Return another name of a file in the folder of its deleted one, as glibc leaves a semaphore's; empty for none."""
    folder = os.path.dirname(deleted)
    if found.st_nlink:
        with contextlib.suppress(OSError), os.scandir(f"/proc/{pid}/root{folder}") as entries:
            for entry in itertools.islice(entries, MOST_ENTRIES):
                if entry.inode() == found.st_ino and not entry.name.startswith(LINK_REMAP):
                    there = entry.stat(follow_symlinks=False)
                    if (there.st_dev, there.st_ino) == (found.st_dev, found.st_ino):
                        return os.path.join(folder, entry.name)
    return ""


def link_remaps(one: Written) -> list[str]:
    """Return the names that CRIU has given a file by `--link-remap`, in the folder of its deleted name."""
    folder = os.path.dirname(one.deleted)
    names = []
    with os.scandir(f"/proc/{one.through.split('/')[2]}/root{folder}") as entries:
        for entry in entries:
            if entry.name.startswith(LINK_REMAP) and entry.inode() == one.found.st_ino:
                names.append(os.path.join(folder, entry.name))
    return names


def _descriptors(pid: int) -> Iterator[str]:
    folder = f"/proc/{pid}/fd"
    return (f"{folder}/{name}" for name in os.listdir(folder))


def _mappings(pid: int) -> Iterator[str]:
    with open(f"/proc/{pid}/maps", "rb") as lines:
        for match in filter(None, map(_SHARED.match, lines)):  # a line at a time: all of them may be 250 MiB
            first, last = match.group(1).decode().split("-")
            yield f"/proc/{pid}/map_files/{int(first, 16):x}-{int(last, 16):x}"


def _filesystems(pid: int | str) -> dict[str, str]:
    """Return the type of each filesystem that a process sees, by its device."""
    found = {}
    with open(f"/proc/{pid}/mountinfo", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            words = line.split()
            found[words[2]] = words[words.index("-") + 1]
    return found


def digest(fd: int, sparse: bool = True) -> str:
    """Return the SHA-256 of a file's content: of its blocks that are not all zeros, each with its place.

    With `sparse`, holes are not read; this moves the position of `fd` (lseek(2) with SEEK_DATA sets it).
    """
    sha, size = hashlib.sha256(), os.fstat(fd).st_size
    sha.update(b"%d" % size)
    at = _data(fd, 0, size) if sparse else 0
    while at < size:
        block = os.pread(fd, BLOCK_BYTES, at)
        if not block:
            break
        if block != _ZEROS[: len(block)]:
            sha.update(b"@%d:" % at)
            sha.update(block)
        at += BLOCK_BYTES
        at = _data(fd, at, size) if sparse else at
    return sha.hexdigest()


def _data(fd: int, at: int, size: int) -> int:
    """Return the start of the first block from here on that is not all hole, `size` when there is none."""
    try:
        return os.lseek(fd, at, os.SEEK_DATA) // BLOCK_BYTES * BLOCK_BYTES
    except OSError as error:  # ENXIO: nothing follows but a hole; else a filesystem that does not know holes
        return size if error.errno == errno.ENXIO else at


def lend(one: Written) -> tuple[int, bool]:
    """Open a file of the tree for reading; return the descriptor, and whether its position is ours to move.

    A copy of the tree's own descriptor breaks no lease, but it shares its position with the tree. So a file with holes
    is opened anew, unless a lease lies on it: then holes are read as zeros.
    """
    words = one.through.split("/")
    flags = os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC
    if words[3] != "fd" or not os.lstat(one.through).st_mode & stat.S_IRUSR:
        return os.open(one.through, flags), True
    fd = procs.copy_of(int(words[2]), int(words[4]))
    if one.found.st_blocks * 512 >= one.found.st_size or fcntl.fcntl(fd, fcntl.F_GETLEASE) != fcntl.F_UNLCK:
        return fd, False
    try:
        return os.open(f"/proc/self/fd/{fd}", flags), True
    finally:
        os.close(fd)


def identity(one: Written) -> dict[str, Any]:
    """Return which file it is: `boot_id` of its kernel, `dev` and `ino`."""
    return {"boot_id": boot_id(), "dev": one.found.st_dev, "ino": one.found.st_ino}


def _read(one: Written) -> str:
    """Return the digest of a file of the tree."""
    fd, movable = lend(one)
    try:
        return digest(fd, movable)
    finally:
        os.close(fd)


def content(pids: Collection[int], places: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what the target compares: name there, size, identity and digest of each file of a tree that stands still.

    `places` maps the beginning of a name here to that on the target; an empty one: what lies there travels.
    Raises OpError `files` for one that cannot be read.
    """
    answer = []
    for one in written(pids):
        path = _there(one.path, places)
        if path:
            try:
                sha = _read(one)
            except OSError as error:
                raise OpError("files", f"{one.path!a} cannot be read: {error.strerror}") from error
            size = one.found.st_size
            answer.append({"path": path, "size": size, "sha256": sha, "network": one.network, **identity(one)})
    return answer


def _there(path: str, places: Mapping[str, str]) -> str:
    fitting = [here for here in places if here == "/" or path == here or path.startswith(here + "/")]
    if not fitting:
        return ""
    longest = max(fitting, key=len)
    return places[longest].rstrip("/") + path[len(longest.rstrip("/")) :] if places[longest] else ""


def differences(files: list[dict[str, Any]]) -> list[str]:
    """Return those of the source's files that this node has not with the same content, in words."""
    kinds = _filesystems("self") if files else {}
    return [f"{one['path']!a} {problem}" for one in files if (problem := _differs(one, kinds))]


def _differs(one: dict[str, Any], kinds: Mapping[str, str]) -> str:
    try:
        fd = os.open(one["path"], os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode):
            return "is no regular file there"
        kind = kinds.get(f"{os.major(found.st_dev)}:{os.minor(found.st_dev)}", "")
        shared = one["network"] and kind.startswith(NETWORK_FILESYSTEMS)
        same_node = one["boot_id"] == boot_id() and one["dev"] == found.st_dev
        if one["ino"] == found.st_ino and (shared or same_node):
            return ""  # one file, whatever it holds: this node may not have read what the other has written last
        if found.st_size != one["size"]:
            return f"has {found.st_size} bytes there, {one['size']} on the source"
        return "" if digest(fd) == one["sha256"] else "has another content there"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    finally:
        os.close(fd)


def check(files: list[dict[str, Any]]) -> None:
    """Raise OpError `files` when any of them differs here."""
    found = differences(files)
    if found:
        more = f", and {len(found) - MOST_NAMED} more" if len(found) > MOST_NAMED else ""
        raise OpError("files", f"open for writing: {'; '.join(found[:MOST_NAMED])}{more}", hint=REMEDY)


class Beside:
    """Something that is done in a thread while a tool works; `result` waits for it and raises what it raised."""

    def __init__(self, work: Callable[[], Any]) -> None:
        self._answer: Any = None
        self._error: Optional[BaseException] = None

        def run() -> None:
            try:
                self._answer = work()
            except BaseException as error:
                self._error = error

        self._thread = threading.Thread(target=run, daemon=True)
        self._thread.start()

    def result(self) -> Any:
        """Return what it came to."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return self._answer
