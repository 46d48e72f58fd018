"""Starting the backend's tools on the node: argument lists, a clean environment, output to a file or bounded memory."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import selectors
import shutil
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from typing import Any

from reberth.node.errors import OpError
from reberth.node.system.ends import Adopted

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
OUTPUT_LIMIT_BYTES = 8 << 20
LAST_WORDS_S = 1.0
LINE_CHARS, PIECE_BYTES = 4096, 64 << 10
SPARED = -900  # of -1000 to 1000
# criu says this first wherever root lacks CAP_SYS_RESOURCE, and goes on.
NOISE = "rlimit: Can't setup RLIMIT_NOFILE for self"

# Enters the cgroup first and then becomes the tool; every value is an argument, none is parsed.
ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'
# The same for a tool whose parent shall be init: it waits for a word until the shell that has started it is gone.
ORPHAN = 'exec 3<&0; setsid /bin/sh -c "$0" "$@" 0<&3 3<&- >&2 & echo $!'
WAIT = 'read -r _ && exec </dev/null && exec "$@"'


def clean_env(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Nothing of the login's environment reaches a tool (CRIU_*, LD_*, PYTHON* and the like change what it does)."""
    return {"PATH": PATH, "HOME": "/root", "LC_ALL": "C", **(extra or {})}


def resolve(argv: Sequence[str]) -> list[str]:
    """Return the argument list with an absolute program; raises OpError `missing` when it is not installed."""
    if not argv or not all(isinstance(word, str) and "\0" not in word for word in argv):
        raise OpError("bad-argument", "an argument list holds words without NUL")
    found = shutil.which(argv[0], path=PATH)
    if found is None:
        raise OpError(
            "missing", f"{argv[0]} is not installed", hint=f"install {os.path.basename(argv[0])} on this node"
        )
    return [found, *argv[1:]]


def direct_lacks() -> str:
    """Return what a TLS connection from node to node needs and is not here, empty when all is.

    Loading ssl takes too long.
    """
    if importlib.util.find_spec("_ssl") is None:
        return "Python's ssl module"
    return "" if shutil.which("openssl", path=PATH) else "openssl(1)"


def run(
    argv: Sequence[str],
    *,
    timeout_s: float = 30.0,
    stdin: str = "",
    env: Mapping[str, str] | None = None,
    cwd: str = "/",
) -> dict[str, Any]:
    """Run a program to its end; returns code, out, err. A program over its time is killed with all its children."""
    words = resolve(argv)
    with subprocess.Popen(
        words,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_env(env),
        cwd=cwd,
        start_new_session=True,
    ) as process:
        said, late = threading.Event(), threading.Event()
        threading.Thread(target=_end_of_words, args=(process, said), daemon=True).start()
        threading.Thread(target=_end_if_late, args=(process, said, late, timeout_s), daemon=True).start()
        try:
            out, err = _talk(process, stdin.encode())
            process.wait()
        finally:
            said.set()
    if late.is_set():
        raise OpError("timeout", f"{argv[0]} did not end within {timeout_s:g} s")
    return {
        "code": process.returncode,
        "out": out.decode("utf-8", "backslashreplace"),
        "err": err.decode("utf-8", "backslashreplace"),
    }


def _talk(process: subprocess.Popen[bytes], stdin: bytes) -> tuple[bytes, bytes]:
    """Give a program its input and take what it says: the begin of its output, the end of its errors, and no more.

    What it says may be a container's own words, without an end.
    """
    streams = process.stdin, process.stdout, process.stderr
    assert streams[0] is not None and streams[1] is not None and streams[2] is not None
    out, err = bytearray(), bytearray()
    view = memoryview(stdin)
    with selectors.DefaultSelector() as ready:
        ready.register(streams[1], selectors.EVENT_READ, out)
        ready.register(streams[2], selectors.EVENT_READ, err)
        if view:
            os.set_blocking(streams[0].fileno(), False)
            ready.register(streams[0], selectors.EVENT_WRITE)
        else:
            streams[0].close()
        while ready.get_map():
            for key, _ in ready.select():
                if key.fileobj is streams[0]:
                    view = _given(key.fd, view)
                    if view:
                        continue
                elif data := os.read(key.fd, PIECE_BYTES):
                    _kept(key.data, data, first=key.data is out)
                    continue
                ready.unregister(key.fileobj)
                if key.fileobj is streams[0]:
                    streams[0].close()
    return bytes(out), bytes(err[-OUTPUT_LIMIT_BYTES:])


def _kept(said: bytearray, data: bytes, *, first: bool) -> None:
    """Add to what was said: of output the first part is kept, of errors the last."""
    said.extend(data)
    if first:
        del said[OUTPUT_LIMIT_BYTES:]
    elif len(said) > 2 * OUTPUT_LIMIT_BYTES:
        del said[:-OUTPUT_LIMIT_BYTES]


def _given(fd: int, view: memoryview) -> memoryview:
    """Return what is still to be given; nothing for a program that reads no more."""
    try:
        return view[os.write(fd, view[:PIECE_BYTES]) :]
    except BlockingIOError:
        return view
    except BrokenPipeError:
        return view[:0]


def _end_if_late(
    process: subprocess.Popen[bytes], said: threading.Event, late: threading.Event, timeout_s: float
) -> None:
    if not said.wait(timeout_s):
        late.set()
        kill_group(process)


def _end_of_words(process: subprocess.Popen[bytes], said: threading.Event) -> None:
    """End the children that a killed tool leaves: they would keep its output open, for work of no use."""
    with contextlib.suppress(ChildProcessError):
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    if not said.wait(LAST_WORDS_S):
        kill_group(process)


def kill_group(process: subprocess.Popen[bytes] | Adopted, with_signal: int = signal.SIGKILL) -> None:
    """Signal the process and all that share its session's group."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, with_signal)


def spare(pid: int) -> None:
    """Ask the kernel to kill others first when memory runs out: a dump that is killed can take its workload along.

    What it starts inherits that. Nothing where CAP_SYS_RESOURCE is missing (proc_pid_oom_score_adj(5)).
    """
    with contextlib.suppress(OSError), open(f"/proc/{pid}/oom_score_adj", "w", encoding="ascii") as file:
        file.write(str(SPARED))


def spawn(
    argv: Sequence[str],
    *,
    output: str,
    cwd: str = "/",
    env: Mapping[str, str] | None = None,
    cgroup: str = "",
    pass_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a tool in a session of its own, its output into a file of the run, inside `cgroup` when given."""
    words = entering(cgroup, resolve(argv))
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        return subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=fd,
            stderr=fd,
            env=clean_env(env),
            cwd=cwd,
            start_new_session=True,
            pass_fds=tuple(pass_fds),
        )
    finally:
        os.close(fd)


def entering(cgroup: str, words: list[str]) -> list[str]:
    """Return the words of a program that enters a cgroup before it becomes this one; without a cgroup: the same."""
    return ["/bin/sh", "-c", ENTER, cgroup, *words] if cgroup else words


def spawn_adopted(
    argv: Sequence[str], *, output: str, cgroup: str = "", cwd: str = "/", env: Mapping[str, str] | None = None
) -> Adopted:
    """Start a tool as `spawn` does, but as a child of init (or of a subreaper above us), never of this process.

    What it starts as its sibling (CLONE_PARENT) is then a child of init as well, and outlives no parent. Raises OpError
    `missing`, `spawn`.
    """
    words = ["/bin/sh", "-c", ORPHAN, WAIT, "sh", *entering(cgroup, resolve(argv))]
    fd = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        with subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=fd,
            env=clean_env(env),
            cwd=cwd,
            start_new_session=True,
        ) as shell:
            assert shell.stdin is not None and shell.stdout is not None
            text = shell.stdout.readline()
            if not text.strip().isdigit():
                raise OpError("spawn", f"{argv[0]} could not be started")
            found = Adopted(int(text))
            shell.wait()
            with contextlib.suppress(BrokenPipeError):
                shell.stdin.write(b"\n")
        return found
    except ProcessLookupError as error:
        raise OpError("spawn", f"{argv[0]} could not be started") from error
    finally:
        os.close(fd)


def first_errors(*paths: str, lines: int = 12) -> str:
    """CRIU's own first error lines (and a little of what follows), from the first of the files that has any."""
    for path in paths:
        found: list[str] = []
        with contextlib.suppress(OSError), open(path, encoding="utf-8", errors="backslashreplace") as log:
            read = iter(lambda: log.readline(LINE_CHARS), "")
            wanted = (line.rstrip() for line in read if "Error" in line or "error" in line.lower()[:80])
            found = list(itertools.islice((line for line in wanted if NOISE not in line), lines))
        if found:
            return "\n".join(found)
    return ""
