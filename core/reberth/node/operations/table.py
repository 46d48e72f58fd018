"""What the controller can ask of a node: one function an operation, plain data in and out (docs/helper.md)."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import shutil
import stat
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reberth.node import daemons
from reberth.node.criu import cpuinfo
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.net import address
from reberth.node.operations import bundles, trees
from reberth.node.operations.context import data_pipe, end_of, source_of, target_of
from reberth.node.operations.hello import hello
from reberth.node.pages.page_server import OPS as PAGE_OPS
from reberth.node.runs import predump, remains, run
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target, end_of_earlier_boots
from reberth.node.survey import health, measure, process_tree
from reberth.node.system import procs
from reberth.node.system.durable import boottime_ns
from reberth.node.system.spawn import run as run_program

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}\Z")
RUNTIME = "/run/reberth"


def call(daemon: Daemon, name: str, args: dict[str, Any], progress: Callable[..., None]) -> Any:
    """Run one operation; raises OpError for an unknown one or for words it does not take."""
    function = OPS.get(name)
    if function is None:
        raise OpError("unknown-op", f"this helper has no operation {name!r}")
    try:
        return function(daemon, progress, **args)
    except FileNotFoundError as error:
        raise OpError("missing", str(error)) from error
    except OSError as error:
        raise OpError("os", str(error)) from error


def ping(daemon: Daemon, progress: Any) -> dict[str, int]:
    """Answer a heartbeat; also the two clocks, for the controller's offset."""
    return {"boot_ns": boottime_ns()}


def run_tool(
    daemon: Daemon, progress: Any, argv: list[str], timeout_s: float = 30.0, stdin: str = "", cwd: str = "/"
) -> dict[str, Any]:
    """Run a program to its end; returns code, out, err."""
    return run_program(argv, timeout_s=timeout_s, stdin=stdin, cwd=cwd)


def read(daemon: Daemon, progress: Any, path: str, limit_bytes: int = 8 << 20) -> str:
    """Return a regular text file's content; undecodable bytes as surrogate escapes survive JSON as escapes."""
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    with os.fdopen(fd, "rb") as file:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size > limit_bytes:
            raise OpError("bad-argument", f"{path!r} is no regular file of at most {limit_bytes} bytes")
        return file.read(limit_bytes).decode("utf-8", "backslashreplace")


def stats(daemon: Daemon, progress: Any, paths: list[str]) -> list[dict[str, Any] | None]:
    """Type, mode and size of each path, None where there is none; the free space of its filesystem."""
    found: list[dict[str, Any] | None] = []
    for path in paths:
        try:
            entry, system = os.stat(path), os.statvfs(path)
        except OSError:
            found.append(None)
            continue
        found.append(
            {
                "mode": entry.st_mode,
                "size": entry.st_size,
                "dev": entry.st_dev,
                "ino": entry.st_ino,
                "free_bytes": system.f_bavail * system.f_frsize,
            }
        )
    return found


def open_run(
    daemon: Daemon, progress: Any, run_id: str, role: str, workload: str, start_ticks: int = 0, version: str = ""
) -> dict[str, Any]:
    """Begin a run: its lock, journal and private directory; from here on the helper outlives its connection."""
    if not ID.match(run_id) or role not in ("source", "target"):
        raise OpError("bad-argument", "no such run or role")
    if os.getuid() != 0:
        raise OpError("not-root", "a move needs root on this node", hint="set become = sudo for this node")
    if daemon.end is not None:
        raise OpError("protocol", "this helper serves a run already")
    end_of_earlier_boots()
    known = {"start_ticks": start_ticks, "version": version, "boot_id": run.boot_id(), **_me(daemon)}
    opened = run.Run.open(run_id, role, workload, **known)
    daemon.end = Source(opened) if role == "source" else Target(opened)
    daemon.end.channel, daemon.end.bucket = functools.partial(trees.pages_channel, daemon), daemon.bucket
    daemon.end.pipe = functools.partial(data_pipe, daemon)
    cgroup.sweep(cgroup.mount_point(), run.open_runs)
    daemon.leave_connection(run_id)
    opened.gather_tools()
    return {"dir": opened.dir, "socket": socket_path(daemon, progress)}


def socket_path(daemon: Daemon, progress: Any) -> str:
    """Return where a data connection is handed over to this helper, for one that serves no run."""
    return os.path.join(daemon.dir, "ctl")


def live_socket(run_id: str) -> str:
    """Return the private socket of the helper that still serves a run, empty when none does."""
    if not ID.match(run_id):
        return ""
    try:
        known = run.Run.load(run_id)
    except OpError:
        return ""
    newest = known.journal.last("open", "adopted") if known is not None and not known.ended else None
    if newest is None or not procs.alive(newest.get("helper", 0), newest.get("helper_start", 0)):
        return ""
    path = str(newest.get("socket"))
    return path if os.path.exists(path) else ""


def adopt(daemon: Daemon, progress: Any, run_id: str, look: bool = False) -> dict[str, Any]:
    """Take over a run whose helper has died (a live one was handed this connection before this is reached).

    With `look` only for its facts: nothing is written, and nothing is done when the controller goes.
    """
    known = run.Run.load(run_id) if ID.match(run_id) else None
    if known is None or known.role not in ("source", "target"):  # a crash left no more than its directory
        return {"live": False, "known": False}
    daemon.end, daemon.only_looks = Source(known) if known.role == "source" else Target(known), look
    if not look and not known.ended:  # from here on this is the run's helper, also for the next controller
        dead = os.path.dirname(str((known.journal.last("open", "adopted") or {}).get("socket", "")))
        if os.path.dirname(dead) == os.path.dirname(daemon.dir) and dead != daemon.dir:
            shutil.rmtree(dead, ignore_errors=True)
        known.journal.write("adopted", **_me(daemon))
    return {"live": False, "known": True}


def _me(daemon: Daemon) -> dict[str, Any]:
    me = procs.task(os.getpid())
    return {
        "socket": os.path.join(daemon.dir, "ctl"),
        "helper": os.getpid(),
        "helper_start": me.start_ticks if me else 0,
    }


def runs(daemon: Daemon, progress: Any) -> list[dict[str, Any]]:
    """Return the open runs of this node, with whose helper still lives and whose workload is frozen here."""
    found = []
    for name in run.open_runs():
        known = None
        with contextlib.suppress(OpError):  # one that a later version wrote is not for us to read
            known = run.Run.load(name)
        if known is not None:
            first, frozen = known.journal.last("open") or {}, known.journal.last("freezing") or {}
            held = cgroup.is_asked_to_freeze(str(frozen.get("cgroup")))
            found.append({"id": name, "live": bool(live_socket(name)), "frozen": held, "gone": _gone(first), **first})
    return found


def _gone(first: dict[str, Any]) -> bool:
    """Tell whether the very process of a source's run has ended, so that its pid may be another's by now."""
    pid, start = str(first.get("workload", "")).partition("/")[2], first.get("start_ticks", 0)
    return first.get("role") == "source" and bool(start) and pid.isdigit() and not procs.alive(int(pid), start)


def workdir(
    daemon: Daemon, progress: Any, need_bytes: int, name: str = "images", keep: bool = False, disk: bool = True
) -> dict[str, Any]:
    """Return a private directory of the run for images: in memory where it fits with a fifth to spare, else on `disk`.

    It goes when the run ends, however it ends, unless the user wants to `keep` it.
    """
    end = end_of(daemon)
    places = ["/dev/shm", "/run", *(["/var/lib"] if disk else [])]
    for place in places:
        with contextlib.suppress(OSError):
            space = os.statvfs(place)
            free = space.f_bavail * space.f_frsize
            if free < need_bytes * 1.2 + (16 << 20):
                continue
            path = os.path.join(place, f"reberth-{end.run.id}-{name}-{os.urandom(6).hex()}")
            if not keep:
                end.run.push_undo("always", "rmtree", path=path)
            os.mkdir(path, 0o700)
            return {"path": path, "free_bytes": free}
    raise OpError(
        "no-space", f"no place for {need_bytes} bytes of images", hint=f"free space in one of {', '.join(places)}"
    )


def undo(daemon: Daemon, progress: Any, on: str, do: str, **data: Any) -> None:
    """Journal what must be undone, before its effect."""
    end_of(daemon).run.push_undo(on, do, **data)


def make_dirs(daemon: Daemon, progress: Any, path: str, mode: int = 0o755) -> bool:
    """Make a directory with its missing parents, each undone on abort; returns whether it was new."""
    end, new = end_of(daemon), False
    parts = os.path.abspath(path).split("/")
    for depth in range(2, len(parts) + 1):
        part = "/".join(parts[:depth])
        if not os.path.isdir(part):
            end.run.push_undo("abort", "rmdir", path=part)
            os.mkdir(part, mode)
            new = True
    if new:  # only what is certainly ours goes with all that is in it; a parent may hold others by then
        end.run.push_undo("abort", "rmtree", path=os.path.abspath(path))
    return new


def set_aside(daemon: Daemon, progress: Any, path: str) -> str:
    """Rename something out of the way; an abort puts it back, a commit removes it."""
    end = end_of(daemon)
    aside = f"{path.rstrip('/')}.reberth-{end.run.id}"
    end.run.push_undo("abort", "rename", path=aside, to=path)
    end.run.push_undo("commit", "rmtree", path=aside)
    os.rename(path, aside)
    return aside


def note(daemon: Daemon, progress: Any, event: str, **data: Any) -> None:
    """Write a record of the host or a backend into the node's journal."""
    end_of(daemon).run.journal.write(f"note-{event}", **data)


def vote(daemon: Daemon, progress: Any, value: str) -> dict[str, Any]:
    """Cast the source's vote; return its facts, in which `vote` is what stands."""
    end = source_of(daemon)
    with end.lock:
        end.run.cast_vote(value)
        return end.facts()


def look(daemon: Daemon, progress: Any) -> dict[str, Any]:
    """Look whether the copy lives a moment after it began to run; returns the target's facts, raises OpError `ill`."""
    end = target_of(daemon)
    end.looking.look(end.cgroup)
    return end.facts()


def fill(daemon: Daemon, progress: Callable[..., None]) -> dict[str, Any]:
    """Wait until all memory of a lazy restore is in; returns the target's facts."""
    target_of(daemon).filling.fill(progress)
    return target_of(daemon).facts()


def facts(daemon: Daemon, progress: Any) -> dict[str, Any]:
    """Return what is so now at this end of the run."""
    return end_of(daemon).facts()


def end_run(daemon: Daemon, progress: Any, outcome: str) -> dict[str, Any]:
    """Write the run's end into the node's journal and give up its lock; returns what could not be undone."""
    end = end_of(daemon)
    if isinstance(end, Target) and outcome != "moved" and not end.run.journal.has("taken-back"):
        end.run.undo("abort", "always")  # a landing that failed: the source runs again, nothing of the copy is needed
    return {"left": end.run.end(outcome)}


def leftovers(daemon: Daemon, progress: Any, run_id: str) -> list[str]:
    """Return what of a run that has ended is still here, beside its journal and images that were to be kept."""
    if not ID.match(run_id):
        return []
    known = run.Run.load(run_id)
    undone = [r["path"] for r in known.journal.records if r["event"] == "undo" and "path" in r] if known else []
    found = []
    for place in ("/dev/shm", "/run", "/var/lib"):
        with contextlib.suppress(OSError):
            paths = [os.path.join(place, name) for name in os.listdir(place) if run_id in name]
            found += [path for path in paths if path in undone]
    group = os.path.join(cgroup.mount_point(), f"reberth-{run_id}")
    return found + ([group] if os.path.isdir(group) and not cgroup.events(group).get("populated") else [])


def remains_of(daemon: Daemon, progress: Any, run_id: str, cgroups: list[str]) -> dict[str, Any]:
    """Return what is there of a run whose journal is lost; `cgroups` are those that the controller has seen."""
    _require_lost(run_id)
    return remains.look(run_id, cgroups)


def settle_remains(daemon: Daemon, progress: Any, run_id: str, cgroups: list[str], how: str) -> dict[str, Any]:
    """`kill` or `thaw` what is there of a run whose journal is lost, on the operator's word."""
    _require_lost(run_id)
    return remains.settle(run_id, cgroups, how)


def _require_lost(run_id: str) -> None:
    """With a journal its own operations are the only way."""
    if not ID.match(run_id) or run.Run.load(run_id) is not None:
        raise OpError("protocol", "the journal of this run is here")


def log_tails(daemon: Daemon, progress: Any, directory: str, limit_bytes: int = 1 << 20) -> dict[str, str]:
    """Return the last part of every log in a directory, to be kept with the report."""
    found: dict[str, str] = {}
    for entry in os.scandir(directory):
        if entry.is_file(follow_symlinks=False) and entry.name.endswith((".log", ".out")):
            with open(entry.path, "rb") as file:
                file.seek(max(0, entry.stat().st_size - limit_bytes))
                found[entry.name] = file.read(limit_bytes).decode("utf-8", "backslashreplace")
    return found


def space(daemon: Daemon, progress: Any, paths: list[str]) -> dict[str, int]:
    """Free bytes where each path is or would be made."""
    found = {}
    for path in paths:
        place = path
        while not os.path.isdir(place):
            place = os.path.dirname(place) or "/"
        usage = shutil.disk_usage(place)
        found[path] = usage.free
    return found


def _direct(name: str) -> Callable[..., Any]:
    """Return an operation of `direct`, which is loaded (with ssl) only by runs that use it."""

    def call_it(daemon: Daemon, progress: Any, **args: Any) -> Any:
        from reberth.node.net import tls

        return getattr(tls, name)(daemon, progress, **args)

    return call_it


OPS: dict[str, Callable[..., Any]] = {
    **measure.OPS,
    "hello": hello,
    "ping": ping,
    "run": run_tool,
    "read": read,
    "stats": stats,
    "space": space,
    "open": open_run,
    "socket": socket_path,
    "adopt": adopt,
    "runs": runs,
    "workdir": workdir,
    "undo": undo,
    "make_dirs": make_dirs,
    "set_aside": set_aside,
    "note": note,
    "vote": vote,
    "facts": facts,
    "end": end_run,
    "log_tails": log_tails,
    "unit_hold": lambda daemon, progress, **a: source_of(daemon).unit_hold(**a),
    "enclose": lambda daemon, progress, **a: source_of(daemon).enclose(**a),
    **predump.OPS,
    **PAGE_OPS,
    "dump": lambda daemon, progress, **a: source_of(daemon).dump(**a),
    "release": lambda daemon, progress, **a: source_of(daemon).release(**a),
    "restore": lambda daemon, progress, **a: target_of(daemon).restore(**a),
    "decide": lambda daemon, progress, **a: target_of(daemon).decide(**a),
    **daemons.OPS,
    "look": look,
    "fill": fill,
    "discard": lambda daemon, progress, **a: target_of(daemon).discard(**a),
    "finish": lambda daemon, progress, **a: target_of(daemon).finish(**a),
    "direct_identity": _direct("identity"),
    "direct_listen": _direct("listen"),
    "direct_connect": _direct("connect"),
    "verify": health.verify,
    "leftovers": leftovers,
    "remains": remains_of,
    "settle_remains": settle_remains,
    **trees.OPS,
    **address.OPS,
    "mark_left": bundles.mark_left,
    "is_left": bundles.is_left,
    "unmark_left": bundles.unmark_left,
    "plant": bundles.plant,
    "pluck": bundles.pluck,
    "cpu_dump": cpuinfo.cpu_dump,
    "cpu_check": cpuinfo.cpu_check,
    **process_tree.OPS,
}
