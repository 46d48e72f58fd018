"""The report of one run: data that the engine fills step by step, and its text for people."""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from reberth.report.text import render_text
from reberth.text import safe
from reberth_hooks import Exit, Owner, Plan, UsageError, plain

__all__ = ["SCHEMA", "Report", "render_text"]

SCHEMA = 1
Facts = dict[str, Any]


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


@dataclass
class Report:
    """What a run did; its fields are the keys of the JSON document (schema 1), in this order.

    `source` and `target` are words that a user could type (`pi1:runc/web`, `pi2:web`), `workload` is the bare name.
    `started` is ISO 8601 in UTC; times are seconds, sizes bytes; None is a time that was not, or cannot be, measured.
    `outcome` is moved, refused, rolled-back, held, ended, detached or lost; empty while the run goes on.
    `predicted` is what the plan said of this mode (`downtime_s`, its range, `total_s`, `bytes`, `rounds`), else empty.
    `compress` says how trees were compressed (`method`, `why`), their `raw_bytes`, and the `wire_bytes` that went over.
    `error` has the keys code, message, hint, log_tail and phase, and cause where a tool's log tells one.
    """

    schema: int = SCHEMA
    id: str = ""
    started: str = field(default_factory=_now)
    source: str = ""
    target: str = ""
    workload: str = ""
    backend: str = ""
    transports: list[str] = field(default_factory=list)
    mode: str = ""
    policy: str = ""
    outcome: str = ""
    owner: str = Owner.SOURCE.value
    exit_code: int = int(Exit.DONE)
    downtime_s: float | None = None
    downtime_error_s: float | None = None
    frozen_s: float | None = None
    restore_s: float | None = None
    total_s: float | None = None
    bytes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(("pages", "images", "memory", "filesystem"), 0))
    compress: Facts = field(default_factory=dict)
    rounds: list[Facts] = field(default_factory=list)
    stop_reason: str = ""
    predicted: Facts = field(default_factory=dict)
    phases: list[Facts] = field(default_factory=list)
    checks: list[Facts] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    error: Facts | None = None
    versions: Facts = field(default_factory=dict)

    @classmethod
    def of_plan(cls, plan: Plan) -> Report:
        """Begin a report with all that the plan says."""
        return cls(
            id=plan.id,
            source=str(plan.workload),
            target=f"{plan.target.name}:{plan.target_name}",
            workload=plan.workload.name,
            backend=plan.workload.backend,
            transports=sorted(set(plan.routes.values())),
            mode=plan.mode.value,
            policy=plan.options.policy,
            predicted=dict((plan.facts.get("predicted") or {}).get(plan.mode.value) or {}),
            checks=plain(plan.checks),
        )

    def add_phase(self, name: str, start_s: float, seconds: float) -> None:
        """Note one phase; `start_s` counts from the start of the run."""
        self.phases.append({"name": name, "start_s": start_s, "seconds": seconds})

    def to_json(self) -> Facts:
        """Return the JSON document as plain data."""
        document: Facts = plain(self)
        return document

    @classmethod
    def from_json(cls, document: Any) -> Report:
        """Read a document; unknown keys are left out, another schema is a UsageError."""
        if not isinstance(document, dict) or document.get("schema") != SCHEMA:
            found = document.get("schema") if isinstance(document, dict) else None
            raise UsageError(f"this report has schema {found!r}, and this reberth reads schema {SCHEMA}")
        known = {f.name for f in dataclasses.fields(cls)}
        return cls(**{key: value for key, value in document.items() if key in known})

    def save(self, path: Path) -> None:
        """Write the document so that a reader sees the old one or the whole new one, also after a power cut."""
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "w", encoding="utf-8") as file:
                json.dump(self.to_json(), file, indent=1)
                file.write("\n")
                file.flush()
                os.fsync(file.fileno())
            Path(name).replace(path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: Path) -> Report:
        """Read what `save` wrote; raises OSError, or UsageError when it is no report."""
        try:
            return cls.from_json(json.loads(path.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UsageError(f"{safe(str(path))} is no report: {safe(str(error))}") from error
