"""The two ways in which the demo moves its container: by reberth, or by the plain script, to compare."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from os import environ
from typing import Any

from reberth_lab.demo_address import enabled_inventory
from reberth_lab.demo_bundle import BUNDLE, CONTAINER
from reberth_lab.lab import Lab
from reberth_lab.node import Node
from reberth_lab.proc import LabError

MOVE_LIMIT_S = 300
IMAGES = "/tmp/plain-images"
# CRIU's own configuration file is the way to an option that this runc has no flag for.
CONFIG = "/tmp/plain-criu.conf"
DUMP = 'CRIU_CONFIG_FILE="$2" exec runc checkpoint --image-path "$1" --work-path "$1" "$3"'
LOAD = """\
CRIU_CONFIG_FILE="$2" exec runc restore -d -b "$4" --image-path "$1" --work-path "$1" "$3" </dev/null >/dev/null 2>&1
"""


@dataclass(frozen=True)
class Moved:
    """The end of a move: exit status and the report (keys of reberth's JSON report)."""

    how: str
    exit_code: int
    report: Mapping[str, Any]

    @property
    def arrived(self) -> bool:
        """Tell whether the target runs it now."""
        return self.exit_code == 0 or self.report.get("outcome") == "moved"


def by_reberth(lab: Lab, source: Node, target: Node, address: str = "") -> Moved:
    """`reberth move`, whose progress the user sees on stderr; with an address its connections go on."""
    words = ["move", f"{source.name}:runc/{CONTAINER}", f"{target.name}:", "--json", "--yes"]
    words += ["--tcp-established", "--move-address", address] if address else ["--tcp-close"]
    inventory = {"REBERTH_CONFIG": str(enabled_inventory(lab))} if address else {}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "reberth", *words],
            check=False,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            timeout=MOVE_LIMIT_S,
            env={**environ, **lab.environment, **inventory},
        )
    except subprocess.TimeoutExpired as error:
        raise LabError(f"reberth move did not end within {MOVE_LIMIT_S} s", "reberth status") from error
    try:
        report = json.loads(done.stdout)
    except ValueError:
        report = {}
    return Moved("reberth move", done.returncode, report if isinstance(report, dict) else {})


def plainly(lab: Lab, source: Node, target: Node) -> Moved:
    """Dump, rsync, restore: no rounds, no verdict, no way back; raises LabError where it breaks."""
    for node in (source, target):
        node.run(["rm", "-rf", IMAGES])
        node.write(CONFIG, "tcp-close\n")
    source.run(["mkdir", IMAGES])
    started = time.monotonic()
    try:
        source.run(["sh", "-c", DUMP, "sh", IMAGES, CONFIG, CONTAINER])
        source.run(["rsync", "-a", IMAGES, f"{target.name}:/tmp/"])
        source.run(["rsync", "-aH", BUNDLE, f"{target.name}:{BUNDLE.rpartition('/')[0]}/"])
        target.run(["sh", "-c", LOAD, "sh", IMAGES, CONFIG, CONTAINER, BUNDLE])
        total_s = time.monotonic() - started
        sizes = [int(source.run(["du", "-sb", path]).stdout.split()[0]) for path in (IMAGES, BUNDLE)]
    except subprocess.CalledProcessError as error:
        raise LabError(f"the plain script failed: {(error.stderr or error.stdout)[-500:]}") from error
    finally:
        for node in (source, target):
            node.run(["rm", "-rf", IMAGES, CONFIG], check=False)
    volume = {"images": sizes[0], "filesystem": sizes[1]}
    return Moved(
        "the plain script", 0, {"outcome": "moved", "downtime_s": total_s, "total_s": total_s, "bytes": volume}
    )
