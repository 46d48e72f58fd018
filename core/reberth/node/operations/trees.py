"""Trees through the data pipe: the helper's own descriptors, so that no byte passes the controller's Python.

The source keeps what it sent of each tree, so that the delta in the frozen window is decided here, by content, without
asking the target. The same holds for memory: `memory` trees are what the tasks hold while they run (tree/presend.py),
and of the images only what is not in them goes over.
"""

from __future__ import annotations

import contextlib
import os
import time
from typing import TYPE_CHECKING, Any, Callable

from reberth.node.errors import OpError
from reberth.node.operations import carried
from reberth.node.operations.context import PIPE_WAIT_S, cost, data_pipe
from reberth.node.pages.relay import Channel
from reberth.node.runs.target import Target
from reberth.node.system import procs
from reberth.node.tree.progress import Teller

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

AGAIN_FROM_BYTES = 4 << 20  # less than this is sent faster than memory is searched for what changed meanwhile


def pipe_ready(daemon: Daemon, progress: Any) -> None:
    """Wait until the data connection has reached this helper, and load what transfers need; before the freeze."""
    from reberth.node.tree import arrive, carry, open_files, presend, receive, send  # noqa: F401

    data_pipe(daemon)


def pages_ready(daemon: Daemon, progress: Any) -> None:
    """Wait until the connection for pages has reached this helper, and start the guardian of a copy to come.

    Before the freeze: no process starts later but CRIU, runc and theirs.
    """
    pages_channel(daemon)
    if isinstance(daemon.end, Target) and daemon.end.guardian is None:
        daemon.end.guard()


def pages_channel(daemon: Daemon) -> Channel:
    """Return the connection for pages, both ways."""
    if not daemon.pages_ready.wait(PIPE_WAIT_S) or daemon.pages is None:
        raise OpError("protocol", "no connection for pages was opened")
    return Channel(*daemon.pages, daemon.pages_over.set)


def limit(daemon: Daemon, progress: Any, bytes_s: int) -> None:
    """Send at most so many bytes per second from now on, trees and pages alike; 0: as fast as it goes."""
    daemon.bucket.limit(bytes_s)


def compress(daemon: Daemon, progress: Any, method: str) -> None:
    """Send trees by this method (`zstd`, `zlib`, `none`) from the next piece on; on the target: be ready for it."""
    daemon.packer.use(method)


def tree_send(
    daemon: Daemon,
    progress: Callable[..., None],
    path: str,
    kind: str,
    pids: list[int] | None = None,
    keep: bool = False,
) -> dict[str, Any]:
    """Send a tree; `filesystem-delta` sends what changed since the tree of this path was sent with `keep`.

    `pids` are tasks (with all below them) whose open and mapped files are looked at again whatever their times say; of
    kind `files` and `files-delta` what they write is all that is sent (carried.py).
    """
    if kind in carried.KINDS:
        return carried.files_send(daemon, progress, pids or [], kind == carried.DELTA)
    from reberth.node.tree import open_files, presend, send

    _, out_fd = data_pipe(daemon)
    previous = daemon.snapshots.get(path) if kind == "filesystem-delta" else None
    if kind == "filesystem-delta" and previous is None:
        raise OpError("protocol", f"{path} was never sent in full")
    started, before = time.monotonic(), daemon.packer.wire_bytes
    if kind == "memory":
        found = _memory_send(daemon, progress, path, pids or [], out_fd)
        return {**found, **cost(daemon, started, before)}
    tasks = {t.pid for root in pids or [] for t in procs.tree(root)}
    matchers = {}
    if kind == "images" and daemon.guess is not None:
        matchers = {name: daemon.guess.matcher(places) for name, places in presend.places_of_images(path).items()}
    try:
        snapshot = send.send_tree(
            path,
            out_fd,
            previous=previous,
            always=open_files.open_inodes(tasks),
            flat=kind == "images",
            matchers=matchers,
            packer=daemon.packer,
            on_progress=Teller(progress, daemon.bucket, daemon.packer),
            should_stop=daemon.stop_transfers.is_set,
        )
    except send.TreeError as error:
        raise OpError("transfer", str(error)) from error
    if previous is not None and snapshot.unstable:
        names = ", ".join(sorted(map(ascii, snapshot.unstable))[:4])
        text = f"files changed while the workload was frozen: {names}"
        raise OpError("transfer", text, hint="something outside the workload writes there: stop it, or move that away")
    if keep:
        daemon.snapshots[path] = snapshot
    return {
        "skipped_mounts": sorted(map(str, snapshot.skipped_mounts)),
        "bytes": snapshot.bytes_sent,
        "files": snapshot.files_sent,
        "digest": send.digest_of_sent(snapshot),
        **cost(daemon, started, before),
    }


def _memory_send(
    daemon: Daemon, progress: Callable[..., None], path: str, pids: list[int], out_fd: int
) -> dict[str, Any]:
    """Capture and send what changed since the capture before; a pass that would gain little sends nothing."""
    from reberth.node.tree import presend, send, wire

    earlier, name = daemon.guess, os.path.join(path, "memory")
    matchers, told = {}, Teller(progress)

    def tick() -> None:
        wire.check_stop(daemon.stop_transfers.is_set)
        told(0)

    try:
        if earlier is None or daemon.ahead_bytes >= AGAIN_FROM_BYTES:
            places = presend.capture(pids, name, tick)
            daemon.guess = presend.Guess(name, places)
            matchers = {"memory": earlier.matcher(places)} if earlier is not None else {}
        snapshot = send.send_tree(
            path,
            out_fd,
            flat=True,
            matchers=matchers,
            packer=daemon.packer,
            on_progress=Teller(progress, daemon.bucket, daemon.packer),
            should_stop=daemon.stop_transfers.is_set,
        )
    except send.TreeError as error:
        raise OpError("transfer", str(error)) from error
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)
    daemon.ahead_bytes = snapshot.bytes_sent
    if "memory" in snapshot.sent and daemon.guess is not None:
        daemon.guess.digest = bytes.fromhex(snapshot.sent["memory"][1])
    return {
        "skipped_mounts": [],
        "bytes": snapshot.bytes_sent,
        "files": snapshot.files_sent,
        "digest": send.digest_of_sent(snapshot),
    }


def tree_recv(daemon: Daemon, progress: Callable[..., None], into: str, kind: str) -> dict[str, Any]:
    """Receive a tree; every file is checked against its hash as it comes, the digest is over all of them."""
    if kind in carried.KINDS:
        return carried.files_recv(daemon, progress, kind == carried.DELTA)
    from reberth.node.tree import receive, send

    in_fd, _ = data_pipe(daemon)
    try:
        manifest = receive.recv_tree(
            into,
            in_fd,
            expect_empty=kind != "filesystem-delta" and not _is_paged(daemon, into),
            flat=kind in ("images", "memory"),
            earlier=daemon.earlier,
            on_progress=Teller(progress),
            should_stop=daemon.stop_transfers.is_set,
        )
    except send.TreeError as error:
        raise OpError("transfer", str(error)) from error
    if kind == "memory" and "memory" in manifest.files:
        _keep(daemon, os.path.join(into, "memory"), manifest.files["memory"][1])
    return {
        "digest": receive.digest_of(manifest),
        "files": manifest.files_received,
        "warnings": list(manifest.warnings)[:20],
    }


def _is_paged(daemon: Daemon, into: str) -> bool:
    """Tell whether criu's page server has written pages there, beside which the other images go."""
    inflow = daemon.end.inflow if isinstance(daemon.end, Target) else None
    return inflow is not None and inflow.into == into and inflow.found is not None


def _keep(daemon: Daemon, path: str, digest: str) -> None:
    """Keep what came, to copy from it; without a name it is gone with this process, whatever happens."""
    from reberth.node.tree.receive import Earlier

    fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    os.unlink(path)
    old, daemon.earlier = daemon.earlier, Earlier(fd, bytes.fromhex(digest))
    if old is not None:
        os.close(old.fd)


OPS: dict[str, Callable[..., Any]] = {
    "pipe_ready": pipe_ready,
    "pages_ready": pages_ready,
    "limit": limit,
    "compress": compress,
    "tree_send": tree_send,
    "tree_recv": tree_recv,
    **carried.OPS,
}
