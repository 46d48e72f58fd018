"""Every bundled plugin declares itself as a third-party one must: light, silent, in the contract's words."""

from __future__ import annotations

import inspect
import json
import pkgutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from reberth.config.config import BUNDLED_BACKENDS
from reberth.config.options import WORDS
from reberth.plugin.catalog import Catalog
from reberth_hooks import Channel, Declaration, Role, specs

ROOT = Path(__file__).parents[2]
POINTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["reberth"]
HEAVY = ("typer", "sh", "rich", "pylxd", "tomlkit")

# Runs in a bare interpreter: what importing and describing a plugin brings in, does and leaves.
PROBE = """
import json, os, sys, threading, signal
name, heavy = sys.argv[1], sys.argv[2].split(",")
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
sys.addaudithook(audit)
before = dict(os.environ), os.getcwd(), threading.active_count(), signal.getsignal(signal.SIGINT), list(sys.path)
module = __import__("pkgutil").resolve_name(name)
first, second = module.reberth_describe(), module.reberth_describe()
after = dict(os.environ), os.getcwd(), threading.active_count(), signal.getsignal(signal.SIGINT), list(sys.path)
host = [m for m in sys.modules if m.split(".")[0] == "reberth"]
json.dump({"heavy": [h for h in heavy if h in sys.modules], "host": host, "acts": acts,
    "same": first == second, "unchanged": before == after}, sys.stdout)
"""


@pytest.fixture(params=sorted(POINTS))
def module(request):
    """Each bundled plugin's module."""
    return pkgutil.resolve_name(POINTS[request.param])


@pytest.mark.parametrize("name", sorted(POINTS))
def test_import_and_describe_are_light_and_silent(name):
    argv = [sys.executable, "-B", "-c", PROBE, POINTS[name], ",".join(HEAVY)]
    env = {"PYTHONPATH": ":".join(str(ROOT / folder) for folder in ("core", "hooks", "plugins"))}
    done = subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {"heavy": [], "host": [], "acts": [], "same": True, "unchanged": True}
    assert done.stderr == ""


def test_the_catalog_accepts_every_bundled_plugin():
    modules = {name: pkgutil.resolve_name(module) for name, module in POINTS.items()}
    catalog = Catalog(extra=modules, environ={"REBERTH_PLUGINS": ""})
    assert [plugin.name for plugin in catalog.load_all()] == sorted(POINTS)
    assert catalog.errors == {}
    backends = {p.name for p in catalog.loaded() if Role.BACKEND in p.declaration.roles}
    assert backends == set(BUNDLED_BACKENDS)
    for plugin in catalog.loaded():
        roles = plugin.declaration.roles
        assert roles
        assert bool(plugin.declaration.modes) >= (Role.BACKEND in roles)
        if Role.BACKEND in roles:  # what it gives to a transport beside files
            assert plugin.declaration.carries <= {Channel.MEMORY}
            assert plugin.declaration.ignores <= WORDS.keys()
        else:
            assert bool(plugin.declaration.carries) is (Role.TRANSPORT in roles)


def test_every_option_of_move_that_one_backend_alone_has_is_known_by_one():
    own = set().union(*(pkgutil.resolve_name(POINTS[name]).reberth_describe().knows for name in BUNDLED_BACKENDS))
    assert own == {
        "force_stop",
        "keep_source",
        "lxd_mode",
        "lxd_pool",
        "snapshot_first",
    }  # `backend_args` in core/reberth/cli/common.py


def test_the_summary_is_one_short_line(module):
    said = module.reberth_describe()
    assert isinstance(said, Declaration)
    assert said.summary and said.summary.isprintable() and len(said.summary) <= 100


def hooks_of(module):
    return [(n, f) for n, f in inspect.getmembers(module, inspect.isroutine) if hasattr(f, "reberth_impl")]


def plainly(annotation) -> str:
    """An annotation as text; a plugin may say Any where the contract says object, to look inside without casts."""
    return str(annotation).replace("Any", "object")


def test_arguments_and_annotations_are_those_of_the_specification(module):
    assert hooks_of(module)
    for name, function in hooks_of(module):
        spec = inspect.signature(getattr(specs, name))
        impl = inspect.signature(function)
        for word, parameter in impl.parameters.items():
            assert word in spec.parameters, f"{name}({word})"
            assert plainly(parameter.annotation) == plainly(spec.parameters[word].annotation), f"{name}({word})"
        if not function.reberth_impl.get("wrapper"):
            assert plainly(impl.return_annotation) == plainly(spec.return_annotation), f"{name} ->"


def test_every_hook_has_a_docstring(module):
    assert [name for name, function in hooks_of(module) if not (function.__doc__ or "").strip()] == []
