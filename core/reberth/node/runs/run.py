"""One run on this node: its journal, its deciding files, its lock and what must be undone.

The directory /var/lib/reberth/ID is on disk, never on tmpfs: after a reboot it still says what was decided. The lock
of a workload is its open journal, so a held workload answers "busy" even then.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from typing import Any

from reberth.node import unixhttp
from reberth.node.criu import leftovers, network_lock, planted
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup, systemd
from reberth.node.net import address
from reberth.node.system import spawn
from reberth.node.system.durable import (
    Journal,
    decide_once,
    decided,
    lay_ballots,
    lay_reserve,
    read_text,
    sync_dir,
    write_whole,
)
from reberth.node.tree import aside

STATE = "/var/lib/reberth"
VOTES = ("READY", "RESUME")
VERDICTS = ("PERMIT", "ABORT")
KEEP_ENDED = 200
# back: before the tool is answered on the way back; abort: after it; landed: before the copy is thawed; end: last.
OCCASIONS = ("back", "abort", "commit", "always", "landed", "end")


def state_dir() -> str:
    """Return where runs are kept; made 0700, refused when somebody else owns it."""
    for path in (STATE, os.path.join(STATE, "ended")):
        with contextlib.suppress(FileExistsError):
            os.makedirs(path, 0o700)
        found = os.lstat(path)
        if found.st_uid != os.getuid() or found.st_mode & 0o022 or os.path.islink(path):
            raise OpError("unsafe", f"{path} is not a directory of our own", hint=f"chown root and chmod 700 {path}")
    return STATE


def boot_id() -> str:
    """Return which start of this machine this is."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@contextlib.contextmanager
def locked() -> Iterator[None]:
    """Hold the lock under which a run of this node is opened or ended."""
    fd = os.open(os.path.join(state_dir(), ".lock"), os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)


def open_runs() -> list[str]:
    """Ids of the runs on this node that have no end yet, oldest first."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(n for n in os.listdir(STATE) if os.path.exists(os.path.join(STATE, n, "journal.jsonl")))
    return []


class Run:
    """The node's side of one migration; `role` is source or target."""

    def __init__(self, run_id: str, directory: str) -> None:
        self.id = run_id
        self.dir = directory
        self.journal = Journal(os.path.join(directory, "journal.jsonl"))
        self._said: dict[str, str] = {}  # decisions for the way back that a broken disk did not take

    @classmethod
    def open(cls, run_id: str, role: str, workload: str, *, start_ticks: int = 0, **facts: Any) -> Run:
        """Begin a run; raises OpError `busy` while another of the same workload is open.

        A process is its pid and `start_ticks`: what has got a dead one's pid is another workload.
        """
        with locked():
            for other in open_runs():
                first = Journal(os.path.join(STATE, other, "journal.jsonl")).last("open")
                if first and first.get("workload") == workload and not _another(first, role, start_ticks):
                    raise OpError("busy", other)
            directory = os.path.join(STATE, run_id)
            os.mkdir(directory, 0o700)
            lay_ballots(directory, "vote", VOTES)
            lay_ballots(directory, "verdict", VERDICTS)
            lay_reserve(directory)
            run = cls(run_id, directory)
            if start_ticks:
                facts["start_ticks"] = start_ticks
            run.journal.write("open", format=Journal.FORMAT, id=run_id, role=role, workload=workload, **facts)
            sync_dir(STATE)
            return run

    @classmethod
    def load(cls, run_id: str) -> Run | None:
        """Return a run of this node, open or ended; None when it was never here, or its journal is lost.

        Raises OpError `newer-format` for a journal that a later version wrote.
        """
        for directory in (os.path.join(STATE, run_id), os.path.join(STATE, "ended", run_id)):
            if os.path.exists(os.path.join(directory, "journal.jsonl")):
                run = cls(run_id, directory)
                run.journal.readable()
                return run
        return None

    def is_lost(self) -> bool:
        """Tell whether the journal went from the disk under this process: then nothing can be decided here any more."""
        return not os.path.exists(os.path.join(self.dir, "journal.jsonl"))

    def opened(self, key: str, default: Any = "") -> Any:
        """Return a fact of the first record."""
        return (self.journal.last("open") or {}).get(key, default)

    def gather_tools(self) -> None:
        """Make the cgroup in which this run's tools are started; where none can be made they carry a mark alone."""
        with contextlib.suppress(OSError):
            mount = cgroup.mount_point()
            path = os.path.join(mount, f"reberth-tools-{self.id}")
            if mount:
                self.push_undo("always", "cgroup_remove", path=path)
                cgroup.create(path)
                self.journal.write("tools", cgroup=path)

    @property
    def tools(self) -> str:
        """Return the cgroup of this run's tools; empty where none could be made."""
        return str((self.journal.last("tools") or {}).get("cgroup", ""))

    @property
    def role(self) -> str:
        """`source` or `target`."""
        return str(self.opened("role"))

    @property
    def ended(self) -> str:
        """Return the outcome when the run has an end, else empty."""
        record = self.journal.last("end")
        return str(record["outcome"]) if record else ""

    def vote(self) -> str | None:
        """Return what the source voted."""
        return self._said.get("vote") or decided(self.dir, "vote", VOTES)

    def cast_vote(self, value: str) -> str:
        """Vote once; returns what stands."""
        if self.vote() is None:
            (self.journal.tell if value == "RESUME" else self.journal.write)("voting", value=value)
        return self._once("vote", value, VOTES, back="RESUME")

    def verdict(self) -> str | None:
        """Return what was decided on the target."""
        return self._said.get("verdict") or decided(self.dir, "verdict", VERDICTS)

    def decide(self, value: str) -> str:
        """Write the verdict; the first writer wins, the answer says what stands."""
        if self.verdict() is None:
            (self.journal.tell if value == "ABORT" else self.journal.write)("deciding", value=value)
        return self._once("verdict", value, VERDICTS, back="ABORT")

    def _once(self, name: str, value: str, values: tuple[str, ...], *, back: str) -> str:
        """Decide once; the word for the way back is kept by this helper alone where the disk does not take it.

        That is safe: this helper never says the other word after it, and the next one finds tasks that no tool holds,
        for which no one asks for READY or PERMIT any more.
        """
        if name in self._said:
            return self._said[name]
        try:
            return decide_once(self.dir, name, value, values)
        except OSError:
            if value != back or decided(self.dir, name, values) not in (None, back):
                raise
            self._said[name] = back
            return back

    # What must be undone is data, journaled before the effect, so that any later helper can do it.

    def push_undo(self, on: str, do: str, **data: Any) -> None:
        """Remember an undo: `on` is one of OCCASIONS, `do` one of UNDO's keys."""
        if on not in OCCASIONS or do not in UNDO:
            raise OpError("bad-argument", f"no undo {do!r} on {on!r}")
        self.journal.write("undo", on=on, do=do, **data)

    def undo(self, *on: str) -> list[str]:
        """Do what was pushed for these occasions, newest first; returns what could not be done."""
        return self._undo([r for r in self.journal.records if r["event"] == "undo" and r["on"] in on])

    def _undo(self, records: list[dict[str, Any]]) -> list[str]:
        failed: dict[int, str] = {}
        for record in reversed(records):
            try:
                UNDO[record["do"]](record)
            except (OSError, OpError) as error:
                what = record.get("unit") or record.get("path") or record.get("argv") or record.get("address")
                failed[record["seq"]] = f"{record['do']} {what}: {error}"
        if failed:
            self.journal.tell("undo-failed", records=list(failed), failed=list(failed.values()))
        return list(failed.values())

    def daemon_works(self) -> bool:
        """Tell whether a daemon's own operation of this run goes on: until it is over, its criu must be held."""
        record = self.journal.last("daemon")
        return record is not None and not unixhttp.operation_ended(record["socket"], record["url"])

    def undo_again(self) -> list[str]:
        """Try once more what could not be undone; returns what is left now."""
        again = self.journal.last("undo-again")
        since = again["seq"] if again else -1
        failed = [r for r in self.journal.records if r["event"] == "undo-failed" and r["seq"] > since]
        wanted = {seq for record in failed for seq in record.get("records", ())}
        if not wanted:
            return []
        self.journal.tell("undo-again", records=sorted(wanted))
        return self._undo([r for r in self.journal.records if r["seq"] in wanted])

    def end(self, outcome: str) -> list[str]:
        """Write the end and give up the lock; the directory moves to `ended`, of which the newest are kept.

        Returns what is left behind, after one more try.
        """
        left = self.undo_again()
        if not self.ended:
            with locked():
                left += self.undo("end")
            self.journal.write("end", outcome=outcome)
        with locked():
            ended = os.path.join(STATE, "ended")
            if os.path.dirname(self.dir) == STATE:
                os.rename(self.dir, os.path.join(ended, self.id))
                self.dir = os.path.join(ended, self.id)
                sync_dir(STATE)
                _keep_newest(self.id)
        return left


def _another(first: dict[str, Any], role: str, start_ticks: int) -> bool:
    """Tell whether an open run is of another process with the same pid.

    At its other end a copy has a start of its own.
    """
    known = first.get("start_ticks", 0)
    return bool(known and start_ticks) and first.get("role") == role and known != start_ticks


def _keep_newest(run_id: str) -> None:
    """Remove all but the newest of the ended runs, in the order in which they ended.

    The order is a list on disk: ids and times of files follow a clock, which may be set back. What is not in the list
    is of an older version, and older than all that is.
    """
    ended, path = os.path.join(STATE, "ended"), os.path.join(STATE, "ended", ".order")
    listed = [name for name in (read_text(path) or "").split() if name != run_id]
    there = {name for name in os.listdir(ended) if not name.startswith(".")}
    order = [*sorted(there - {*listed, run_id}), *(name for name in listed if name in there), run_id]
    for old in order[:-KEEP_ENDED]:
        shutil.rmtree(os.path.join(ended, old), ignore_errors=True)
    write_whole(path, "".join(f"{name}\n" for name in order[-KEEP_ENDED:]))


def locks_of_others(run_id: str) -> set[str]:
    """Return the network locks (nft tables) that other open runs of this node have journaled as theirs."""
    known = [Run(name, os.path.join(STATE, name)) for name in open_runs() if name != run_id]
    records = [record for run in known for record in run.journal.records]
    return {str(record["name"]) for record in records if record.get("do") == "nft_delete"}


def _rmtree(record: dict[str, Any]) -> None:
    path = str(record["path"])
    if os.path.isdir(path) and not os.path.islink(path):
        leftovers.clear(path)
        shutil.rmtree(path)
    elif os.path.lexists(path):
        os.unlink(path)


def _rmdir(record: dict[str, Any]) -> None:
    """Only when empty: what others have put there meanwhile is theirs."""
    with contextlib.suppress(FileNotFoundError):
        os.rmdir(record["path"])


def _rename(record: dict[str, Any]) -> None:
    if not os.path.lexists(record["path"]):
        return
    if os.path.lexists(record["to"]):
        raise OpError("leftover", f"{record['to']} is in the way")
    os.rename(record["path"], record["to"])


def _run(record: dict[str, Any]) -> None:
    found = spawn.run(record["argv"], timeout_s=float(record.get("timeout_s", 30)))
    if found["code"]:
        raise OpError("tool-failed", f"ended with {found['code']}: {found['err'].strip()[-200:]}")


def _gate_pluck(record: dict[str, Any]) -> None:
    planted.pluck(record["path"])


def _unix_request(record: dict[str, Any]) -> None:
    unixhttp.request(record["path"], record["method"], record["url"], timeout_s=10.0)


def _cgroup_kill(record: dict[str, Any]) -> None:
    if not cgroup.kill(record["path"]):
        raise OpError("leftover", "tasks survived cgroup.kill")
    cgroup.remove(record["path"])


def _cgroup_home(record: dict[str, Any]) -> None:
    """Back to the cgroup the tasks came from; it may be gone by now, then they stay."""
    if not os.path.isdir(record["path"]):
        return
    for _ in range(100):  # a task that forked meanwhile is caught by the next pass
        pids = cgroup.pids(record["path"])
        for pid in pids:
            cgroup.enter(record["to"], pid)
        if not pids:
            break
    cgroup.remove(record["path"])


def _cgroup_remove(record: dict[str, Any]) -> None:
    if not cgroup.events(record["path"]).get("populated"):
        cgroup.remove(record["path"])


def _criu_roots(record: dict[str, Any]) -> None:
    leftovers.sweep(record["known"])


def _nft_delete(record: dict[str, Any]) -> None:
    network_lock.delete(record["name"])


UNDO = {
    "address_add": address.give_back,
    "address_del": address.take_off,
    "address_announce": address.tell,
    "criu_roots": _criu_roots,
    "nft_delete": _nft_delete,
    "gate_pluck": _gate_pluck,
    "unix_request": _unix_request,
    "rmtree": _rmtree,
    "rmdir": _rmdir,
    "rename": _rename,
    "run": _run,
    "cgroup_kill": _cgroup_kill,
    "cgroup_home": _cgroup_home,
    "cgroup_remove": _cgroup_remove,
    "files_back": aside.put_back,
    "files_drop": aside.drop,
    "folder_remove": aside.remove_folder,
    "unit_free": systemd.free,
}
