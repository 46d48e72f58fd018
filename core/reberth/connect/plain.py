"""A node without Python, a phone for instance: a Shell whose few operations are plain commands over the node's route.

It can keep files; whatever holds, watches or undoes something on a node needs the helper (docs/helper.md), so no
workload runs there. Each command is a connection of its own: nothing of this has a place in the frozen window.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from reberth.connect.failures import lost_at_once
from reberth.connect.helper import CONNECT_TIMEOUT_S, Asked, HelperShell
from reberth.connect.process import Finished, route_argv, run_local
from reberth.plan.preflight import no_workloads
from reberth_hooks import CommandError, HelperError, Node, RefusedError, Route, Shell

SSH_FAILED = 255
# What CRIU cannot do without, of the kernel's configuration (criu.org, "Linux kernel").
KERNEL_OPTIONS = ("CHECKPOINT_RESTORE", "NAMESPACES", "PID_NS", "EVENTFD", "EPOLL", "UNIX_DIAG", "INET_DIAG")
# A fixed text for the node's own shell; everything that it prints is one `key=value` a line.
FACTS = r"""
say() { printf '%s=%s\n' "$1" "$2"; }
say hostname "$(uname -n)"
say arch "$(uname -m)"
say kernel "$(uname -r)"
say uid "$(id -u)"
say boot_id "$(cat /proc/sys/kernel/random/boot_id 2>/dev/null)"
say pid_ns "$(readlink /proc/self/ns/pid 2>/dev/null)"
say page_bytes "$(getconf PAGE_SIZE 2>/dev/null)"
say clock_realtime_s "$(date +%s)"
say criu "$(command -v criu)"
say python "$(command -v python3)"
if [ -r /proc/config.gz ]; then
    say config yes
    for name in "$@"; do
        if zcat /proc/config.gz | grep -q "^CONFIG_$name=[ym]"; then say "has_$name" yes; fi
    done
fi
"""


class PlainShell(HelperShell):
    """One node by plain commands; `call` knows `hello`, `ping`, `run`, `read` and `space`, anything else is refused."""

    def __init__(self, node: Node, route: Route) -> None:
        self._node, self._route = node, route
        self.on_wait: Callable[[], None] = lambda: None
        self.facts: dict[str, Any] = self._hello()

    def begin(self, op: str, /, *, on_progress: Callable[..., None] | None = None, **args: Any) -> Asked:
        """Nothing goes on in the background here."""
        raise self._refusal(op)

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        """Answer what plain commands can tell; HelperError of kind `no-helper` for the rest."""
        answer = getattr(self, f"_op_{op}", None)
        if answer is None:
            raise self._refusal(op)
        return answer(**args)

    def run(self, argv: Sequence[str], *, timeout_s: float = 30.0, check: bool = True, stdin: str = "") -> Finished:
        """Run a program on the node; ssh's own failure is told apart from the program's."""
        done = run_local(
            route_argv(self._route, argv),
            timeout_s=timeout_s + CONNECT_TIMEOUT_S,
            stdin=stdin,
            env=dict(self._route.env) or None,
        )
        if done.code == SSH_FAILED:
            raise lost_at_once(self._node, self._route, done.code, done.err)
        if check and done.code != 0:
            lines = (done.err or done.out).strip().splitlines()
            text = f"{argv[0]} on node {self._node.name} ended with {done.code}"
            raise CommandError(text, tail="\n".join(lines[-10:]))
        return done

    def verdict(self) -> str:
        """Return why no workload can run here, everything that is missing in one line."""
        return no_workloads(self.facts)

    def kill(self) -> None:
        """There is no connection to end."""

    def close(self) -> None:
        """There is no connection to end."""

    def _refusal(self, op: str) -> HelperError:
        text = f"node {self._node.name} has no python3, so it cannot do {op}"
        hint = "it can keep files: reberth checkpoint SOURCE NODE:/DIRECTORY"
        return HelperError(text, kind="no-helper", hint=hint)

    def _hello(self) -> dict[str, Any]:
        said = self.run(["sh", "-c", FACTS, "sh", *KERNEL_OPTIONS]).out
        found: dict[str, Any] = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
        lacks = ["Python"]
        lacks += [] if found.get("uid") == "0" else [f"root (user id {found.get('uid')})"]
        lacks += [] if found.get("criu") else ["criu"]
        if found.get("config"):
            missing = [f"CONFIG_{name}" for name in KERNEL_OPTIONS if not found.get(f"has_{name}")]
            lacks += [f"kernel options ({', '.join(missing)})"] if missing else []
        else:
            lacks.append("a readable /proc/config.gz (whether its kernel could is unknown)")
        numbers = {key: self._number(key, found.get(key) or "0") for key in ("uid", "page_bytes", "clock_realtime_s")}
        return {**found, **numbers, "python": "", "lacks": lacks, "found_python": found.get("python", "")}

    def _op_hello(self) -> dict[str, Any]:
        return self.facts

    def _op_ping(self) -> dict[str, int]:
        return {"boot_ns": 0}

    def _op_run(self, argv: Sequence[str], timeout_s: float = 30.0, stdin: str = "", **_: Any) -> dict[str, Any]:
        done = self.run(argv, timeout_s=timeout_s, check=False, stdin=stdin)
        return {"code": done.code, "out": done.out, "err": done.err}

    def _op_read(self, path: str, **_: Any) -> str:
        return self.run(["cat", "--", path]).out

    def _op_space(self, paths: Sequence[str]) -> dict[str, int]:
        return {path: self.free_bytes(path) for path in paths}

    def free_bytes(self, path: str) -> int:
        """Free bytes where `path` is or would be made."""
        text = 'p=$1; while [ ! -e "$p" ] && [ "$p" != / ]; do p=${p%/*}; p=${p:-/}; done; df -kP "$p"'
        words = (self.run(["sh", "-c", text, "sh", path]).out.splitlines() or [""])[-1].split()
        return self._number("df", words[3] if len(words) > 3 else "") * 1024

    def _number(self, what: str, word: str) -> int:
        """Return the number that the node said; raise HelperError for a word that is none."""
        if not word.isascii() or not word.isdecimal() or len(word) > 20:
            raise HelperError(f"node {self._node.name} says of {what} what is no number: {word[:40]!a}", kind="shape")
        return int(word)


def require_helper(*shells: Shell) -> None:
    """Refuse what needs a helper at both ends, and say everything that the node lacks."""
    for shell in shells:
        if isinstance(shell, PlainShell):
            text = f"node {shell.node.name}: {shell.verdict()}"
            hint = f"it can keep a checkpoint: reberth checkpoint SOURCE {shell.node.name}:/DIRECTORY"
            raise RefusedError(text, hint=hint)
