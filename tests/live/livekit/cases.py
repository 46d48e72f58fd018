"""The workloads that are moved, and for each the loss whose planting its verification must notice."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Case:
    """One kind of workload: its options, what to plant, and a word of the problem that must be reported then."""

    kind: str
    words: tuple[str, ...]
    plant: str
    problem: str
    name: str = ""

    @property
    def id(self) -> str:
        """The name in the list of tests."""
        return self.name or self.kind


RAW = [
    Case("memory", ("--mib", "1024", "--rate", "8"), "byte", "memory differs", "memory-1GiB"),
    Case("tree", ("--processes", "64"), "kill", "do not answer"),
    Case("threads", ("--count", "50"), "sum", "running sum"),
    Case("files", ("--count", "1000"), "offset", "offset of file"),
    Case("tcp", ("--count", "50"), "byte", "wrong byte"),
    Case("ipc", (), "pipe", "pipe of"),
    Case("deleted", (), "byte", "deleted file"),
    Case("shm", (), "memfd", "memfd: differs"),
]
CONTAINERS = [
    Case("memory", ("--mib", "1024", "--rate", "8"), "stale-page", "memory differs", "memory-1GiB"),
    Case("tree", ("--processes", "64"), "kill", "do not answer"),
    Case("threads", ("--count", "50"), "byte", "page differs"),
    Case("files", ("--count", "1000"), "content", "content of file"),
    Case("tcp", ("--count", "50"), "swallow", "wrong byte"),
    Case("ipc", (), "eventfd", "eventfd"),
    Case("deleted", (), "truncate", "deleted file"),
    Case("shm", (), "anonymous", "anonymous: differs"),
    Case("fswriter", (), "stale-content", "differs at 0"),
]
# What a copy of the filesystem may lose, one after the other: later ones must not stand in the way of earlier ones.
FILESYSTEM_PLANTS = [
    ("stale-content", "differs at 0"),
    ("stale-mapped", "differs at 0"),
    ("mtime", "mtime_ns"),
    ("mode", "mode"),
    ("owner", "owner"),
    ("xattr", "extended attributes"),
    ("broken-link", "link"),
    ("orphan", "deleted open file"),
    ("descriptor", "another file"),
    ("special", "special"),
    ("extra", "must not exist"),
    ("swap", "differs"),
    ("missing", "missing"),
]
