"""What a newcomer may do next, in one line: `reberth` without a command prints it below the help."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import PurePath

from reberth.complete.texts import SCRIPTS

EVALUATE = {"fish": "reberth shell-init fish | source"}


def next_step(environ: Mapping[str, str], of_plugins: Mapping[str, str]) -> str:
    """Return the line for the runtimes that are on the path; empty when there is none."""
    shell = PurePath(environ.get("SHELL", "")).name
    shell = shell if shell in SCRIPTS else "bash"
    steps = []
    if _there(environ, "runc", "crun"):
        command = EVALUATE.get(shell, f'eval "$(reberth shell-init {shell})"')
        steps.append(f"for `runc migrate ID NODE:` put into your shell's start file: {command}")
    client = next((name for name in ("lxc", "incus") if _there(environ, name)), "")
    if "lxd" in of_plugins and client:
        other = " --client incus" if client == "incus" else ""
        steps.append(f"for `{client} move` run: reberth lxd alias install{other}")
    return f"Next: {'; '.join(steps)}" if steps else ""


def _there(environ: Mapping[str, str], *names: str) -> bool:
    folders = environ.get("PATH", "").split(os.pathsep)
    return any(os.access(f"{folder}/{name}", os.X_OK) for folder in folders if folder for name in names)
