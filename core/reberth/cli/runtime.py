"""`reberth __runtime PROGRAM [OPTION]... migrate ID NODE: [OPTION]...`: what the shell functions of shell-init call.

The options before `migrate` are the program's own. Each is honoured or refused by name before anything is touched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from reberth.cli.common import load_config
from reberth.config.config import LOCAL
from reberth_hooks import UsageError

WITH_VALUE = ("--root", "--log", "--log-format", "--log-level", "--criu", "--rootless", "--cgroup-manager")
DEFAULT_ROOTS = {"runc": "/run/runc", "crun": "/run/crun"}


def as_move(words: Sequence[str], options: Mapping[str, Any] | None = None) -> list[str]:
    """Return the words of `reberth` that do it; `options` are those of the program's plugin on the local node."""
    tool, rest = words[0], list(words[1:])
    debug: list[str] = []
    while rest and rest[0].startswith("-"):
        name, equals, value = rest.pop(0).partition("=")
        if name in WITH_VALUE and not equals:
            value = rest.pop(0) if rest else ""
        if name == "--debug":
            debug = ["--debug"]
        elif name != "--root":
            raise UsageError(f"{tool} {name}: not with migrate", hint=f"{tool} migrate ID NODE: [options of move]")
        elif value.rstrip("/") != _root(tool, options):
            hint = f"name it in the configuration: [nodes.{LOCAL}.{tool}] root = ..."
            raise UsageError(f"{tool} --root {value!a} is not where reberth looks: {_root(tool, options)}", hint=hint)
    if rest[:1] != ["migrate"]:
        raise UsageError("this is for `migrate` alone", hint=f"{tool} migrate ID NODE: [options of move]")
    return [*debug, "move", "--backend", tool, *rest[1:]]


def _root(tool: str, options: Mapping[str, Any] | None) -> str:
    found = load_config().node(LOCAL).options_of(tool) if options is None else options
    return str(found.get("root") or DEFAULT_ROOTS.get(tool, "")).rstrip("/")


def main(words: Sequence[str]) -> None:
    """Run the move and leave with its exit code."""
    import sys

    from reberth.cli.app import root
    from reberth.cli.guard import show_error

    try:
        ours = as_move(words or [""])
    except UsageError as error:
        sys.exit(show_error(error, as_json="--json" in words))
    root.main(args=ours, prog_name="reberth")
