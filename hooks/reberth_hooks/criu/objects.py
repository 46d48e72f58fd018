"""What CRIU refuses or silently leaves out of a process tree: one table of rules over the helper's `describe`.

Each rule was tried with criu 4.2.1 on kernel 6.18 (tests/live/test_doubtful.py); docs/checks.md says what came out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reberth_hooks.types import Check, Level

Facts = Mapping[str, Any]
CAP_SYS_RESOURCE = 1 << 24
GHOST_LIMIT_BYTES = 64 << 20  # as the backends tell criu (--ghost-limit)
# Descriptors without a name that criu 4.2.1 dumps; of any other it says "Can't dump file ... of that type".
KNOWN_ANON = ("[eventfd]", "[eventpoll]", "[signalfd]", "[timerfd]", "inotify", "[fanotify]", "[pidfd]")
# The kernel's names of protocols (`system.sockprotoname`) whose sockets criu 4.2.1 dumps; empty: it does not tell.
KNOWN_PROTOCOLS = (
    *("TCP", "TCPv6", "UDP", "UDPv6", "UDP-Lite", "UDPLITEv6", "RAW", "RAWv6"),
    *("UNIX", "UNIX-STREAM", "NETLINK", "PACKET", ""),
)


NO_IO_URING = (
    "start it where io_uring is off: sysctl kernel.io_uring_disabled=2 before its start, or a seccomp rule that "
    "answers ENOSYS to io_uring_setup, io_uring_enter and io_uring_register"
)


@dataclass(frozen=True, slots=True)
class Rule:
    """One check: `find` answers what speaks against the move, by name; `{}` in `reason` becomes these names."""

    id: str
    find: Callable[[Facts], Iterable[object]]
    reason: str
    remedy: str
    level: Level = Level.FAIL


def _io_uring(facts: Facts) -> list[str]:
    return [name for name in facts["anon"] if "io_uring" in name]


def _strange(facts: Facts) -> list[str]:
    return [name for name in facts["anon"] if "io_uring" not in name and name not in KNOWN_ANON]


def _flag(key: str) -> Callable[[Facts], Iterable[object]]:
    return lambda facts: [key] if facts[key] else []


def _of(key: str) -> Callable[[Facts], Iterable[object]]:
    found: Callable[[Facts], Iterable[object]] = lambda facts: facts[key]  # noqa: E731
    return found


RULES = (
    Rule("io-uring", _io_uring, "the workload uses io_uring, which CRIU cannot dump", NO_IO_URING),
    Rule("anon-inode", _strange, "descriptors that CRIU cannot dump: {}", "close them in the workload"),
    Rule("hugetlb", _flag("hugetlb"), "the workload maps huge pages (hugetlb)", "run it without huge pages"),
    Rule("devices", _of("devices"), "open devices: {}", "close them in the workload"),
    Rule("traced", _of("traced_by"), "processes under a debugger: {}", "detach it"),
    Rule(
        "sockets",
        lambda facts: [name for name in facts["protocols"] if name not in KNOWN_PROTOCOLS],
        "sockets of kinds that CRIU cannot dump: {}",
        "close them in the workload (MPTCP: run it with plain TCP)",
    ),
    Rule(
        "unix-outside",
        _of("unix_outside"),
        "unix sockets are connected to processes outside the workload: {}",
        "end these connections (logging, D-Bus, a database's socket), or move both ends in one container",
    ),
    Rule(
        "unix-unaccepted",
        _of("unix_unaccepted"),
        "connections to unix sockets wait to be accepted, from outside or with words in them: {}",
        "let the server accept them",
    ),
    Rule(
        "mqueue",
        _of("mqueues"),
        "a POSIX message queue is open, which CRIU cannot dump: {}",
        "close it in the workload",
    ),
    Rule(
        "nested",
        _of("nested"),
        "tasks in namespaces of their own within the workload: {}",
        "CRIU moves the namespaces of the root task only: stop what runs in nested ones",
    ),
    Rule(
        "ghosts",
        lambda facts: [path for path, size in facts["ghosts"].items() if size > GHOST_LIMIT_BYTES],
        f"deleted files of more than {GHOST_LIMIT_BYTES >> 20} MiB are open: {{}}",
        "let the workload close or truncate them: deleted files travel inside the images",
    ),
    Rule("pidfd", _of("pidfds"), "pidfds of processes outside the workload: {}", "close them in the workload"),
    Rule(
        "watches",
        _of("watches"),
        "inotify watches on a filesystem whose file handles CRIU cannot follow (overlay): {}",
        "end the watches, or run the workload from another filesystem",
    ),
    Rule(
        "shared-vm",
        _of("shared_vm"),
        "processes that share the memory of their parent (vfork, CLONE_VM): {}",
        "wait until they have started their program",
    ),
    Rule("scheduler", _of("schedulers"), "schedulers that CRIU cannot restore: {}", "use chrt to choose another"),
    Rule(
        "dead-leader",
        _of("dead_leaders"),
        "processes whose first thread has ended while others run: {}",
        "CRIU knows no zombies with threads: restart the workload so that its first thread stays",
    ),
    Rule("frozen", _flag("frozen"), "the workload is frozen or paused", "resume it first"),
    Rule(
        "sysv",
        _of("sysv_items"),
        "SysV objects outside an ipc namespace of its own: {}; they stay behind, silently",
        "run it in an ipc namespace of its own (a container)",
        Level.WARN,
    ),
    Rule(
        "pipes",
        _of("pipes_outside"),
        "pipes lead to processes outside: {}; the copy sees them closed",
        "let its output go to a file",
        Level.WARN,
    ),
    Rule(
        "shared-files",
        _of("files_outside"),
        "open files are shared with processes outside, one offset for both: {}; the copy has an offset of its own",
        "let one of them open the file anew, or append to it",
        Level.WARN,
    ),
    Rule(
        "strangers",
        lambda facts: facts.get("not_looked_at", ()),
        "processes of other users have too many descriptors to be looked through: {}",
        "whether they hold pipes or files of the workload is not known; ask their users",
        Level.WARN,
    ),
    Rule(
        "systemd",
        lambda facts: [task["comm"] for task in facts["tasks"][:1] if task["comm"] == "systemd"],
        "the first process is {}: criu 4.2.1 hangs in it, and it dies when criu is ended",
        "start the workload itself as the container's first process, or a small init",
    ),
    Rule(
        "confined",
        _of("confined"),
        "tasks are confined by a security module: {}",
        "the same profile must be loaded on the target",
        Level.WARN,
    ),
)


def object_checks(facts: Facts, hello: Facts, node: str) -> Iterator[Check]:
    """Yield what speaks against a move in the tasks themselves; nothing for an ordinary tree."""
    for rule in RULES:
        names = list(rule.find(facts))
        if names:
            yield Check(rule.id, rule.level, rule.reason.replace("{}", some(names)), rule.remedy, node)
    if facts["sysv_shm"] and facts["namespaces"]["ipc"] == facts["helper_namespaces"]["ipc"]:
        text = "SysV shared memory outside an ipc namespace of its own"
        yield Check("sysv-shm", Level.FAIL, text, "run it in an ipc namespace of its own (a container)", node)
    foreign = [uid for uid in facts["uids"] if uid != hello.get("uid", 0)]
    if foreign and not int(hello.get("cap_eff", 0)) & CAP_SYS_RESOURCE:
        text = f"processes of user {some(foreign)}, and this root lacks CAP_SYS_RESOURCE"
        remedy = "run where root has CAP_SYS_RESOURCE: CRIU reads the limits of others"
        yield Check("capability", Level.FAIL, text, remedy, node)


def terminals_outside(facts: Facts) -> list[str]:
    """Terminals whose controlling end is not in the tree; a pair that is held at both ends travels by itself."""
    slaves = {f"/dev/pts/{number}" for number in facts["slaves"] if number not in facts["masters"]}
    others = {str(path) for path in facts["terminals"] if not str(path).startswith(("/dev/pts/", "/dev/ptmx"))}
    return sorted(slaves | others)


def some(words: Iterable[object], most: int = 4) -> str:
    """Return the first few, escaped: paths and names come from the workload."""
    shown = [ascii(str(word))[1:-1] for word in words]
    return ", ".join(shown[:most]) + (f" and {len(shown) - most} more" if len(shown) > most else "")
