"""Small plugins made of source text, nodes and a shell that answers `hello`: what the host's unit tests share."""

from __future__ import annotations

import os
import sys
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from reberth.config.config import Config
from reberth.config.request import Request
from reberth.node.system import orphans
from reberth.plan.planner import make_plan
from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth_hooks import Node, Options

sys.path.insert(0, str(Path(__file__).resolve().parent))  # fakes.py is shared by several tests


@pytest.fixture(autouse=True)
def own_mark(monkeypatch):
    """Tools of these tests carry a mark of this session: another suite on this machine uses the same ids of runs."""
    mark = f"{orphans.MARK}_{os.getpid()}"
    monkeypatch.setattr(orphans, "MARK", mark)
    monkeypatch.setenv("TEST_MARK", mark)  # for helpers that are processes of their own


PRELUDE = "from __future__ import annotations\nfrom reberth_hooks import *\ncalls = []\n"

BACKEND = """
@hookimpl
def reberth_describe():
    modes, carries = frozenset({Mode.STOP_AND_COPY}), frozenset({Channel.MEMORY})
    return Declaration("a backend", frozenset({Role.BACKEND}), modes=modes, carries=carries)

@hookimpl
def reberth_probe(node):
    calls.append(("probe", node.name))
    return {"version": "1"}

@hookimpl
def reberth_list(node):
    return [Found(NAME, "web", "running"), Found(NAME, "mail", "running")]

@hookimpl
def reberth_survey(workload, target_name, source, target, facts, options):
    calls.append(("survey", str(workload), target_name, source.node.name, target.node.name, facts, options))
    return Survey((Check("own", Level.OK, "looked at"),), {"key": "kept"})

@hookimpl
def reberth_prepare(move):
    calls.append("prepare")
    return True

@hookimpl
def reberth_checkpoint(move, round):
    calls.append(("checkpoint", round))
    return Checkpoint((Tree("images", "/a", "/b"),), Iteration(round.index))

@hookimpl
def reberth_restore(move, receipts):
    calls.append(("restore", receipts))
    return Restored("web", 1)

@hookimpl
def reberth_commit():
    calls.append("commit")
    return True

@hookimpl
def reberth_rollback(move):
    calls.append("rollback")
    return True
"""

TRANSPORT = """
@hookimpl
def reberth_describe():
    return Declaration("a transport", frozenset({Role.TRANSPORT, Role.CONNECTOR}), carries=frozenset({Channel.FILES}))

@hookimpl
def reberth_connect(node):
    calls.append(("connect", node.name))
    return Route(("reach", node.address))

@hookimpl
def reberth_receive(move, round):
    calls.append(("receive", round))
    return True

@hookimpl
def reberth_transfer(move, parcel):
    calls.append(("transfer", parcel))
    return Receipt(parcel.kind, parcel.into, 1, 1)
"""

MEMORY = """
@hookimpl
def reberth_describe():
    return Declaration("pages", frozenset({Role.TRANSPORT}), carries=frozenset({Channel.MEMORY}))

@hookimpl
def reberth_receive(move):
    calls.append("receive")
    return True
"""

WRAPPER = """
@hookimpl
def reberth_describe():
    return Declaration("a wrapper", frozenset({Role.WRAPPER}))

@hookimpl(wrapper=True)
def reberth_checkpoint(move):
    calls.append("before")
    answer = yield
    calls.append("after")
    return answer
"""

OBSERVER = """
@hookimpl
def reberth_describe():
    return Declaration("an observer", frozenset({Role.OBSERVER}))

@hookimpl
def reberth_event(event):
    calls.append(event)
"""


def build(name: str, *sources: str) -> ModuleType:
    """A plugin module of these pieces; what a later piece defines replaces what an earlier one did."""
    module = ModuleType(f"fake_{name.replace('-', '_')}")
    module.NAME = name
    for source in (PRELUDE, *sources):
        exec(compile(textwrap.dedent(source), module.__name__, "exec"), vars(module))
    return module


HELLO: dict[str, Any] = {
    "hostname": "host",
    "arch": "x86_64",
    "kernel": "6.12.0",
    "python": "3.11.2",
    "uid": 0,
    "boot_id": "",
    "pid_ns": "pid:[1]",
    "time_ns": "time:[1]",
    "cgroup2": "/sys/fs/cgroup",
    "page_bytes": 4096,
    "clock_realtime_ns": 0,
    "clock_boottime_ns": 0,
    "mem_available_bytes": 1 << 30,
    "pipe_max_bytes": 1 << 20,
}


@dataclass
class FakeShell:
    """A node that only says hello."""

    node: Node
    hello: dict[str, Any] = field(default_factory=lambda: dict(HELLO))
    runs: list[dict[str, Any]] = field(default_factory=list)

    def call(self, op: str, /, *, timeout_s: float | None = 30.0, **args: Any) -> Any:
        if op == "runs":
            return self.runs
        assert op == "hello"
        return {"boot_id": f"boot-{self.node.name}", **{k: v for k, v in self.hello.items() if v != ""}}


@pytest.fixture
def make_plugin() -> Callable[..., ModuleType]:
    """`build`, with the sources above as `make_plugin.BACKEND` and so on."""

    def make(name: str, *sources: str) -> ModuleType:
        known = {
            "BACKEND": BACKEND,
            "TRANSPORT": TRANSPORT,
            "MEMORY": MEMORY,
            "WRAPPER": WRAPPER,
            "OBSERVER": OBSERVER,
        }
        return build(name, *(known.get(source, source) for source in sources))

    return make


@pytest.fixture
def make_shell() -> type[FakeShell]:
    """A shell that answers `hello`; change its `hello` to change the machine."""
    return FakeShell


BOTH = {"backends": ("runc", "criu"), "transports": ("ssh", "pages")}


@pytest.fixture
def world(make_plugin, make_shell):
    """Nodes local, pi1, pi2 with backends runc and criu and transports ssh and pages; all of it may be changed."""
    modules = {"runc": make_plugin("runc", "BACKEND"), "criu": make_plugin("criu", "BACKEND")}
    modules |= {"ssh": make_plugin("ssh", "TRANSPORT"), "pages": make_plugin("pages", "MEMORY")}
    nothing = "@hookimpl\ndef reberth_list(node):\n    calls.append('list')\n    return []"
    modules["criu"] = make_plugin("criu", "BACKEND", nothing)
    nodes = {"local": Node("local", connector="ssh", **BOTH), "pi1": Node("pi1", **BOTH), "pi2": Node("pi2", **BOTH)}

    def plan(source="web", target="pi2:", *, backend="", transports=(), **options):
        def shell(name):
            world.reached.append(name)
            return world.shells.setdefault(name, make_shell(world.nodes[name]))

        stage = Stage(Catalog(extra=modules, environ={"REBERTH_PLUGINS": ""}))
        request = Request(source, target, Options(**options), backend, transports)
        return make_plan(request, Config(nodes), stage, shell, lambda: "20261123-142501-a3f2")

    def machine(name, **facts):
        shell = world.shells.setdefault(name, make_shell(nodes[name]))
        shell.hello.update(facts)

    world = SimpleNamespace(modules=modules, nodes=nodes, shells={}, reached=[], plan=plan, machine=machine)
    world.make_plugin = make_plugin
    return world
