"""The root of the command line: a static table of commands, each imported only when it is used."""

from __future__ import annotations

import difflib
import os
import sys
from importlib import import_module
from typing import Annotated, Any, cast

import typer
import typer.core
import typer.main

from reberth.cli.guard import INTERRUPTED, guarded
from reberth.cli.output import note
from reberth.text import safe
from reberth_hooks import UsageError

COMMANDS = {
    "move": "Move a running workload to another node.",
    "plan": "Say whether and how a move would work, and touch nothing.",
    "ls": "List the workloads of the nodes.",
    "check": "Check a node, or a pair of nodes, before any move.",
    "explain": "Say what a log of CRIU, runc or LXD means.",
    "checkpoint": "Write a workload into a directory and stop it.",
    "restore": "Start a workload from a directory on a node.",
    "status": "Show the migrations that are open.",
    "set": "Change an open migration while it runs.",
    "abort": "Stop an open migration; the source runs on.",
    "recover": "Bring interrupted migrations to their end.",
    "history": "List past migrations.",
    "report": "Show the report of one migration.",
    "node": "Manage the nodes of the inventory.",
    "plugin": "Show the plugins, or start a new one.",
    "completion": "Print the completion script of a shell.",
    "shell-init": "Print functions for `runc migrate ID NODE:`, to be evaluated.",
}
# Commands that bundled plugins add by `reberth_commands`: listed here so that --help need not import the plugins.
OF_PLUGINS = {
    "android": "Set a LineageOS phone up as a node.",
    "lab": "Two nodes in a box, to try and to test with.",
    "lxd": "Let `lxc move` be a safe live move.",
}
SETTINGS: dict[str, Any] = {
    "add_completion": False,
    "rich_markup_mode": None,
    "pretty_exceptions_enable": False,
}
HELP = {"help_option_names": ["-h", "--help"]}


def _own_command(name: str) -> Any:
    """Import one of our commands: its module has `command`, or `app` for a group."""
    module = import_module(f"reberth.cli.{name.replace('-', '_')}")
    if hasattr(module, "app"):
        group = typer.main.get_command(module.app)
        group.name = name
        return group
    one = typer.Typer(**SETTINGS)
    one.command(name=name)(module.command)
    return typer.main.get_command(one)


class LazyGroup(typer.core.TyperGroup):
    """The root group; it lists commands without importing them."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        """Run, print every error in our own form and leave with its exit code."""
        words = kwargs.get("args")
        words = list(sys.argv[1:] if words is None else words)
        kwargs.update(args=words, standalone_mode=False)
        sys.exit(guarded(lambda: super(LazyGroup, self).main(*args, **kwargs), words))

    def invoke(self, ctx: Any) -> Any:
        """Run the command; ^C outside a move ends it with 130 (typer's versions differ here)."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            note("reberth: interrupted")
            raise typer.Exit(INTERRUPTED) from None

    def list_commands(self, ctx: Any) -> list[str]:
        """Names of all commands, in the order of the help."""
        return [*COMMANDS, *OF_PLUGINS]

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Import one command; None when there is none of this name."""
        if cmd_name in COMMANDS:
            return _own_command(cmd_name)
        from reberth.cli.extra import plugin_command

        return plugin_command(cmd_name)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """As the base class, but an unknown command names the nearest one."""
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and self.get_command(ctx, name) is None:
            near = difflib.get_close_matches(name, self.list_commands(ctx), 1)
            hint = f"did you mean `reberth {near[0]}`?" if near else "`reberth --help` lists them"
            raise UsageError(f"there is no command {safe(name)!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the list of commands from the static table."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))
        with formatter.section("Commands of plugins"):
            formatter.write_dl(list(OF_PLUGINS.items()))


app = typer.Typer(cls=LazyGroup, context_settings=HELP, **SETTINGS)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            typer.echo(f"reberth {version('reberth')}")
        except PackageNotFoundError:
            typer.echo("reberth, not installed as a package")
        raise typer.Exit(0)


@app.callback(invoke_without_command=True)
def options(
    ctx: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Log what is done, and show tracebacks.")] = False,
) -> None:
    """Moves running containers and processes between Linux nodes, and never loses them.

    A workload is written [NODE:][BACKEND/]NAME: web, runc/web, pi1:web, pi1:criu/4711. Without NODE: it is on this
    machine. A target is NODE: or NODE:NEWNAME.

    \b
    reberth check pi1 pi2
    reberth plan pi1:web pi2:
    reberth move pi1:web pi2:
    """
    if debug:
        import logging

        logging.basicConfig(level=logging.DEBUG, format="%(relativeCreated)6d ms %(name)s: %(message)s")
    if ctx.invoked_subcommand is None:
        from reberth.cli.next_step import next_step

        typer.echo(ctx.get_help(), err=True)
        if line := next_step(os.environ, OF_PLUGINS):
            typer.echo(f"\n{line}", err=True)
        raise typer.Exit(2)


root = cast("LazyGroup", typer.main.get_command(app))
