"""`reberth lxd alias`: an alias of the `lxc` (or `incus`) client that calls our shim; the client itself writes it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from typing import Annotated

import typer

from reberth_hooks import Controller, Exit, ReberthError, RefusedError, UsageError
from reberth_lxd.client import shim

NAMES = ("move", "live")
MARK = "lxd shim"
Client = Annotated[str, typer.Option("--client", metavar="PROGRAM", help="lxc or incus.")]
Name = Annotated[str, typer.Option("--name", metavar="NAME", help="move shadows `lxc move`; live adds `lxc live`.")]


def commands(controller: Controller) -> typer.Typer:
    """Return the group `reberth lxd`."""

    def shim_command(client: str, words: Annotated[list[str] | None, typer.Argument()] = None) -> None:
        """Run what the alias calls."""
        shim.become(client, words or [], controller.nodes)

    group = typer.Typer(help="The lxc client and reberth.", no_args_is_help=True, add_completion=False)
    alias = typer.Typer(help="An alias of the lxc client, so that `lxc move` is reberth's.", no_args_is_help=True)
    for function in (install, remove, status):
        alias.command()(function)
    group.add_typer(alias, name="alias")
    plain = {"ignore_unknown_options": True, "help_option_names": []}
    group.command(hidden=True, context_settings={**plain, "allow_interspersed_args": False})(shim_command)
    group.registered_commands[-1].name = "shim"
    return group


def program() -> str:
    """Our own program as an absolute path; the client splits an alias at blanks and cannot quote."""
    found = shutil.which(sys.argv[0]) or os.path.abspath(sys.argv[0])
    if os.path.basename(found) != "reberth" or " " in found:
        found = shutil.which("reberth") or ""
    if not found or " " in found:
        raise RefusedError("reberth is at no path that an alias can name", hint="a path without a blank")
    return os.path.abspath(found)


def _run(client: str, *words: str) -> str:
    if client not in shim.GUARD:
        raise UsageError(f"{client!a} is neither lxc nor incus")
    try:
        return shim.run_client([client, *words])
    except FileNotFoundError as error:
        raise ReberthError(f"{client} is not installed here", exit_code=Exit.REFUSED) from error
    except subprocess.CalledProcessError as error:
        raise ReberthError(f"{client} says: {error.stderr.strip()[:300]}", exit_code=Exit.REFUSED) from error


def present(client: str) -> dict[str, str]:
    """Return the aliases that the client has."""
    rows = json.loads(_run(client, "alias", "list", "--format", "json")) or {}
    return dict(rows) if isinstance(rows, dict) else {str(row["name"]): str(row["target"]) for row in rows}


def install(name: Name = "move", client: Client = "lxc") -> None:
    """Let the client hand `lxc move` to reberth, which leaves to it whatever is not a live move of ours."""
    if name not in NAMES:
        raise UsageError(f"{name!a} is none of {', '.join(NAMES)}")
    os.makedirs(os.environ.get("LXD_CONF") or os.path.expanduser("~/.config/lxc"), exist_ok=True)
    have = present(client).get(name)
    value = f"{program()} {MARK} {client} @ARGS@"
    if have is not None and MARK not in have:
        hint = f"--name live, or {client} alias remove {name}"
        raise RefusedError(f"the client has an alias {name} of its own: {have!a}", hint=hint)
    if have == value:
        typer.echo(f"{client} {name} is reberth's already")
        return
    if have is not None:
        _run(client, "alias", "remove", name)
    _run(client, "alias", "add", name, value)
    of_client = "" if client == "lxc" else f" --client {client}"
    typer.echo(f"{client} {name} is reberth's now; to undo it: reberth lxd alias remove --name {name}{of_client}")


def remove(name: Name = "move", client: Client = "lxc") -> None:
    """Take our alias away; one of another value stays."""
    have = present(client).get(name)
    if have is None or MARK not in have:
        raise RefusedError(f"the client has no alias {name} of ours", hint="reberth lxd alias status")
    _run(client, "alias", "remove", name)
    typer.echo(f"{client} {name} is the client's own again")


def status(client: Client = "lxc") -> None:
    """Tell which aliases of the client are ours."""
    ours = {name: value for name, value in present(client).items() if MARK in value}
    for name, value in ours.items():
        typer.echo(f"{client} {name} -> {value}")
    if not ours:
        typer.echo(f"no alias of {client} is reberth's")
