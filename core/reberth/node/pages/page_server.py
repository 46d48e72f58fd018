"""The target's side of the transport `page-server`: criu's page server writes what comes, and this proves that it did.

It has its socket from us and never listens. What criu takes for a good end is none here: the source must have said the
end, pages and holes must be as many as it sent, their SHA-256 the same, criu must have ended well, and its files must
have the size of the pages.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
import subprocess
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from reberth.node.errors import OpError
from reberth.node.operations.context import target_of
from reberth.node.pages.relay import PS_IOV_ADD_F
from reberth.node.pages.wire import (
    END,
    MESSAGE_BYTES,
    PAGE_BYTES,
    PS_IOV_FORCE_CLOSE,
    PS_IOV_OPEN2,
    PS_IOV_PARENT,
    Counts,
    Message,
    checked,
    header_of,
    unpack,
)
from reberth.node.system import orphans, spawn
from reberth.node.tree.hash import HashLane
from reberth.node.tree.progress import Teller
from reberth.node.tree.wire import DIGEST_BYTES, Output, Reader, TreeError

if TYPE_CHECKING:
    from reberth.node.daemon.loop import Daemon

END_S = 10.0
ANSWER_S = 10.0


class Inflow:
    """One page server in one directory of images."""

    def __init__(self, into: str, header_bytes: int, run_id: str, tools: str = "") -> None:
        self.into, self.header_bytes, self.run_id, self.tools = into, header_bytes, run_id, tools
        header_of(header_bytes)
        self.work = os.path.join(into, "page-server")
        self.log = os.path.join(self.work, "page-server.log")
        self.process: subprocess.Popen[bytes] | None = None
        self.ours: socket.socket | None = None
        self.found: dict[str, Any] | None = None
        self._ended = threading.Event()

    def start(self, parent: str) -> None:
        """Start the page server, while the workload still runs; `parent` is the round before as seen from `into`."""
        if parent and (os.path.isabs(parent) or not os.path.isdir(os.path.join(self.into, parent))):
            raise OpError("bad-argument", f"{parent!a} is no directory beside {self.into!a}")
        os.mkdir(self.work, 0o700)
        self.ours, theirs = socket.socketpair()
        argv = ["criu", "page-server", "--no-default-config", "-v2", "--images-dir", self.into]
        argv += ["--work-dir", self.work, "--log-file", "page-server.log", "--ps-socket", str(theirs.fileno())]
        argv += ["--prev-images-dir", parent] if parent else []
        output = os.path.join(self.work, "page-server.out")
        with theirs:
            mark, fds = {orphans.MARK: self.run_id}, [theirs.fileno()]
            self.process = spawn.spawn(argv, output=output, cwd=self.into, env=mark, cgroup=self.tools, pass_fds=fds)

    def take(self, in_fd: int, told: Callable[[int], None], should_stop: Callable[[], bool]) -> dict[str, Any]:
        """Hand over what comes until the source's end; answers pages, holes, bytes, digest. Raises OpError `pages`."""
        assert self.ours is not None and self.process is not None

        def stop() -> bool:
            return self._ended.is_set() or should_stop()

        try:
            with HashLane() as lane:
                out = Output(self.ours.fileno(), stop)
                try:
                    counts = self._flow(Reader(in_fd, stop), out, Counts(lane), told)
                finally:
                    out.close()
                self._check_files(counts)
                return {**counts.facts(), "digest": counts.digest().hex()}
        except (TreeError, OSError) as error:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(0.2)
            tail = spawn.first_errors(self.log, os.path.join(self.work, "page-server.out"))
            raise OpError("pages", f"criu's page server: {error}" if tail else str(error), tail=tail) from error
        finally:
            self.end()

    def _flow(self, reader: Reader, out: Output, counts: Counts, told: Callable[[int], None]) -> Counts:
        while True:
            message = unpack(reader.exact(MESSAGE_BYTES))
            if message.word == END:
                counts.check(message, reader.exact(DIGEST_BYTES))
                out.write(Message(PS_IOV_FORCE_CLOSE, 0, 0, 0).for_criu(self.header_bytes))
                if self._answer("<i"):
                    raise OpError("pages", "criu's page server could not write its pages")
                self._wait()
                return counts
            checked(message)
            if message.command in (PS_IOV_OPEN2, PS_IOV_PARENT):
                out.write(message._replace(pages=0).for_criu(self.header_bytes))
                known = self._answer("<b" if message.command == PS_IOV_OPEN2 else "<i")
                if known != message.pages:
                    raise OpError("pages", "source and target differ about what the round before has")
            elif message.command == PS_IOV_ADD_F:
                out.write(message.for_criu(self.header_bytes))
            else:
                raise OpError("pages", f"a message out of place: {message.word:#x}")
            counts.note(message)
            counts.carry(reader, out, message.body_bytes, lambda count: told(counts.bytes))

    def _answer(self, form: str) -> int:
        """Return what criu answers.

        An older or newer one than we think waits for the rest of our message, and so do we.
        """
        assert self.ours is not None
        size, data = struct.calcsize(form), b""
        self.ours.settimeout(ANSWER_S)
        while len(data) < size:
            piece = self.ours.recv(size - len(data))
            if not piece:
                raise OSError("it has hung up")
            data += piece
        self.ours.settimeout(None)
        return int(struct.unpack(form, data)[0])

    def _wait(self) -> None:
        assert self.process is not None
        try:
            code = self.process.wait(END_S)
        except subprocess.TimeoutExpired as error:
            raise OSError("it does not end") from error
        if code != 0:
            raise OSError(f"it ended with {code}")

    def _check_files(self, counts: Counts) -> None:
        """As many bytes of pages as came, as many tables as there are owners."""
        names = os.listdir(self.into)
        pages = sum(os.path.getsize(os.path.join(self.into, n)) for n in names if n.startswith("pages-"))
        tables = sum(1 for n in names if n.startswith("pagemap-"))
        if pages != counts.pages * PAGE_BYTES or tables != len(counts.owners):
            text = (
                f"{pages} bytes of pages in {tables} tables were written, {counts.bytes} in {len(counts.owners)} came"
            )
            raise OpError("pages", text)

    def end(self) -> None:
        """End the page server, whatever it does."""
        self._ended.set()
        if self.process is not None and self.process.poll() is None:
            spawn.kill_group(self.process)
            self.process.wait()
        if self.ours is not None:
            self.ours.close()


def pages_listen(daemon: Daemon, progress: Any, into: str, header_bytes: int, parent: str = "") -> None:
    """Start criu's page server in the directory `into`, made if missing; again for the same one: nothing."""
    end = target_of(daemon)
    if end.inflow is not None and end.inflow.into == into:
        return
    if not os.path.isdir(into):
        os.mkdir(into, 0o700)
    one = Inflow(into, header_bytes, end.run.id, end.run.tools)
    one.start(parent)
    end.inflow = one


def pages_recv(daemon: Daemon, progress: Callable[..., None], into: str) -> dict[str, Any]:
    """Take the pages of one dump from the data connection, and prove that all are there; again: the same answer."""
    end = target_of(daemon)
    one = end.inflow
    if one is None or one.into != into:
        raise OpError("protocol", f"no page server works in {into!a}")
    if one.found is None:
        one.found = one.take(end.pipe()[0], Teller(progress), daemon.stop_transfers.is_set)
        end.run.journal.write("pages", into=into, **one.found)
    return one.found


OPS: dict[str, Callable[..., Any]] = {"pages_listen": pages_listen, "pages_recv": pages_recv}
