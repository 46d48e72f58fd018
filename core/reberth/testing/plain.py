"""The contract of every plugin: it loads, quietly and quickly, and its hooks are those of the host."""

from __future__ import annotations

import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import pytest

from reberth.plugin.catalog import Catalog
from reberth_hooks import PROJECT, Declaration, specs

HEAVY = ("typer", "sh", "rich", "pylxd", "tomlkit", "pytest", "requests")

# Runs in an interpreter of its own: what importing and describing a plugin brings in, does and leaves.
PROBE = """
import json, os, signal, sys, threading
name, heavy, folders = sys.argv[1], sys.argv[2].split(","), json.loads(sys.argv[3])
sys.path[:0] = folders
import reberth_hooks
acts = []
HARMLESS = ("open", "os.listdir", "os.scandir", "os.walk", "import", "compile", "exec", "marshal.", "object.", "sys.",
    "code.", "builtins.", "array.", "ctypes.", "cpython.", "gc.", "glob.", "pathlib.", "function.", "re.", "time.")
def audit(event, args):
    if event == "open":
        if len(args) > 2 and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
            acts.append(f"open {args[0]}")
    elif not event.startswith(HARMLESS):
        acts.append(event)
def state():
    return dict(os.environ), os.getcwd(), threading.active_count(), signal.getsignal(signal.SIGINT), list(sys.path)
before = state()
sys.addaudithook(audit)
module = __import__("pkgutil").resolve_name(name)
first, second = module.reberth_describe(), module.reberth_describe()
host = [m for m in sys.modules if m.split(".")[0] == "reberth"]
json.dump({"heavy": [h for h in heavy if h in sys.modules], "host": host, "acts": acts,
    "same": first == second, "unchanged": before == state()}, sys.stdout)
"""


class PluginContract:
    """Inherit from the contract of your plugin's role; each of them begins with this one."""

    @pytest.fixture
    def plugin(self) -> str:
        """Return the plugin: the name of its entry point. Override this one."""
        raise NotImplementedError("override the fixture `plugin` with the name of your plugin's entry point")

    @pytest.fixture
    def module(self, plugin: str) -> Any:
        """Return what the plugin's entry point names, a module or an object; override it for one not installed."""
        found = [point for point in entry_points(group=PROJECT) if point.name == plugin]
        assert found, f"no installed distribution has an entry point {plugin!r} in the group {PROJECT!r}"
        return found[0].load()

    @pytest.fixture
    def said(self, module: Any) -> Declaration:
        """Return what the plugin says of itself."""
        found: Declaration = module.reberth_describe()
        return found

    def test_the_host_accepts_it(self, plugin: str, module: Any) -> None:
        """No hook is misspelt, none is missing for a declared role, and nothing undeclared would be called."""
        catalog = Catalog({plugin: module}, {"REBERTH_PLUGINS": ""})
        catalog.load_all()
        assert catalog.errors == {}

    def test_describing_has_no_side_effect(self, module: Any) -> None:
        """Import and `reberth_describe` write nothing, start nothing, bring in nothing heavy and nothing of the host.

        `reberth plugin ls` and every plan do both, for every plugin that is installed.
        """
        home = module if inspect.ismodule(module) else sys.modules[type(module).__module__]
        word = next((k for k, value in vars(home).items() if value is module), "")
        folder = Path(str(home.__file__)).parent
        folders = [str(folder.parent if hasattr(home, "__path__") else folder), *filter(None, sys.path)]
        name = f"{home.__name__}:{word}" if word else home.__name__
        argv = [sys.executable, "-B", "-c", PROBE, name, ",".join(HEAVY), json.dumps(folders)]
        done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env={"PATH": os.defpath})
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout) == {"heavy": [], "host": [], "acts": [], "same": True, "unchanged": True}
        assert done.stderr == ""

    def test_signatures_are_those_of_the_specification(self, module: Any) -> None:
        """Each hook takes arguments that its specification has, and where it says types they are the same ones."""
        for name, function in hooks_of(module):
            spec, impl = inspect.signature(getattr(specs, name)), inspect.signature(function)
            for word, parameter in impl.parameters.items():
                assert word in spec.parameters, f"{name} has no argument {word}"
                wanted = spec.parameters[word].annotation
                assert _agree(parameter.annotation, wanted), f"{name}({word}: {parameter.annotation}), not {wanted}"
            if not function.reberth_impl.get("wrapper"):
                given = impl.return_annotation
                assert _agree(given, spec.return_annotation), f"{name} -> {given}, not {spec.return_annotation}"

    def test_it_says_what_it_is_in_one_line(self, said: Declaration) -> None:
        """The summary is what `reberth plugin ls` shows."""
        assert isinstance(said, Declaration)
        assert said.summary and said.summary.isprintable() and len(said.summary) <= 100


def hooks_of(module: Any) -> list[tuple[str, Any]]:
    """The hook implementations of a module."""
    found = inspect.getmembers(module, inspect.isroutine)
    return [(name, function) for name, function in found if hasattr(function, f"{PROJECT}_impl")]


def _agree(given: Any, wanted: Any) -> bool:
    """Tell whether two annotations are the same text; none at all is no lie, and Any stands for object."""
    if given is inspect.Signature.empty:
        return True
    words = []
    for annotation in (given, wanted):
        text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
        words.append((text if "[" in text else text.rpartition(".")[2]).replace("Any", "object"))
    return words[0] == words[1]
