"""The one script that CRIU's default configuration names while a daemon's container is moved, and its table of gates.

Every criu of the node reads that file, keeps the path, and may call it long after: a criu that cannot execute a script
fails. So the script's path is the same for all runs, it is on a disk, anyone may execute it, and nothing removes it.
It looks the container up in a table of gates, hands over to the script of the run, and leaves with 0 for all others.
A gate that is closed stays in the table for a day: a criu of its container that started before is refused, since
nothing else would hold a copy that comes so late; one that started later is not ours.

A criu that has the path reads no other text there: a script that changes gets a path and a table with another number.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Iterator
from typing import NamedTuple

from reberth.node.errors import OpError
from reberth.node.system import spawn
from reberth.node.system.durable import boottime_ns, write_whole

CONFIG = "/etc/criu/default.conf"
SCRIPT = "/etc/criu/reberth-gate.1"
TABLE = "/run/reberth/gates.1"  # empty after a restart of the node, as all criu are gone then
KEPT_S = 24 * 3600
OPEN, WIDTH = 0, 20
# The daemon restores by a program of its own, `lxd forkmigrate NAME PATH ...`, whose words a shell reads without the
# zeros between them. A criu's own words name paths and cgroups of any container, so they are not looked at.
TEXT = """#!/bin/sh
# Of reberth: /etc/criu/default.conf names it while a container of LXD or Incus is moved. It finds the move of the
# container that criu is at, and leaves at once for every other criu. It stays: a criu may call it at any later time.
gates='@table@' found= action=$CRTOOLS_SCRIPT_ACTION
case $action in
pre-dump | post-dump) role=source ;;
pre-restore | post-restore | pre-resume) role=target ;;
*) exit 0 ;;
esac
[ -d "$gates/$role" ] || exit 0
take() { [ ! -f "$gates/$role/$1" ] || found=$gates/$role/$1; }
if [ "$action" = pre-restore ]; then # there are no tasks yet: the daemon's process above this criu tells
  pid=$$
  while [ "${pid:-0}" -gt 1 ]; do
    name= above= line=
    while read -r key value; do
      case $key in Name:) name=$value ;; PPid:) above=$value ;; esac
    done <"/proc/$pid/status" 2>/dev/null
    [ "$name" = criu ] || read -r line <"/proc/$pid/cmdline" 2>/dev/null
    case $line in *forkmigrate*)
      line=${line#*forkmigrate}
      case $line in */*) take "worker.${line%%/*}" ;; esac
      break ;;
    esac
    pid=$above
  done
else # an init of systemd's kind is in a cgroup below the container's
  set -f
  while IFS= read -r line; do
    case $line in 0::*) ;; *) continue ;; esac
    IFS=/
    for part in ${line#0::}; do take "cgroup.$part"; done
    unset IFS
  done <"/proc/$CRTOOLS_INIT_PID/cgroup" 2>/dev/null
fi
[ "$found" ] || exit 0
{ IFS= read -r hook && read -r root && read -r closed; } <"$found" || exit 0
[ "$root" = 0 ] || [ "$root" = "$CRTOOLS_INIT_PID" ] || exit 0 # some process of the container, and not all of it
[ "$closed" -gt 0 ] || exec "$hook"
read -r line <"/proc/$PPID/stat" || exit 1
set -- ${line##*) }
[ "${20}" -gt "$closed" ]
"""
BEGIN, END = "# reberth: for the time of a move", "# reberth: to here"
# How the configuration was before: a last line with its end, one without, no file.
WAYS = {"": b"", ", after a line that had no end": b"\n", ", in a file of its own": b""}
PLAIN, JOINED, MADE = WAYS


class Entry(NamedTuple):
    """One file of the table: the run's script, the source's root process (0: any), and when it was closed, in ticks."""

    path: str
    hook: str
    root: int
    closed: int

    @property
    def is_open(self) -> bool:
        """Tell whether a move still waits at it: its script is in the directory of an open run."""
        return self.closed == OPEN and os.path.exists(self.hook)


def text() -> str:
    """Return the script."""
    return TEXT.replace("@table@", TABLE)


def plant(hook: str, role: str, leaf: str, worker: str = "", root: int = 0) -> None:
    """Open the gate of a container for a run's script `hook`, and name the one script in CRIU's configuration.

    `leaf` is the container's cgroup, `worker` its name in the words of the daemon's process that starts criu (target),
    `root` its first process (source). Raises OpError `tool-failed` where the script cannot be executed: then nothing
    is planted, since each criu of the node would fail.
    """
    with _locked():
        _lay_script()
        _prune()
        for key in (f"cgroup.{leaf}", *([f"worker.{worker}"] if worker else [])):
            write_whole(os.path.join(TABLE, role, key), f"{hook}\n{root}\n{OPEN:0{WIDTH}d}\n")
        _name_it()


def pluck(hook: str) -> None:
    """Close the gates of a run's script; with the last open one the configuration is as it was before."""
    with _locked():
        for entry in _entries():
            if entry.hook == hook and entry.closed == OPEN:
                _close(entry)
        _prune()
        if not any(entry.is_open for entry in _entries()):
            _unname_it()


def take_turn(slots: int) -> int:
    """Return a descriptor that holds one of so many places among the containers that this node freezes.

    -1 for none free.
    """
    for slot in range(slots):
        fd = os.open(os.path.join(TABLE, f"turn.{slot}"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return fd
        except BlockingIOError:
            os.close(fd)
    return -1


@contextlib.contextmanager
def _locked() -> Iterator[None]:
    """No other helper, of whatever version, changes configuration or table meanwhile."""
    place = os.path.dirname(CONFIG)
    os.makedirs(place, 0o755, exist_ok=True)
    fd = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        for role in ("source", "target"):
            os.makedirs(os.path.join(TABLE, role), 0o700, exist_ok=True)
        yield
    finally:
        os.close(fd)


def _lay_script() -> None:
    """Write it where it is not, or is not whole; a shell that runs the old file goes on with that."""
    with contextlib.suppress(OSError), open(SCRIPT, encoding="utf-8", errors="replace") as file:
        mode = os.fstat(file.fileno()).st_mode & 0o777
        if file.read() == text() and mode == 0o755:
            return _try_script()
    write_whole(SCRIPT, text(), 0o755)
    os.chmod(SCRIPT, 0o755)  # whatever the umask
    return _try_script()


def _try_script() -> None:
    try:
        done = spawn.run([SCRIPT], timeout_s=10.0)
        said = done["err"].strip()[-200:] if done["code"] else ""
    except (OSError, OpError) as error:
        done, said = {"code": 126}, str(error)
    if done["code"]:
        text = f"{SCRIPT} cannot be executed: {said or done['code']}"
        raise OpError("tool-failed", text, hint="is that filesystem mounted noexec, or is something confining root?")


def _entries() -> list[Entry]:
    found = []
    for role in ("source", "target"):
        for name in os.listdir(place := os.path.join(TABLE, role)):
            path = os.path.join(place, name)
            with contextlib.suppress(OSError, ValueError), open(path, encoding="utf-8") as file:
                hook, root, closed = file.read(4096).splitlines()
                found.append(Entry(path, hook, int(root), int(closed)))
    return found


def _close(entry: Entry) -> None:
    """In place, in as many bytes: that needs no room."""
    fd = os.open(entry.path, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        at = os.fstat(fd).st_size - WIDTH - 1
        os.pwrite(fd, f"{_ticks():0{WIDTH}d}\n".encode(), at)
    finally:
        os.close(fd)


def _prune() -> None:
    """Close what a run has left whose directory is lost; what was closed a day ago goes."""
    since = _ticks() - KEPT_S * os.sysconf("SC_CLK_TCK")
    for entry in _entries():
        if entry.closed == OPEN and not entry.is_open:
            _close(entry)
        elif OPEN < entry.closed < since:
            os.unlink(entry.path)


def _ticks() -> int:
    """Now, as /proc/PID/stat counts the start of a process."""
    return boottime_ns() * os.sysconf("SC_CLK_TCK") // 10**9


def _block(way: str) -> bytes:
    return WAYS[way] + f"{BEGIN}{way}\naction-script {SCRIPT}\n{END}\n".encode()


def _name_it() -> None:
    before = _read()
    if before is not None and any(_block(way) in before for way in WAYS):
        return
    way = MADE if before is None else JOINED if before and not before.endswith(b"\n") else PLAIN
    _write((before or b"") + _block(way))


def _unname_it() -> None:
    before = _read() or b""
    for way in WAYS:
        if _block(way) in before:
            left = before.replace(_block(way), b"", 1)
            if left or way != MADE:
                _write(left)
            else:
                os.unlink(os.path.realpath(CONFIG))


def _read() -> bytes | None:
    try:
        with open(CONFIG, "rb") as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write(data: bytes) -> None:
    """All of it or none, with owner, mode and attributes as they were; a link stays one, its file is written."""
    path = os.path.realpath(CONFIG)
    beside = f"{path}.new"
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(fd, "wb", closefd=False) as file:
            file.write(data)
        _like(path, fd)
        os.fsync(fd)
        os.rename(beside, path)
    except OSError:
        os.unlink(beside)
        raise
    finally:
        os.close(fd)


def _like(path: str, fd: int) -> None:
    try:
        old = os.stat(path)
    except FileNotFoundError:
        os.fchmod(fd, 0o644)
        return
    os.fchown(fd, old.st_uid, old.st_gid)
    os.fchmod(fd, old.st_mode & 0o7777)
    for name in os.listxattr(path):
        with contextlib.suppress(OSError):
            os.setxattr(fd, name, os.getxattr(path, name))
