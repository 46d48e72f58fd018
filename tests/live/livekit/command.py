"""The `reberth` command, run as a user runs it: a process of its own, judged by exit code, report and stderr."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

LIMIT_S = 150.0
PLAIN = ("--mode", "stop-and-copy")


@dataclass(frozen=True)
class Done:
    """How a command ended; `report` is its JSON document, empty when it printed none."""

    code: int
    report: dict[str, Any]
    stderr: str
    stdout: str = ""

    @property
    def error(self) -> str:
        """All words of the failure, for searching: message, hint, tail and checks that failed."""
        found = dict(self.report.get("error") or {})
        checks = [" ".join(check.values()) for check in self.report.get("checks", ()) if check["level"] == "fail"]
        return "\n".join([*map(str, found.values()), *checks, self.stderr])

    def __str__(self) -> str:
        kept = ("outcome", "owner", "error", "phases", "downtime_s")
        words = {key: self.report.get(key) for key in kept if key in self.report}
        return (
            f"exit {self.code}: {json.dumps(words, indent=1)}\n{self.stdout[-400:] if not words else ''}\n{self.stderr}"
        )


@dataclass
class Command:
    """How to call reberth: the configuration and the state folder of the session; `ids` are the runs it began."""

    config: Path
    state: Path
    ids: list[str] = field(default_factory=list)

    def environment(self, extra: Mapping[str, str] | None = None) -> dict[str, str]:
        """A clean environment: nothing of the caller's own configuration counts."""
        kept = {
            key: value for key, value in os.environ.items() if not key.startswith(("REBERTH_", "XDG_", "SABOTAGE_"))
        }
        ours = {"REBERTH_CONFIG": str(self.config), "XDG_STATE_HOME": str(self.state), "NO_COLOR": "1"}
        return {**kept, **ours, **(extra or {})}

    def run(self, *words: str, env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S) -> Done:
        """Run one command to its end; TimeoutExpired when it hangs."""
        process = self.start(*words, env=env)
        try:
            return self.finish(process, limit_s)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            raise

    def start(self, *words: str, env: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start a command and go on."""
        return subprocess.Popen(
            [sys.executable, "-m", "reberth", *words],
            env=self.environment(env),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str], limit_s: float = LIMIT_S) -> Done:
        """Wait for a started command."""
        out, err = process.communicate(timeout=limit_s)
        done = done_of(process.returncode, out, err)
        if done.report.get("id"):
            self.ids.append(str(done.report["id"]))
        return done

    def move(
        self, source: str, target: str, *options: str, env: Mapping[str, str] | None = None, limit_s: float = LIMIT_S
    ) -> Done:
        """`reberth move SOURCE TARGET --json`, of a process or a runc container by stop-and-copy if not said otherwise.

        What `auto` takes depends on how fast the machine is at the moment, and a test must not.
        """
        mode = PLAIN if "--mode" not in options and re.search(":(criu|runc)/", source) else ()
        return self.run("move", *mode, *options, "--json", "--", source, target, env=env, limit_s=limit_s)


def done_of(code: int, out: str, err: str) -> Done:
    """The parts of an ended command, with its JSON document read."""
    try:
        report = json.loads(out)
    except ValueError:
        report = {}
    return Done(code, report if isinstance(report, dict) else {}, err, out)


def with_wrappers(config: str, *names: str) -> str:
    """An inventory in which these wrapping plugins are enabled on every node."""
    listed = ", ".join(f'"{name}"' for name in names)
    return re.sub(r"^(transports = .*)$", rf"\1\nwrappers = [{listed}]", config, flags=re.M)


def journal_of(state: Path, run_id: str) -> list[dict[str, Any]]:
    """The controller's journal of a run."""
    path = state / "reberth" / "runs" / run_id / "journal.jsonl"
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def as_text(words: Sequence[str]) -> str:
    """An argument list in one environment variable."""
    return json.dumps(list(words))


def with_path(*folders: Path) -> dict[str, str]:
    """The environment in which plugins of these folders are found too."""
    return {"PYTHONPATH": os.pathsep.join([*map(str, folders), *filter(None, [os.environ.get("PYTHONPATH")])])}
