"""The helper's loop: JSON lines from the controller, each request in a thread of its own, answers as they come.

It leaves its connection while a run is open: own session, own cgroup, SIGHUP ignored. End of file, or ten seconds
without any message, means "controller lost"; then the two ends act by themselves (`Source.lost`, `Target.lost`). A
later connection is handed over through a private socket (`ctl`) by passing descriptors, for control and for data.
"""

from __future__ import annotations

import array
import contextlib
import json
import os
import shutil
import signal
import socket
import struct
import threading
import time
import traceback
from typing import TYPE_CHECKING, Any

from reberth.node.daemon import stale
from reberth.node.errors import OpError
from reberth.node.freeze import cgroup
from reberth.node.operations import table
from reberth.node.runs.peer import Line
from reberth.node.runs.source import Source
from reberth.node.runs.target import Target
from reberth.node.system.durable import boottime_ns
from reberth.node.system.rate_limit import Bucket
from reberth.node.tree.compression import Packer

if TYPE_CHECKING:
    from reberth.node.tree.arrive import Arrivals
    from reberth.node.tree.carry import Sender
    from reberth.node.tree.presend import Guess
    from reberth.node.tree.receive import Earlier

SILENCE_S = 10.0
PROBE_S = 60.0
LINE_LIMIT_BYTES = 16 << 20  # both ways; the controller reads no longer line


class Control:
    """One controller's connection: a reader and a writer descriptor."""

    def __init__(self, read_fd: int, write_fd: int) -> None:
        self.reader = os.fdopen(read_fd, "rb", buffering=1 << 16)
        self.write_fd = write_fd
        self.lock = threading.Lock()

    def send(self, message: dict[str, Any]) -> None:
        """Write one line; a broken connection is noticed by the reader."""
        text = json.dumps(message, separators=(",", ":")) + "\n"
        if len(text) > LINE_LIMIT_BYTES:
            words = {"kind": "too-large", "message": f"the answer has {len(text)} bytes", "hint": "", "tail": ""}
            text = json.dumps({"id": message.get("id"), "error": words}) + "\n"
        data = memoryview(text.encode())
        with self.lock, contextlib.suppress(OSError):
            while data:
                data = data[os.write(self.write_fd, data) :]

    def close(self) -> None:
        """Give the descriptors back: the far end reads end of file."""
        with contextlib.suppress(OSError):
            self.reader.close()
        fd, self.write_fd = self.write_fd, -1  # a late answer must never go to whatever gets this number next
        with self.lock, contextlib.suppress(OSError):
            os.close(fd)


class Daemon:
    """What the operations share: the end of the move this node is, the data pipe, the trees sent so far."""

    def __init__(self, directory: str) -> None:
        self.dir = directory
        self.end: Source | Target | None = None
        self.control: Control | None = None
        self.bulk: tuple[int, int] | None = None
        self.bulk_ready = threading.Event()
        self.pages: tuple[int, int] | None = None
        self.pages_ready, self.pages_over = threading.Event(), threading.Event()
        self.probe: tuple[int, int] | None = None
        self.probe_ready, self.probe_over = threading.Event(), threading.Event()
        self.bucket, self.packer = Bucket(), Packer()
        self.snapshots: dict[str, Any] = {}
        self.files_sender: Sender | None = None  # source: the files that travel with a process tree
        self.arrivals: Arrivals | None = None  # target: the same
        self.guess: Guess | None = None  # source: what the target has of the tasks' memory
        self.ahead_bytes = 0  # source: sent by the newest pass over memory
        self.earlier: Earlier | None = None  # target: the memory that came last
        self.stop_transfers = threading.Event()
        self.heard_ns = boottime_ns()
        self.done = threading.Event()
        self.handed_over = threading.Event()
        self.home_cgroup = ""
        self.only_looks = False
        self.line: Line | None = None  # to the other node's helper, where the nodes reach each other

    # A controller's connection

    def serve(self, control: Control) -> None:
        """Read requests until the connection ends, then act on its loss."""
        self.control = control
        self.heard_ns = boottime_ns()
        while True:
            try:
                line = control.reader.readline(LINE_LIMIT_BYTES)
            except (OSError, ValueError):
                line = b""
            if not line.endswith(b"\n"):
                break
            self.heard_ns = boottime_ns()
            try:
                request = json.loads(line)
            except (ValueError, RecursionError):
                break
            if not isinstance(request, dict):
                break
            if request.get("op") == "bye":
                control.send({"id": request.get("id"), "ok": None})
                break
            if request.get("op") == "adopt" and self._hand_over(control, request):
                return
            threading.Thread(target=self._answer, args=(control, request), daemon=True).start()
        if self.control is control:
            self.lost()

    def _answer(self, control: Control, request: dict[str, Any]) -> None:
        number = request.get("id")

        def progress(**data: Any) -> None:
            control.send({"id": number, "progress": data})

        try:
            value = table.call(self, str(request.get("op")), _args(request), progress)
            control.send({"id": number, "ok": value})
        except OpError as error:
            text = {"kind": error.kind, "message": error.message, "hint": error.hint, "tail": error.tail}
            control.send({"id": number, "error": text})
        except Exception as error:  # a bug here must reach the controller, not only our log
            traceback.print_exc()
            text = {
                "kind": "bug",
                "message": f"{type(error).__name__}: {error}",
                "hint": "",
                "tail": traceback.format_exc(),
            }
            control.send({"id": number, "error": text})

    def lost(self) -> None:
        """The controller is gone; an open run acts by itself and keeps this process until it has an end."""
        self.control = None
        self.stop_transfers.set()
        if self.end is None or self.only_looks or self.end.lost() or self.end.abandoned():
            self.done.set()

    def watch(self) -> None:
        """Notice a connection that is silent but not closed (a cut link, a suspended laptop).

        What could not be done about a loss (a full disk, a task that does not die) is tried again every second.
        """
        while not self.done.wait(1.0):
            silent_s = (boottime_ns() - self.heard_ns) / 1e9
            if self.end is not None and (self.control is None or silent_s > SILENCE_S):
                self.lost()

    # Descriptors that arrive later

    def listen(self) -> None:
        """Take control and data connections handed over through the private socket."""
        server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        server.bind(os.path.join(self.dir, "ctl"))
        server.listen(4)
        while True:
            peer, _ = server.accept()
            uid = struct.unpack("3i", peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[1]
            if uid != os.getuid():
                peer.close()
                continue
            threading.Thread(target=self._take, args=(peer,), daemon=True).start()

    def _take(self, peer: socket.socket) -> None:
        data, fds, _, _ = socket.recv_fds(peer, 4096, 2)
        if len(fds) != 2:
            peer.close()
            return
        if data == b"bulk":
            self.bulk = (fds[0], fds[1])
            self.bulk_ready.set()
            self.done.wait()
        elif data == b"pages":
            self.pages = (fds[0], fds[1])
            self.pages_ready.set()
            while not self.pages_over.wait(1.0) and not self.done.is_set():
                pass
        elif data == b"probe":
            self.probe, self.probe_over = (fds[0], fds[1]), threading.Event()
            self.probe_ready.set()
            self.probe_over.wait(PROBE_S)  # the connection is there for as long as we hold this one
        elif data == b"control":
            old, control = self.control, Control(fds[0], fds[1])
            self.stop_transfers.clear()
            self.control = control
            if old is not None:
                old.send({"event": "replaced"})
            self.serve(control)
            control.close()
        peer.close()

    def _hand_over(self, control: Control, request: dict[str, Any]) -> bool:
        """Pass this connection to the helper that still serves the run; false when none does."""
        path = table.live_socket(str(_args(request).get("run_id")))
        if not path:
            return False
        peer = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            peer.connect(path)
            fds = array.array("i", [control.reader.fileno(), control.write_fd])
            peer.sendmsg([b"control"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, fds)])
        except OSError:
            peer.close()
            return False
        control.send({"id": request.get("id"), "ok": {"live": True}})
        peer.recv(1)  # end of file when the other helper is through with it
        self.done.set()
        return True

    # Life of the process

    def leave_connection(self, run_id: str) -> None:
        """From now on survive the login session: a cgroup of our own keeps us out of its clean-up."""
        mount = cgroup.mount_point()
        if not mount or self.home_cgroup:
            return
        with contextlib.suppress(OSError, OpError):
            self.home_cgroup = cgroup.of_pid(os.getpid())
            path = os.path.join(mount, f"reberth-helper-{run_id}")
            if self.end is not None:  # for the helper that takes over when this process is killed
                self.end.run.push_undo("always", "cgroup_remove", path=path)
            cgroup.create(path)
            cgroup.enter(path, os.getpid())

    def close(self) -> None:
        """Leave nothing: guardian, cgroup, socket, directory; the other helper hears the end first."""
        if self.line is not None:
            self.line.close()
        if isinstance(self.end, Target) and self.end.guardian is not None:
            self.end.guardian.release()
        with contextlib.suppress(OSError, OpError):
            mine = cgroup.of_pid(os.getpid())
            if self.home_cgroup and os.path.basename(mine).startswith("reberth-helper-"):
                home = self.home_cgroup if os.path.isdir(self.home_cgroup) else cgroup.mount_point()
                cgroup.enter(home, os.getpid())
                cgroup.remove(mine)
            if self.end is not None and not self.only_looks and self.end.run.tools:
                cgroup.remove(self.end.run.tools)  # if it is empty; of an open run a tool may still work in it
        shutil.rmtree(self.dir, ignore_errors=True)


def _args(request: dict[str, Any]) -> dict[str, Any]:
    args = request.get("args")
    return args if isinstance(args, dict) else {}


def main(directory: str, started: int) -> None:
    """Serve the connection on descriptors 0 and 1; `started` is closed when this connection is over."""
    log = os.open(os.path.join(directory, "helper.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    control = Control(os.dup(0), os.dup(1))
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.dup2(log, 2)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    daemon = Daemon(directory)
    threading.Thread(target=daemon.listen, daemon=True).start()
    threading.Thread(target=daemon.watch, daemon=True).start()
    threading.Thread(target=stale.sweep, args=(directory,), daemon=True).start()

    def first() -> None:
        daemon.serve(control)
        if not daemon.done.is_set() or daemon.end is None:
            control.close()
        os.close(started)

    threading.Thread(target=first, daemon=True).start()
    daemon.done.wait()
    time.sleep(0.05)  # a last answer may be on its way
    daemon.close()
    os._exit(0)
