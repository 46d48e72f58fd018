"""A test's own stand: it starts workloads on the nodes, knows where each is, and ends them whatever happened."""

from __future__ import annotations

import errno
import itertools
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from workloads import driver
from workloads.driver import Handle

from reberth_lab.node import Node

END_SESSIONS = """
import os, signal, sys, time
def left():
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{name}/stat", "rb") as file:
                words = file.read().rpartition(b")")[2].split()
        except OSError:
            continue
        if words[3].decode() in sys.argv[1:] and words[0] not in (b"Z", b"X"):
            yield int(name)
end = time.monotonic() + 10
while (pids := list(left())) and time.monotonic() < end:
    for pid in pids:
        try: os.kill(pid, signal.SIGKILL)
        except ProcessLookupError: pass
    time.sleep(0.02)
sys.exit(bool(pids))
"""
NOT_HERE = (errno.EPERM, errno.ENOENT, errno.ENODEV, errno.ENOSYS, errno.EPROTONOSUPPORT, errno.EAFNOSUPPORT)
_numbers = itertools.count(1)
_tests = itertools.count()


@dataclass
class Stand:
    """Workloads of one test; `stop_all` at its end."""

    nodes: Sequence[Node]
    handles: list[Handle] = field(default_factory=list)

    def raw(self, kind: str, *words: str, on: Node | None = None, uid: int = 0) -> Handle:
        """Start a bare process (tree) on the first node, or on another one, as root or as another user."""
        first = on or self.nodes[0]
        others = [node for node in self.nodes if node is not first]
        handle = driver.start(first, kind, words, name=f"{kind}-{next(_numbers)}", others=others, uid=uid)
        self.handles.append(handle)
        return handle

    def container(self, kind: str, *words: str, on: Node | None = None, **variant: bool) -> Handle:
        """Start a runc container on the first node, or on another one."""
        return self.named_container(f"{kind}-{next(_numbers)}", kind, *words, on=on, **variant)

    def named_container(self, name: str, kind: str, *words: str, on: Node | None = None, **variant: bool) -> Handle:
        """The same under a name of the test's choice."""
        for one in self.nodes:
            driver.install(one)
        handle = driver.start_container(on or self.nodes[0], name, [kind, *words], **variant)
        self.handles.append(handle)
        return handle

    def stop(self, handle: Handle) -> None:
        """End a workload wherever it is, and remove its files and its empty cgroups."""
        for node in self.nodes:
            driver.stop(node, handle)
            node.run(["rm", "-rf", "--", handle.directory, *([handle.bundle] if handle.bundle else [])])
        if handle in self.handles:
            self.handles.remove(handle)
        for node in self.nodes:
            remove_empty_cgroups(node)

    def stop_all(self) -> None:
        """End them all."""
        for handle in list(self.handles):
            self.stop(handle)


def word_of(node: Node, handle: Handle) -> str:
    """The workload as a user names it."""
    return f"{node.name}:runc/{handle.container}" if handle.container else f"{node.name}:criu/{handle.pid}"


def not_here(text: str) -> bool:
    """Whether an odd program says that this machine's kernel has no such thing."""
    return any(f"[Errno {number}]" in text for number in NOT_HERE)


def beats(path: Path) -> bool:
    """Whether a program goes on: it dates this file anew."""
    before, end_s = path.stat().st_mtime_ns, time.monotonic() + 5
    while time.monotonic() < end_s:
        time.sleep(0.03)
        if path.stat().st_mtime_ns != before:
            return True
    return False


def healthy(node: Node, handle: Handle) -> dict[str, Any]:
    """The workload's own verdict about itself on this node; fails the test with its words when it is not well."""
    result = driver.verify(node, handle)
    assert result["ok"], f"{handle.kind} on {node.name}: {result['problems']}"
    return result


def gone(node: Node, handle: Handle) -> bool:
    """Whether nothing of the workload runs on this node: no container of its name, no process of its folder."""
    if handle.container:
        return node.run(["runc", "state", handle.container], check=False).returncode != 0
    return node.run(["pgrep", "-f", "--", f"--dir {handle.directory}( |$)"], check=False).returncode == 1


def end_sessions(node: Node, leaders: Iterable[int]) -> None:
    """End every process of these sessions, and wait until none is left: the next test must not see one go.

    A moved tree keeps its session. The cgroup that the restore made for it goes as well.
    """
    node.run(["python3", "-c", END_SESSIONS, *map(str, leaders)])
    remove_empty_cgroups(node)


def remove_empty_cgroups(node: Node) -> None:
    """A moved process tree keeps the cgroup that the restore made for it; when it has ended nobody removes that."""
    program = 'for d in /sys/fs/cgroup/reberth-* /sys/fs/cgroup/*/reberth-*; do [ -d "$d" ] && rmdir "$d"; done; :'
    for _ in range(20):
        if node.run(["sh", "-c", f"{program}"], check=False).stderr == "":
            return
        time.sleep(0.1)


def small_pages(nodes: Sequence[Node]) -> None:
    """With transparent huge pages one written byte makes 2 MiB dirty, and no round is smaller than the first."""
    for node in nodes:
        node.run(["sh", "-c", "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled"])


def keep_pids_apart(nodes: Sequence[Node]) -> None:
    """Let each node give out pids of its own range, anew for each test: a moved process must find its pid free."""
    offset = next(_tests) * 97 % 11000
    for number, node in enumerate(nodes):
        node.run(["sh", "-c", f"echo {2000 + number * 14000 + offset} > /proc/sys/kernel/ns_last_pid"])
