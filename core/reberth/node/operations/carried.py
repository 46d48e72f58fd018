"""Files that travel with a process tree: what it writes where it lies, once while it runs and once under the freeze."""

from __future__ import annotations

import contextlib
import errno
import functools
import os
import stat
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from reberth.node.errors import OpError
from reberth.node.net import ipc, unix
from reberth.node.operations.context import cost, data_pipe, source_of, target_of
from reberth.node.runs.run import boot_id
from reberth.node.survey.written import DELETED, Written, lend, link_remaps, written
from reberth.node.system import procs
from reberth.node.tree.aside import rel
from reberth.node.tree.directories import Dirs, split
from reberth.node.tree.progress import Teller
from reberth.node.tree.wire import TreeError, text

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon
    from reberth.node.tree.carry import Item

DELTA = "files-delta"
KINDS = ("files", DELTA)
MOST_FILES = 2000


def files_ready(daemon: Daemon, progress: Any) -> bool:
    """Return true: this end is a node, with files of its own (a checkpoint's directory has none)."""
    return True


def files_there(daemon: Daemon, progress: Any, files: list[dict[str, Any]]) -> list[dict[str, str]]:
    """Return the files (`path`, `size`) that cannot be carried to this node, each with its `problem`.

    Those that would take the place of a file of another size here are told as well, with an empty `problem`. One of the
    same size is most likely the user's own copy.
    """
    problems: list[dict[str, str]] = []
    need_bytes: dict[int, int] = {}
    users = _users({str(one["path"]) for one in files})
    with Dirs("/") as dirs:
        for one in files:
            path = str(one["path"])
            problem, place, found = _there(dirs, rel(path))
            if found is not None and _is_same(one, found):
                continue
            if not problem and path in users:
                problem = f"{users[path]} has it open there"
            if place is not None and not problem:
                need_bytes[place[0]] = need_bytes.get(place[0], 0) + int(one["size"])
                if need_bytes[place[0]] > place[1]:
                    problem = f"there is no space for it there ({place[1] >> 20} MiB are free)"
            if problem or (found is not None and found.st_size != one["size"]):
                problems.append({"path": path, "problem": problem})
    return problems


def _is_same(one: dict[str, Any], found: os.stat_result) -> bool:
    """Tell whether the file here is the source's own: both nodes see one filesystem of one kernel."""
    return bool((one.get("boot_id"), one.get("dev"), one.get("ino")) == (boot_id(), found.st_dev, found.st_ino))


def _there(dirs: Dirs, path: bytes) -> tuple[str, tuple[int, int] | None, os.stat_result | None]:
    """Return what is wrong with a path, device and free bytes of its filesystem, and what stands there."""
    parent, name = split(path)
    found, missing = None, False
    try:
        with contextlib.suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=dirs.fd(parent), follow_symlinks=False)
        while True:
            try:
                fd = dirs.fd(parent)
                break
            except FileNotFoundError:
                missing, parent = True, split(parent)[0]
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.ENOTDIR):
            return "its path leads there through a symbolic link, or through a file", None, None
        return str(error.strerror), None, None
    if found is not None and not stat.S_ISREG(found.st_mode):
        return "what has its name there is no regular file", None, found
    space = os.fstatvfs(fd)
    if not missing and space.f_flag & os.ST_RDONLY:
        return "its filesystem is read-only there", None, found
    return "", (os.fstat(fd).st_dev, space.f_bavail * space.f_frsize), found


def _users(paths: set[str]) -> dict[str, str]:
    """Return a process of this node that has such a path open for writing, by the path."""
    found: dict[str, str] = {}
    for task, name, path in ipc.Others(frozenset(), set()).links() if paths else ():
        with contextlib.suppress(OSError):
            if path in paths and os.lstat(f"/proc/{task.pid}/fd/{name}").st_mode & stat.S_IWUSR:
                found[path] = f"{task.comm} ({task.pid})"
    return found


def files_send(daemon: Daemon, progress: Callable[..., None], pids: list[int], delta: bool) -> dict[str, Any]:
    """Send what these trees have open for writing, or mapped shared and writable, and the folders they stand in."""
    from reberth.node.tree.carry import Sender
    from reberth.node.tree.snapshot import digest

    _, out_fd = data_pipe(daemon)
    sender = daemon.files_sender = daemon.files_sender or Sender()
    tasks = {task.pid for pid in pids for task in procs.tree(pid)}
    found = [one for one in written(tasks) if not one.network]
    if len(found) > MOST_FILES:
        words = f"the workload writes {len(found)} files, and no more than {MOST_FILES} travel with it"
        raise OpError("files", words, hint="close some of them in the workload")
    items = [_item(one) for one in found]
    links: list[tuple[str, str]] = []
    if delta:
        links = [(name, one.path) for one in found if one.deleted for name in link_remaps(one)]
        for name, _ in links:  # CRIU leaves them for a restore on this node, which will not be
            source_of(daemon).run.push_undo("always", "files_drop", path=name, names=[name])
        items += _closed(sender.first, {one.path for one in found})
    started_s, before = time.monotonic(), daemon.packer.wire_bytes
    try:
        sent = sender.send(
            items,
            _folders(tasks, [item.path for item in items]),
            out_fd,
            delta=delta,
            links=links,
            packer=daemon.packer,
            on_progress=Teller(progress, daemon.bucket, daemon.packer),
            should_stop=daemon.stop_transfers.is_set,
        )
    except TreeError as error:
        raise OpError("transfer", str(error)) from error
    return {
        "skipped_mounts": [],
        "bytes": sent.bytes,
        "files": len(sent.files),
        "digest": digest(sent.files),
        **cost(daemon, started_s, before),
    }


def files_recv(daemon: Daemon, progress: Callable[..., None], delta: bool) -> dict[str, Any]:
    """Receive one pass; the second one gives the files their names, with what stood there kept aside."""
    from reberth.node.tree.arrive import Arrivals
    from reberth.node.tree.receive import digest_of

    in_fd, _ = data_pipe(daemon)
    run = target_of(daemon).run
    arrivals = daemon.arrivals = daemon.arrivals or Arrivals(run.id, boot_id(), run.push_undo)
    try:
        manifest = arrivals.receive(in_fd, delta, Teller(progress), daemon.stop_transfers.is_set)
    except TreeError as error:
        hint = "clear that path on the target, or make room there"
        raise OpError("files", str(error), hint=hint) from error
    return {
        "digest": digest_of(manifest),
        "files": manifest.files_received,
        "warnings": list(manifest.warnings)[:20],
    }


def _item(one: Written) -> Item:
    from reberth.node.tree.carry import Item

    return Item(one.path, functools.partial(lend, one), (boot_id(), one.found.st_dev, one.found.st_ino))


def _closed(first: dict[str, Any], open_now: set[str]) -> Iterator[Item]:
    """Yield the files of the first pass that the tree has closed since, where they still have their names."""
    from reberth.node.tree.carry import Item

    with Dirs("/") as dirs:
        for path, one in first.items():
            if path in open_now:
                continue
            parent, name = split(rel(path))
            with contextlib.suppress(OSError):
                found = os.stat(name, dir_fd=dirs.fd(parent), follow_symlinks=False)
                if (found.st_dev, found.st_ino) == one.identity[1:] and stat.S_ISREG(found.st_mode):
                    yield Item(path, functools.partial(_open_named, path), one.identity)


def _open_named(path: str) -> tuple[int, bool]:
    parent, name = split(rel(path))
    with Dirs("/") as dirs:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=dirs.fd(parent)), True


def _folders(pids: set[int], paths: list[str]) -> list[str]:
    """Return the folders of these files and sockets, and those that the tasks have open, each after its parent."""
    found: set[bytes] = {split(rel(path))[0] for path in paths}
    inodes: set[str] = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            links = [f"/proc/{pid}/cwd", *(f"/proc/{pid}/fd/{name}" for name in os.listdir(f"/proc/{pid}/fd"))]
            for link in links:
                path = procs.link(link)
                if path.startswith("socket:["):
                    inodes.add(path[8:-1])
                elif path.startswith("/") and not path.endswith(DELETED) and os.path.isdir(link):
                    found.add(rel(path))
    if pids:  # the tree is in one network namespace, or the plan has refused it
        found |= {rel(path) for path in unix.folders(min(pids), inodes)}
    every: set[bytes] = set()
    for folder in found:
        while folder:
            every.add(folder)
            folder = split(folder)[0]
    return ["/" + text(path) for path in sorted(every)]


OPS: dict[str, Callable[..., Any]] = {"files_ready": files_ready, "files_there": files_there}
