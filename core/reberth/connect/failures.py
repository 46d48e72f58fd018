"""Why a connection to a node never came to be: no way there, another host, or a login without a helper behind it."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass

from reberth.connect.process import Process, run_local
from reberth_hooks import CommandError, Node, NotStartedError, ReberthError, Route, UnreachableError, UntrustedError

SSH_FAILED = 255
LOGIN_S = 15.0
TAIL_LINES, TAIL_COLUMNS = 10, 200


@dataclass(frozen=True, slots=True)
class Heard:
    """What came of a connection: the exit status of its program (None: it had not ended), and what was printed.

    `said` is its standard error, `printed` the standard output before the helper's mark, `started` that the mark came.
    """

    code: int | None = None
    said: str = ""
    printed: str = ""
    started: bool = False


def exit_status(process: Process, wait_s: float) -> int | None:
    """Return the exit status of a connection whose output is over, which ends a moment later; None when it goes on."""
    deadline_s = time.monotonic() + wait_s
    while process.poll() is None and time.monotonic() < deadline_s:
        time.sleep(0.01)
    return process.poll()


def not_reached(node: Node, route: Route, error: ReberthError, heard: Heard) -> ReberthError:
    """Return which error it is; where ssh itself is silent, a second login tells whether the first one worked."""
    said = heard.said.lower()
    if "host key verification failed" in said or "no matching host key" in said:
        return untrusted(node, heard)
    if not _logged_in(route, heard):
        hint = route.hint or "is it there, and are its address and user right?"
        return UnreachableError(f"node {node.name} cannot be reached", tail=heard.said or error.message, hint=hint)
    return not_started(node, route, heard, error.message)


def not_started(
    node: Node, route: Route, heard: Heard, otherwise: str = "", what: str = "the helper did not start"
) -> NotStartedError:
    """Return the error of a login without what should run behind it.

    What was printed, and the remedy of a known cause.
    """
    words = f"{heard.printed}\n{heard.said}"
    tail = "\n".join(line[:TAIL_COLUMNS] for line in words.strip().splitlines()[-TAIL_LINES:]) or otherwise
    known = ((reason, hint) for pattern, reason, hint in CAUSES if re.search(pattern, words, re.I))
    reason, hint = next(known, ("something else ran in its place", "this must print a version: {look}"))
    user = str(node.options_of(node.connector).get("user") or "") or "USER"
    look = _look(route)
    text = f"node {node.name}: logged in, but {what}: {reason.format(name=node.name)}"
    return NotStartedError(text, tail=tail, hint=hint.format(user=user, look=look, name=node.name))


SUDO = r"sudo(-rs)?: "
NOPASSWD = (
    "there, as root: echo '{user} ALL=(root) NOPASSWD: ALL' >/etc/sudoers.d/reberth; chmod 440 /etc/sudoers.d/reberth"
)
MISSING = r"((command )?not found|no such file|unknown command)"
# pattern of what was printed, reason, hint; the first that is found counts
CAUSES: Sequence[tuple[str, str, str]] = (
    (
        rf"{SUDO}.*(password is required|terminal is required)|interactive authentication is required",
        "sudo wants a password, and NOPASSWD is needed",
        NOPASSWD,
    ),
    (
        rf"{SUDO}.*must have a tty",
        "sudo wants a terminal (requiretty)",
        "there, as root: echo 'Defaults:{user} !requiretty' >/etc/sudoers.d/reberth-tty",
    ),
    (
        r"not in the sudoers file|may not run sudo|is not allowed to (execute|run)",
        "this user may not become root by sudo",
        NOPASSWD,
    ),
    (
        rf"{SUDO}python3: {MISSING}",
        "sudo finds no python3",
        "there: python3 3.9 or later in a folder that secure_path of /etc/sudoers names",
    ),
    (
        rf"(sudo: {MISSING}|{MISSING}:? '?sudo)",
        "there is no sudo",
        "install sudo there, or log in as root (--user root, --become none)",
    ),
    (
        r"reberth: python3 is [0-9.]+ there",
        "its python3 is too old",
        "install python3 3.9 or later there; it must be what this finds: {look}",
    ),
    (
        rf"(python3: {MISSING}|{MISSING}:? '?python3)",
        "node {name} has no python3",
        "install python3 (3.9 or later) there",
    ),
    (
        r"python3: (permission denied|cannot execute)",
        "python3 may not be executed there",
        "is it on a file system that is mounted noexec? look: {look}",
    ),
    (
        r"account is currently not available|/nologin|/bin/false",
        "the user's login shell lets nobody in",
        "there, as root: chsh -s /bin/sh {user}; or another user",
    ),
    (
        r"password has expired|must change your password|password change required",
        "the user's password has expired",
        "there, as root: chage -M -1 -d 1 {user}",
    ),
    (
        r"beginning of the data was lost",
        "a file of the login shell reads the input",
        "there: let it do so at a terminal alone (bash: case $- in *i*) ... esac)",
    ),
    (r"no space left on device|disk quota exceeded", "no space is left there", "look there: df -h /run /tmp"),
    (r"read-only file system", "a file system is read-only there", "look there: findmnt -T /run"),
    (r"reberth: .* is not private", "its place is not private", "remove that folder there, and look who made it"),
    (
        r"cannot fork|resource temporarily unavailable|cannot allocate memory",
        "no process can be started there",
        "its limits are reached (ulimit -u, pids.max); look: {look}",
    ),
)


def untrusted(node: Node, heard: Heard) -> UntrustedError:
    """Return the error of a host key that is not the pinned one: the node's, or that of a jump host on the way."""
    if by_jump_host(heard.said):
        text = f"the jump host on the way to node {node.name} did not prove who it is"
        return UntrustedError(
            text, tail=heard.said, hint="log in to the jump host once by hand, so that ssh knows its key"
        )
    text = f"node {node.name} did not prove who it is"
    hint = f"compare its fingerprint, then: reberth node add --again {node.name}"
    return UntrustedError(text, tail=heard.said, hint=hint)


def by_jump_host(said: str) -> bool:
    """Tell whether it is a jump host at which ssh ended: then the node's own ssh has lost its other end."""
    return bool(re.search(r"UNKNOWN port 65535|stdio forwarding failed", said))


def _logged_in(route: Route, heard: Heard) -> bool:
    """Tell whether the login worked: something ran there, or ssh says nothing and `true` can be run."""
    if heard.started or heard.printed or heard.code not in (None, SSH_FAILED):
        return True
    if heard.said or not route.control:
        return False
    try:
        done = run_local([*route.control, "true"], timeout_s=LOGIN_S, env=dict(route.env) or None)
    except CommandError:
        return False
    return done.code != SSH_FAILED


def _look(route: Route) -> str:
    """Return the command that shows which Python the helper would get.

    The hint's way there, with other words behind.
    """
    words = shlex.split(route.hint.partition("try: ")[2])[:-1] if "try: " in route.hint else list(route.control)
    asked = shlex.join([*route.become, "python3", "--version"])
    return shlex.join([*words, asked]) if words else asked


def lost_at_once(node: Node, route: Route, code: int, said: str) -> ReberthError:
    """Return the error of a plain command for which ssh itself failed."""
    lost = UnreachableError(f"no connection to node {node.name}", hint=route.hint)
    return not_reached(node, route, lost, Heard(code, said.strip()))
