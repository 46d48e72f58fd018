"""A command line in a world of its own: no configuration of this machine, and a host that only pretends."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

import reberth.cli.app
from reberth.cli import common
from reberth.plugin.catalog import Catalog
from reberth.plugin.stage import Stage
from reberth.report.report import Report
from reberth_hooks import Check, Found, Level, Mode, Node, Options, Plan, Workload

HELLO = {
    "hostname": "box",
    "arch": "x86_64",
    "kernel": "6.12",
    "python": "3.13.1",
    "uid": 0,
    "cgroup2": "/sys/fs/cgroup",
    "page_bytes": 4096,
    "boot_id": "b",
    "pid_ns": "p",
}


def make_plan(*checks: Check, name: str = "web") -> Plan:
    return Plan(
        id="20250131-120000-1f2e",
        workload=Workload("pi1", "runc", name),
        source=Node("pi1"),
        target=Node("pi2"),
        target_name=name,
        mode=Mode.STOP_AND_COPY,
        why="stop-and-copy: as asked",
        options=Options(),
        routes={"files": "ssh"},
        checks=checks,
    )


class FakeHost:
    """Answers with what a test put into it, raises what is an exception, and remembers what it was asked."""

    def __init__(self, config, *, yes=False, quiet=False, json=False, answers=None, calls=None):
        self.config, self.answers, self.calls = config, answers or {}, calls if calls is not None else []
        self.warnings = self.answers.get("warnings", [])
        self.flags = {"yes": yes, "quiet": quiet, "json": json}
        self.catalog = Catalog(extra=self.answers.get("plugins", {}), environ={"REBERTH_PLUGINS": ""})
        self.stage = Stage(self.catalog)

    def _answer(self, _name, *args):
        self.calls.append((_name, *args))
        answer = self.answers[_name]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    def close(self):
        if isinstance(self.answers.get("close"), BaseException):
            raise self.answers["close"]
        self.calls.append(("close",))

    def shell(self, node_name):
        hello = self._answer("shell", node_name)
        return SimpleNamespace(node=self.config.node(node_name), call=lambda op, **_: dict(hello[node_name]))

    def list_workloads(self, node):
        return self._answer("list_workloads", node)

    def plan(self, request):
        self.calls.append(("flags", self.flags))
        return self._answer("plan", request)

    def move(self, plan):
        return self._answer("move", plan)

    def checkpoint(self, request, directory):
        return self._answer("checkpoint", request, directory)

    def restore(self, directory, target, options):
        return self._answer("restore", directory, target, options)

    def recover(self, run_id, how="auto", dry_run=False, gone=()):
        return self._answer("recover", run_id, how, dry_run, gone)

    def change(self, run_id, values):
        return self._answer("change", run_id, values)

    def abort(self, run_id):
        return self._answer("abort", run_id)

    def status(self, run_id):
        return self._answer("status", run_id)


def _runner():
    from typer.testing import CliRunner  # only now: reberth.cli must be the one that imports typer

    try:
        return CliRunner(mix_stderr=False)  # click before 8.2
    except TypeError:
        return CliRunner()


class World:
    """The command line with its fake host."""

    def __init__(self, tmp_path):
        self.answers, self.calls, self.tmp = {}, [], tmp_path

    def run(self, *words, stdin=None):
        return _runner().invoke(reberth.cli.app.app, list(words), input=stdin, prog_name="reberth")

    def json(self, *words):
        result = self.run(*words)
        return result.exit_code, json.loads(result.stdout)

    def asked(self, name):
        return next(call[1:] for call in self.calls if call[0] == name)

    def process(self, *words, code="from reberth.__main__ import main; main()", **env):
        """A process of its own, with this test's world around it."""
        env = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p), **env}
        argv = [sys.executable, "-c", code, *words]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, env=env)


@pytest.fixture
def world(tmp_path, monkeypatch):
    for name in [n for n in os.environ if n.startswith(("REBERTH_", "XDG_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("REBERTH_CONFIG", str(tmp_path / "config" / "config.toml"))
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    monkeypatch.setenv("HOME", str(tmp_path))
    world = World(tmp_path)
    monkeypatch.setattr(
        common,
        "make_host",
        lambda config, **flags: FakeHost(config, answers=world.answers, calls=world.calls, **flags),
    )
    return world


@pytest.fixture
def make():
    """Makers of data."""
    moved = Report.of_plan(make_plan())
    moved.outcome, moved.owner, moved.downtime_s, moved.downtime_error_s = "moved", "target", 0.2431, 0.0011
    moved.total_s, moved.bytes = 1.5, {"pages": 0, "images": 5 << 20, "filesystem": 1 << 10}
    moved.started = "2025-01-31T12:00:00.000Z"
    return SimpleNamespace(
        plan=make_plan,
        moved=moved,
        hello=HELLO,
        ok=Check("arch", Level.OK, "architecture: x86_64 on both"),
        warn=Check("clock", Level.WARN, "the clocks differ", "set both clocks by NTP"),
        fail=Check("hugetlb", Level.FAIL, "it maps huge pages", "run it without", "pi1"),
        found=Found("runc", "web", "running", 4711, 64 << 20, "redis"),
    )
