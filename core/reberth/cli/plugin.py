"""`reberth plugin`: what is installed and what it can do, and the start of a new one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from reberth.cli import params
from reberth.cli.facts import fact_lines
from reberth.cli.output import note, write, write_json
from reberth.config.names import check_name
from reberth.plugin.catalog import Catalog, Plugin
from reberth.text import safe, table
from reberth_hooks import plain

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, help="Show the plugins, or start a new one.", no_args_is_help=False
)
Name = Annotated[str, typer.Argument(metavar="PLUGIN", help="The name of a plugin.", show_default=False)]


@app.command("ls")
def ls(json: params.Json = False) -> None:
    """List the installed plugins; a broken one is listed with the reason."""
    catalog = Catalog()
    plugins = catalog.load_all()
    if json:
        broken = [{"name": name, "error": text} for name, text in sorted(catalog.errors.items())]
        write_json({"schema": 1, "plugins": [_data(plugin) for plugin in plugins], "broken": broken})
        return
    rows = [(p.name, ", ".join(sorted(p.declaration.roles)), p.version or "-", p.declaration.summary) for p in plugins]
    write(table(("PLUGIN", "ROLES", "VERSION", "SUMMARY"), rows))
    for text in catalog.errors.values():
        note(f"broken: {safe(text)}")


@app.command("show")
def show(name: Name, json: params.Json = False) -> None:
    """Show one plugin: its roles, modes, tools and options."""
    data = _data(Catalog().get(check_name(name, "plugin name")))
    if json:
        write_json({"schema": 1, "plugin": data})
    else:
        write(fact_lines(data, "name"))


@app.command("new")
def new(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The name of the new plugin.", show_default=False)],
    role: Annotated[str, typer.Option("--role", help="What it is: observer, commands or oci-backend.")] = "observer",
    into: Annotated[str, typer.Option("--into", metavar="FOLDER", help="Default: reberth-NAME, here.")] = "",
) -> None:
    """Write a working plugin with its test into a new folder."""
    from reberth.commands.new_plugin import write_plugin

    folder = Path(into or f"reberth-{name}")
    for path in write_plugin(name, role, folder):
        write(safe(str(path)))
    note(f"next: pip install -e {safe(str(folder))}, then pytest in it")


def _data(plugin: Plugin) -> dict[str, Any]:
    said = plugin.declaration
    return {
        "name": plugin.name,
        "summary": said.summary,
        "roles": sorted(plain(said.roles)),
        "modes": sorted(plain(said.modes)),
        "carries": sorted(plain(said.carries)),
        "tools": list(said.tools),
        "options": sorted(said.options),
        "api": said.api,
        "distribution": plugin.distribution,
        "version": plugin.version,
    }
