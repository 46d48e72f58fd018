"""Checkpoints on another node, written NODE:/DIRECTORY: one archive, and the signed document that vouches for it.

The archive is made and unpacked here, so owners, modes and links of a bundle survive a node that knows none of them.
The node needs a shell, cat, mv, rm, mkdir, df and sha256sum and nothing of reberth: a phone will do. What arrives is
compared by hash before the source is given up; what comes back, before anything of it is unpacked.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

from reberth.archive import directory
from reberth.connect import process as shell
from reberth.connect.plain import PlainShell
from reberth_hooks import CommandError, ConnectionLostError, Node, ReberthError, RefusedError, Route, UsageError

ARCHIVE = "checkpoint.tar"
STALL_S = 30.0
KEEP_ALL = ("--numeric-owner", "--xattrs", "--xattrs-include=*", "--acls")
# Fixed texts for the node's shell; the paths are their arguments.
TAKE = 'umask 077; cat >"$1"'
GIVE = 'exec cat <"$1"'
DIGEST = 'sha256sum <"$1"'
NEW_DIRECTORY = 'umask 077; mkdir -p "$1" && [ -z "$(ls -A "$1")" ]'
PUBLISH = 'sync; mv -f "$1.part" "$1" && sync'
DROP = 'for name in "$@"; do rm -f "$name"; done; rmdir "$1" 2>/dev/null; :'


@dataclass(frozen=True, slots=True)
class Place:
    """A directory of another node; `path` is absolute there."""

    node: str
    path: str

    def __str__(self) -> str:
        return f"{self.node}:{self.path}"

    def file(self, name: str) -> str:
        """Return a file in it."""
        return f"{self.path.rstrip('/')}/{name}"


def parse_place(text: str, nodes: Iterable[str]) -> Place | None:
    """`NODE:/DIRECTORY` of a node that there is; None for a directory of this machine."""
    name, colon, path = text.partition(":")
    if not colon or not path.startswith("/") or name not in nodes:
        return None
    if ".." in PurePosixPath(path).parts or PurePosixPath(path) == PurePosixPath("/"):
        raise UsageError(f"{text!a} is no place for a checkpoint", hint="NODE:/an/absolute/directory")
    return Place(name, path)


class Carrier:
    """Files to and from one node, by plain commands over its route; `on_wait` may raise what ends a wait."""

    def __init__(self, node: Node, route: Route) -> None:
        self.plain, self.route, self.name = PlainShell(node, route), route, node.name
        self.on_wait: Callable[[], None] = lambda: None

    def run(self, text: str, *words: str, stdin: str = "") -> str:
        """Run a fixed text there."""
        return self.plain.run(["sh", "-c", text, "sh", *words], stdin=stdin, timeout_s=120.0).out

    def send(self, file: IO[bytes], path: str) -> None:
        """Send an open file from its beginning; the kernel's pipes carry it, nothing here touches the bytes."""
        file.seek(0)
        self._carry([TAKE, "sh", path], file, shell.NOWHERE, lambda: os.lseek(file.fileno(), 0, os.SEEK_CUR))

    def fetch(self, path: str, file: IO[bytes]) -> None:
        """Fetch a file of the node into an empty open one."""
        self._carry([GIVE, "sh", path], shell.NOWHERE, file, lambda: os.fstat(file.fileno()).st_size)

    def digest(self, path: str) -> str:
        """Return the SHA-256 of a file there."""
        return self.run(DIGEST, path).split()[0]

    def _carry(
        self, words: Sequence[str], stdin: int | IO[bytes], stdout: int | IO[bytes], moved: Callable[[], int]
    ) -> None:
        argv = shell.route_argv(self.route, ["sh", "-c", *words], bulk=True)
        env = dict(self.route.env) or None
        with tempfile.TemporaryFile() as words_of_it:
            process = shell.connect(argv, stdin=stdin, stdout=stdout, stderr=words_of_it, env=env)
            try:
                wait_moving(process, moved, self.on_wait)
            finally:
                shell.end(process, 0.1)
            words_of_it.seek(0)
            if process.returncode != 0:
                said = words_of_it.read(4096).decode(errors="replace").strip()
                raise CommandError(f"a file did not get to or from node {self.name}", hint=self.route.hint, tail=said)


def wait_moving(process: shell.Process, moved: Callable[[], int], on_wait: Callable[[], None]) -> None:
    """Wait for the end of a process; ConnectionLostError when no byte has moved for 30 s."""
    last, since_s = -1, time.monotonic()
    while process.poll() is None:
        on_wait()
        now = moved()
        if now != last:
            last, since_s = now, time.monotonic()
        elif time.monotonic() - since_s > STALL_S:
            process.kill()
            raise ConnectionLostError(f"no byte has moved for {STALL_S:g} s", hint="is the link cut?")
        time.sleep(0.02)


def tar(words: Sequence[str], archive: Path, on_wait: Callable[[], None]) -> None:
    """Run this machine's tar; raises CommandError with its words."""
    argv = ["tar", *KEEP_ALL, f"--file={archive}", *words]
    with tempfile.TemporaryFile() as said:
        process = shell.connect(argv, stdin=shell.NOWHERE, stdout=shell.NOWHERE, stderr=said)
        try:
            while process.poll() is None:
                on_wait()
                time.sleep(0.02)
        finally:
            shell.end(process, 0.1)
        said.seek(0)
        if process.returncode != 0:
            tail = said.read(4096).decode(errors="replace").strip()
            raise CommandError(f"tar ended with {process.returncode}", tail=tail)


class FarDirectory(directory.Directory):
    """A checkpoint that is written here and carried to a place of another node before the source is given up.

    `stranded` is why the last step there failed: then the checkpoint that is complete here is the one that counts.
    """

    def __init__(self, place: Place, carrier: Carrier, *args: Any) -> None:
        self.place, self.carrier = place, carrier
        self.stranded: ReberthError | None = None
        super().__init__(*args)

    @property
    def archive(self) -> Path:
        """Return the archive on this machine, beside the directory."""
        return self.path.with_name(ARCHIVE)

    def _op_space(self, paths: list[str]) -> dict[str, int]:
        far = self.carrier.plain.free_bytes(self.place.path)
        return {path: min(free, far) for path, free in super()._op_space(paths).items()}

    def _op_restore(self, **words: Any) -> dict[str, Any]:
        """Check that all of it is there and the same, before a vote is asked for; a failure lets the source run on."""
        answer = super()._op_restore(**words)
        self.carrier.on_wait = self.on_wait
        names = sorted(entry.name for entry in self.path.iterdir() if entry.name != directory.SIGNED)
        how = ["--create", "--format=posix", "--sparse", f"--directory={self.path}"]
        tar([*how, "--", *names], self.archive, self.on_wait)
        with self.archive.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            self.carrier.send(file, self.place.file(ARCHIVE))
        if self.carrier.digest(self.place.file(ARCHIVE)) != digest:
            raise CommandError(
                f"what arrived in {self.place} is not what was sent", hint="is the link or a disk faulty?"
            )
        directory.write_signed(self.path, {**self.about(), "archive": digest})
        document = (self.path / directory.SIGNED).read_text(encoding="utf-8")
        self.carrier.run(TAKE, self.place.file(f"{directory.SIGNED}.part"), stdin=document)
        return answer

    def _op_decide(self, value: str) -> dict[str, Any]:
        """PERMIT lets the document get its name, ABORT removes what was carried."""
        facts = super()._op_decide(value)
        try:
            if facts["verdict"] == "PERMIT":
                self.carrier.run(PUBLISH, self.place.file(directory.SIGNED))
            else:
                files = [self.place.file(name) for name in (f"{directory.SIGNED}.part", ARCHIVE)]
                self.carrier.run(DROP, self.place.path, *files)
        except ReberthError as error:
            self.stranded = error
        return facts


def fetch(place: Place, carrier: Carrier, into: Path) -> None:
    """Bring a checkpoint of another node into an empty directory here; RefusedError unless it is what was written."""
    try:
        document = carrier.run(GIVE, place.file(directory.SIGNED))
    except CommandError as error:
        raise UsageError(
            f"{str(place)!a} is no checkpoint", hint="reberth checkpoint SOURCE DIR", tail=error.tail
        ) from error
    about = directory.unsealed(document, str(place))
    archive = into.with_name(ARCHIVE)
    with archive.open("w+b") as file:
        carrier.fetch(place.file(ARCHIVE), file)
        file.seek(0)
        if hashlib.file_digest(file, "sha256").hexdigest() != about.get("archive"):
            raise RefusedError(
                f"the archive in {str(place)!a} is not as it was written", hint="restore from another copy"
            )
    tar(["--extract", "--preserve-permissions", "--same-owner", f"--directory={into}"], archive, lambda: None)
    archive.unlink()
    (into / directory.SIGNED).touch(mode=0o600)
    (into / directory.SIGNED).write_text(document, encoding="utf-8")


def new_place(place: Place, carrier: Carrier) -> None:
    """Make the directory, or find it empty; UsageError when something is in it."""
    try:
        carrier.run(NEW_DIRECTORY, place.path)
    except CommandError as error:
        raise UsageError(
            f"{str(place)!a} is not empty, or cannot be made", hint="name a new directory", tail=error.tail
        ) from error
