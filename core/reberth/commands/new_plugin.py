"""Write the files of a new plugin: a distribution that installs, a module that loads, and a test that passes."""

from __future__ import annotations

import re
from pathlib import Path

from reberth_hooks import API, UsageError

PROJECT_FILE = """\
[build-system]
requires = ["hatchling>=1.27"]
build-backend = "hatchling.build"

[project]
name = "{distribution}"
version = "0.1.0"
requires-python = ">=3.11"
dependencies = ["reberth"]

[project.entry-points.reberth]
{name} = "{target}"

[tool.hatch.build.targets.wheel]
only-include = ["{module}.py"]
"""

OBSERVER = '''\
"""Observer `{name}`: writes each event of a move to a file."""

import os

from reberth_hooks import Declaration, Event, Role, hookimpl


@hookimpl
def reberth_describe() -> Declaration:
    """Say what this plugin is."""
    return Declaration("writes the events of a move to a file", frozenset({{Role.OBSERVER}}), api={api})


@hookimpl
def reberth_event(event: Event) -> None:
    """Append one line; an error in here never stops a move."""
    with open(os.environ.get("{variable}", "{name}.log"), "a", encoding="utf-8") as log:
        log.write(f"{{event.kind}} {{event.phase}} {{event.text}}\\n")
'''

OBSERVER_TEST = '''\
"""The observer keeps the contract and writes what it is told; run with: pytest"""

import pytest
from reberth.testing import PluginContract

import {module}
from reberth_hooks import Event


class TestContract(PluginContract):
    @pytest.fixture
    def plugin(self):
        return "{name}"

    @pytest.fixture
    def module(self):
        return {module}


def test_each_event_is_a_line(tmp_path, monkeypatch):
    monkeypatch.setenv("{variable}", str(tmp_path / "log"))
    {module}.reberth_event(Event("phase", "restore", "the copy is built"))
    assert (tmp_path / "log").read_text() == "phase restore the copy is built\\n"
'''

COMMANDS = '''\
"""Commands `{name}`: adds `reberth {name}`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from reberth_hooks import Controller, Declaration, Role, hookimpl

if TYPE_CHECKING:
    import typer


@hookimpl
def reberth_describe() -> Declaration:
    """Say what this plugin is."""
    return Declaration("adds the command {name}", frozenset({{Role.COMMANDS}}), api={api})


@hookimpl
def reberth_commands(app: typer.Typer, controller: Controller) -> None:
    """Add the command; `controller` runs programs here and knows the nodes."""

    @app.command("{name}")
    def command() -> None:
        """Print the names of the nodes."""
        print(*sorted(controller.nodes()), sep="\\n")
'''

COMMANDS_TEST = '''\
"""The commands keep the contract and print what they say; run with: pytest"""

from types import SimpleNamespace

import pytest
import typer
from reberth.testing import PluginContract
from typer.testing import CliRunner

import {module}


class TestContract(PluginContract):
    @pytest.fixture
    def plugin(self):
        return "{name}"

    @pytest.fixture
    def module(self):
        return {module}


def test_it_prints_the_nodes():
    app = typer.Typer()
    app.callback()(lambda: None)
    {module}.reberth_commands(app, SimpleNamespace(nodes=lambda: {{"pi2": None, "pi1": None}}))
    assert CliRunner().invoke(app, ["{name}"]).output == "pi1\\npi2\\n"
'''

BACKEND = '''\
"""Backend `{name}`: OCI containers of the runtime {name}, by their id."""

from reberth_hooks.criu.oci import OciBackend


class Backend(OciBackend):
    """What {name} does its own way: see `OciBackend` for all that can be said here."""

    name = "{name}"


backend = Backend()
'''

BACKEND_TEST = '''\
"""The backend keeps the contract, with fake tools; run with: pytest"""

import pytest
from reberth.testing import BackendContract, tools

import {module}


class TestBackend(BackendContract):
    @pytest.fixture
    def plugin(self):
        return "{name}"

    @pytest.fixture
    def module(self):
        return {module}.backend

    @pytest.fixture
    def tools(self, reberth_lab):
        reberth_lab.tool("{name}", tools.OCI)
        reberth_lab.tool("criu", tools.CRIU)
        reberth_lab.tool("du", tools.DU)

    @pytest.fixture
    def start(self, reberth_lab):
        return lambda node: reberth_lab.container("{name}", "web", node)
'''

ROLES = {
    "observer": (OBSERVER, OBSERVER_TEST),
    "commands": (COMMANDS, COMMANDS_TEST),
    "oci-backend": (BACKEND, BACKEND_TEST),
}
_NAME = re.compile(r"[a-z][a-z0-9-]{0,30}")


def write_plugin(name: str, role: str, folder: Path) -> list[Path]:
    """Write the three files of a plugin into a new folder and return their paths; raise UsageError where it stands."""
    if not _NAME.fullmatch(name):
        raise UsageError(f"{name!a} is no name for a plugin", hint="small letters, digits and dashes: my-observer")
    if role not in ROLES:
        raise UsageError(f"there is no skeleton for {role!a}", hint=f"one of: {', '.join(ROLES)}")
    module = f"reberth_{name.replace('-', '_')}"
    words = {
        "name": name,
        "module": module,
        "distribution": f"reberth-{name}",
        "target": f"{module}:backend" if role == "oci-backend" else module,
        "variable": f"{module.upper()}_LOG",
        "api": API,
    }
    source, test = ROLES[role]
    texts = {"pyproject.toml": PROJECT_FILE, f"{module}.py": source, f"test_{module}.py": test}
    try:
        folder.mkdir(parents=True)
    except FileExistsError:
        raise UsageError(f"{str(folder)!a} exists", hint="name another folder: --into FOLDER") from None
    except OSError as error:
        raise UsageError(f"{str(folder)!a} cannot be made: {error.strerror}", hint="--into FOLDER") from error
    for path, text in texts.items():
        (folder / path).write_text(text.format(**words), encoding="utf-8")
    return [folder / path for path in texts]
