from __future__ import annotations

import sys
from importlib.metadata import EntryPoint
from types import ModuleType

import pytest
import typer

import reberth.plugin.catalog
from reberth_hooks import Declaration, Role, hookimpl


def a_plugin(roles=frozenset({Role.COMMANDS})):
    module = ModuleType("fake_lab")

    @hookimpl
    def reberth_describe():
        return Declaration(summary="fakes \x1b[1m", roles=roles, options=frozenset({"speed"}))

    @hookimpl
    def reberth_commands(app):
        group = typer.Typer(help="Fake.")
        group.command("up")(lambda: typer.echo("it is up"))
        group.command("down")(lambda: typer.echo("it is down"))
        app.add_typer(group, name="lab")

    module.reberth_describe = reberth_describe
    if Role.COMMANDS in roles:
        module.reberth_commands = reberth_commands
    return module


@pytest.fixture
def points(monkeypatch):
    found = []
    monkeypatch.setattr(reberth.plugin.catalog, "entry_points", lambda group: found)

    def add(name, module):
        if module is not None:
            monkeypatch.setitem(sys.modules, module.__name__, module)
            module.__spec__ = type(sys.__spec__)(module.__name__, None)
        found.append(EntryPoint(name, module.__name__ if module else "no_such_module_of_ours", "reberth"))

    return add


def test_commands_of_a_plugin(world, points):
    points("lab", a_plugin())
    assert world.run("lab", "up").stdout == "it is up\n"
    assert world.run("lab", "--help").stdout.startswith("Usage: reberth lab")
    assert world.run("lab", "nothing").exit_code == 2


def test_a_plugin_without_commands_is_no_command(world, points):
    points("ghost", a_plugin(roles=frozenset()))
    assert world.run("ghost").exit_code == 2


def test_a_bundled_plugin_that_is_not_installed(world, points):
    result = world.run("lab", "up")
    assert result.exit_code == 14 and "not installed" in result.stderr


def test_plugin_ls_and_show(world, points):
    points("lab", a_plugin())
    result = world.run("plugin", "ls")
    assert result.exit_code == 0 and "fakes \\x1b[1m" in result.stdout
    code, document = world.json("plugin", "show", "lab", "--json")
    assert code == 0 and document["plugin"] == {
        "name": "lab",
        "summary": "fakes \x1b[1m",
        "roles": ["commands"],
        "modes": [],
        "carries": [],
        "tools": [],
        "options": ["speed"],
        "api": 1,
        "distribution": "",
        "version": "",
    }
    assert "roles        commands" in world.run("plugin", "show", "lab").stdout
    assert world.run("plugin", "show", "lbb").exit_code == 14


def test_a_broken_plugin_is_listed_with_its_reason(world, points):
    module = a_plugin()
    del module.reberth_describe
    points("lab", module)
    result = world.run("plugin", "ls")
    assert result.exit_code == 0 and "broken: plugin lab" in result.stderr
    code, document = world.json("plugin", "ls", "--json")
    assert code == 0 and document["plugins"] == [] and document["broken"][0]["name"] == "lab"
    assert world.run("lab", "up").exit_code == 14
