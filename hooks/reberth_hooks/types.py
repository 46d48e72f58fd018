"""The data that flows through a migration: frozen, JSON-able, units in the names, ratios from 0 to 1.

argv -> Request -> Plan -> Session -> phases -> Report; nothing flows back. Times are seconds (`_s`), sizes bytes
(`_bytes`), stamps of a node nanoseconds of its CLOCK_BOOTTIME (`_ns`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Any


class Mode(StrEnum):
    """How memory travels; `AUTO` lets the planner choose from what both nodes can do."""

    AUTO = "auto"
    STOP_AND_COPY = "stop-and-copy"
    PRE_COPY = "pre-copy"
    POST_COPY = "post-copy"
    HYBRID = "hybrid"
    NEAR_LIVE = "near-live"


class Phase(IntEnum):
    """The phases in their order; each has one hook, `reberth_<name>`."""

    PREPARE = 0
    RECEIVE = 1
    CHECKPOINT = 2
    TRANSFER = 3
    RESTORE = 4
    COMMIT = 5
    ROLLBACK = 6


class Channel(StrEnum):
    """What a transport carries: trees of files, or pages straight out of memory."""

    FILES = "files"
    MEMORY = "memory"


class Level(StrEnum):
    """The verdict of one preflight check."""

    OK = "ok"
    WARN = "warn"
    FAIL = "fail"


class Owner(StrEnum):
    """Who may run the workload now; the journals always tell."""

    SOURCE = "source"
    NOBODY = "nobody"
    TARGET = "target"


@dataclass(frozen=True, slots=True)
class Workload:
    """What moves, written `[NODE:][BACKEND/]NAME`."""

    node: str
    backend: str
    name: str

    def __str__(self) -> str:
        return f"{self.node}:{self.backend}/{self.name}"


@dataclass(frozen=True, slots=True)
class Node:
    """A machine of the inventory; a plugin outside `plugins` is never called for it.

    `options` maps a plugin's name to its table in the configuration (`[nodes.NAME.PLUGIN]`).
    """

    name: str
    address: str = ""
    connector: str = "ssh"
    become: str = "none"
    backends: tuple[str, ...] = ()
    transports: tuple[str, ...] = ()
    wrappers: tuple[str, ...] = ()
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def options_of(self, plugin: str) -> Mapping[str, Any]:
        """Return the plugin's table for this node, empty when there is none."""
        return self.options.get(plugin, {})

    @property
    def plugins(self) -> frozenset[str]:
        """Names of every plugin that may be called for this node."""
        return frozenset({self.connector, *self.backends, *self.transports, *self.wrappers})


@dataclass(frozen=True, slots=True)
class Route:
    """How a connector reaches a node, as data: the words before a command.

    `control` carries commands and heartbeats, `bulk` a second connection for data, so that neither queues behind the
    other; `pages` is one that outlasts an outage of a minute (or empty: `bulk`). With `quoted` the far end joins the
    words and hands them to a login shell, so the host quotes each.
    `hint` says where to look when the connection dies. Without `helper` the node has no Python: it is served by plain
    commands over the same route, and can keep files but run no workload. With `api` there is no login, only the
    API of a daemon, which the connector's plugin asks itself (`reberth_answer`).
    """

    control: tuple[str, ...] = ()
    bulk: tuple[str, ...] = ()
    pages: tuple[str, ...] = ()
    quoted: bool = False
    become: tuple[str, ...] = ()
    hint: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    helper: bool = True
    api: bool = False


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the preflight: id, verdict, reason and remedy; `node` is empty when it is about the pair."""

    id: str
    level: Level
    reason: str
    remedy: str = ""
    node: str = ""


@dataclass(frozen=True, slots=True)
class Found:
    """One workload that a backend sees on a node."""

    backend: str
    name: str
    status: str
    pid: int = 0
    memory_bytes: int = 0
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Options:
    """What the user asked for beyond source and target; everything has a default that is safe.

    `given` are the words that stood on the command line itself, which count more than what a workload says of itself.
    """

    mode: Mode = Mode.AUTO
    policy: str = "downtime"
    max_downtime_s: float = 0.3
    iterations: int = 10
    goal: int = 70
    bandwidth_bytes_s: int = 0
    compress: str = "auto"
    tcp_established: bool = False
    tcp_close: bool = False
    timeout_s: float = 0.0
    keep_images: bool = False
    lazy_restore: bool = True
    memory_ahead: bool = True
    files: str = "auto"
    on_failure: str = "hold"
    move_address: str = ""
    unit: bool = False
    skip: tuple[str, ...] = ()
    verify: tuple[str, ...] = ()
    backend_args: Mapping[str, Any] = field(default_factory=dict)
    given: tuple[str, ...] = field(default=(), compare=False)


@dataclass(frozen=True, slots=True)
class Plan:
    """What will happen, decided before anything is touched; printable and storable.

    `routes` says which transport carries each channel. `details` holds what the backend found out in its checks and
    needs again in its phases (paths, ids, pids), under keys of its own. `managed`: the backend's own daemons carry it
    (`Declaration.managed`).
    """

    id: str
    workload: Workload
    source: Node
    target: Node
    target_name: str
    mode: Mode
    why: str
    options: Options
    routes: Mapping[str, str]
    checks: tuple[Check, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    managed: bool = False

    @property
    def rounds_mode(self) -> Mode:
        """Return the mode by which we do the rounds.

        One final one where the backend carries, and goes round, by itself.
        """
        return Mode.STOP_AND_COPY if self.managed else self.mode

    @property
    def refused(self) -> tuple[Check, ...]:
        """Return the checks that forbid the move."""
        return tuple(c for c in self.checks if c.level is Level.FAIL)


@dataclass(frozen=True, slots=True)
class Survey:
    """What a backend says about one planned move: its checks, and the details its phases need again.

    `mode` and `why` are for a backend that chooses between its modes itself, where none was asked for.
    `unfit` maps a mode that the backend offers but not for this move to the check that says why.
    """

    checks: tuple[Check, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    unfit: Mapping[str, Check] = field(default_factory=dict)
    mode: Mode | None = None
    why: str = ""


@dataclass(frozen=True, slots=True)
class Round:
    """One pass over memory; the final one freezes, a lazy one leaves the pages behind."""

    index: int
    final: bool = True
    lazy: bool = False


@dataclass(frozen=True, slots=True)
class Tree:
    """A parcel of files: `path` on the source goes to `into` on the target.

    `kind` is `images` (flat, CRIU's files), `filesystem` (a rootfs or bundle), `filesystem-delta` (what changed
    since the tree of the same `path` was sent before, decided by content), `files` and `files-delta` (what the tasks
    `pids` write, each file at its own path) or `memory` (what the tasks `pids` hold
    while they run: images that follow need only what is not in it).
    """

    kind: str
    path: str
    into: str
    pids: tuple[int, ...] = ()
    channel: Channel = Channel.FILES


@dataclass(frozen=True, slots=True)
class Iteration:
    """What a round cost; names as in CRIU's stats-dump."""

    index: int
    pages_scanned: int = 0
    pages_written: int = 0
    pages_skipped_parent: int = 0
    pages_lazy: int = 0
    bytes: int = 0
    seconds: float = 0.0
    frozen_us: int = 0


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Answer of a checkpoint: what must travel, what it cost, and when the freeze began (0: it did not freeze).

    `earlier` are rounds that the backend's own tool went before this one, and `why` is why it went no more.
    """

    parcels: tuple[Tree, ...]
    iteration: Iteration
    frozen_ns: int = 0
    held_ns: int = 0
    earlier: tuple[Iteration, ...] = ()
    why: str = ""


@dataclass(frozen=True, slots=True)
class Receipt:
    """Answer of a transfer: what arrived, verified against the source's manifest.

    `wire_bytes` is what the data was on its way, where it was compressed.
    """

    kind: str
    into: str
    bytes_sent: int
    files: int
    seconds: float = 0.0
    wire_bytes: int | None = None


@dataclass(frozen=True, slots=True)
class Restored:
    """Answer of a restore: the copy is complete and held; it has not run yet."""

    name: str
    pid: int
    tasks: int = 0
    held_ns: int = 0


@dataclass(frozen=True, slots=True)
class Event:
    """Something that observers may show: `kind` is phase, progress, warning, step or end."""

    kind: str
    phase: str = ""
    text: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)


def plain(value: Any) -> Any:
    """Turn any of these types into what JSON can hold; a field of the name `secret` is left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value) if f.name != "secret"}
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(v) for v in value]
    if isinstance(value, (StrEnum, IntEnum)):
        return value.value
    return value
