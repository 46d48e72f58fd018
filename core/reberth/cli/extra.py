"""Commands that plugins add: the plugin of the command's name is imported when the command is used."""

from __future__ import annotations

from typing import Any

import typer
import typer.main

from reberth.cli.app import HELP, OF_PLUGINS, SETTINGS
from reberth_hooks import PluginError, Role


def plugin_command(name: str) -> Any:
    """Return the command or group `name` of the plugin `name`; None when no plugin offers it.

    Raises PluginError for a plugin that is broken, and for a bundled one that is not installed.
    """
    from reberth.commands.controller import Controller
    from reberth.plugin.catalog import Catalog

    catalog = Catalog()
    if name not in catalog.names():
        if name in OF_PLUGINS:
            raise PluginError(f"the plugin {name} is not installed", hint=f"install the package with `reberth {name}`")
        return None
    if Role.COMMANDS not in catalog.get(name).declaration.roles:
        return None
    app = typer.Typer(context_settings=HELP, **SETTINGS)
    app.callback()(_group)  # with a callback typer makes a group even of one command
    catalog.call_one(name, "reberth_commands", app=app, controller=Controller())
    group: Any = typer.main.get_command(app)
    return group.commands.get(name)


def _group() -> None:
    """Hold the commands of one plugin."""
