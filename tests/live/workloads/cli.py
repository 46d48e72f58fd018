"""Command line of the workloads: run one, prepare its files, ask a running one, write a bundle."""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from typing import Optional

from workloads.base import Workload, wait_until, write_atomically
from workloads.clocks import Clocks
from workloads.deleted import Deleted
from workloads.echo import Echo
from workloads.files import Files
from workloads.fswriter import FsWriter
from workloads.ipc import Ipc
from workloads.life import run_detached, run_here
from workloads.memory import Memory
from workloads.pulse import Pulse
from workloads.rootfs import write_bundle
from workloads.shm import Shm
from workloads.tcp import Tcp
from workloads.threads import Threads
from workloads.tree import Tree

KINDS: dict[str, type[Workload]] = {
    kind.kind: kind for kind in (Memory, Tree, Threads, Files, Tcp, Ipc, Deleted, Shm, FsWriter, Echo, Pulse, Clocks)
}
ANSWER_LIMIT_S = 60.0


def parser() -> argparse.ArgumentParser:
    """All subcommands."""
    main_parser = argparse.ArgumentParser(prog="workloads")
    commands = main_parser.add_subparsers(dest="command", required=True)
    for name, kind in KINDS.items():
        one = commands.add_parser(name, description=(kind.__doc__ or "").split("\n")[0])
        one.add_argument("--dir", required=True, help="folder for ready and result.json, on every node")
        one.add_argument("--seed", type=int, default=1)
        one.add_argument("--foreground", action="store_true", help="do not detach: first process of a container")
        one.add_argument("--prepare-only", action="store_true", help="make the files that both nodes need, and end")
        kind.arguments(one)
    ask = commands.add_parser("ask", description="Ask a running workload; prints its JSON answer.")
    ask.add_argument("question", choices=("verify", "plant", "stop"))
    ask.add_argument("--pid", type=int, required=True)
    ask.add_argument("--dir", required=True)
    ask.add_argument("--what", default="", help="what to plant")
    bundle = commands.add_parser("bundle", description="Write an OCI bundle that runs a workload.")
    bundle.add_argument("path")
    bundle.add_argument("--mounted", action="store_true", help="bind the node's /usr instead of copying python3")
    bundle.add_argument("--host-pid", action="store_true")
    bundle.add_argument("--host-net", action="store_true")
    bundle.add_argument("arguments", nargs=argparse.REMAINDER)
    return main_parser


def main(arguments: list[str]) -> int:
    """Run one subcommand; returns the exit status."""
    options = parser().parse_args(arguments)
    if options.command == "ask":
        return _ask(options)
    if options.command == "bundle":
        extra = [one for one in options.arguments if one != "--"]
        kind = KINDS[extra[0]]
        if "--dir" in extra:
            raise SystemExit(f"a bundle's {kind.kind} runs in its own /state")
        write_bundle(options.path, extra, mounted=options.mounted, host_pid=options.host_pid, host_net=options.host_net)
        return 0
    workload = KINDS[options.command](options)
    os.makedirs(workload.directory, exist_ok=True)
    if options.prepare_only:
        workload.prepare()
        return 0
    return run_here(workload) if options.foreground else run_detached(workload)


def _ask(options: argparse.Namespace) -> int:
    if options.question == "stop":
        return _stop(options.pid)
    answer = "result.json" if options.question == "verify" else "planted"
    path = os.path.join(options.dir, answer)
    if os.path.exists(path):
        os.unlink(path)
    if options.question == "plant":
        write_atomically(os.path.join(options.dir, "plant"), options.what)
    os.kill(options.pid, signal.SIGUSR1 if options.question == "verify" else signal.SIGUSR2)
    wait_until(lambda: os.path.exists(path) or not _alive(options.pid), ANSWER_LIMIT_S)
    text = _read(path)
    if text is None:
        state = "does not answer" if _alive(options.pid) else "has ended"
        text = json.dumps({"ok": False, "problems": [f"process {options.pid} {state}"], "pid": options.pid, "beats": 0})
    print(text)
    if options.question == "plant":
        return 0 if text == "planted" else 1
    return 0 if json.loads(text)["ok"] else 1


def _stop(pid: int) -> int:
    """Ask it to end; after five seconds kill it and its children."""
    family = _family(pid)
    for number in (signal.SIGTERM, signal.SIGKILL):
        for one in family if number == signal.SIGKILL else [pid]:
            try:
                os.kill(one, number)
            except ProcessLookupError:
                continue
        if wait_until(lambda: not any(_alive(one) for one in family), 5):
            return 0
    print(f"processes {[one for one in family if _alive(one)]} do not end", file=sys.stderr)
    return 1


def _family(pid: int) -> list[int]:
    """A process and all its descendants."""
    parents: dict[int, int] = {}
    for name in os.listdir("/proc"):
        text = _read(f"/proc/{name}/stat") if name.isdigit() else None
        if text:
            parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    family = [pid]
    for one in family:
        family += [child for child, parent in parents.items() if parent == one]
    return family


def _alive(pid: int) -> bool:
    text = _read(f"/proc/{pid}/stat")
    return text is not None and text.rpartition(")")[2].split()[0] not in ("Z", "X")


def _read(path: str) -> Optional[str]:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except (FileNotFoundError, ProcessLookupError):
        return None
