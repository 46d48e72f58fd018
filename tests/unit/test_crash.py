"""REBERTH_CRASH_AT: the record is on disk, or it is not, and nothing after it ever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

PROGRAM = """
from reberth.run.journal import Journal
journal = Journal("20261125-000000-abcd")
for event in ("plan", "phase", "phase", "end"):
    journal.write(event)
print("lived")
"""


@pytest.mark.parametrize(
    ("where", "kept"),
    [
        ("2", ["plan", "phase", "phase"]),
        ("2:before", ["plan", "phase"]),
        ("0:before", []),
        ("phase", ["plan", "phase"]),
        ("end:before", ["plan", "phase", "phase"]),
        ("9", None),
        ("", None),
    ],
)
def test_the_controller_dies_at_the_named_record(tmp_path, where, kept):
    env = {**os.environ, "XDG_STATE_HOME": str(tmp_path), "REBERTH_CRASH_AT": where}
    env["PYTHONPATH"] = os.pathsep.join(path for path in sys.path if path)
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True)
    path = tmp_path / "reberth/runs/20261125-000000-abcd/journal.jsonl"
    found = [json.loads(line)["event"] for line in path.read_text().splitlines()] if path.exists() else []
    if kept is None:
        assert (done.returncode, done.stdout) == (0, "lived\n"), done.stderr
        kept = ["plan", "phase", "phase", "end"]
    else:
        assert (done.returncode, done.stdout) == (-9, ""), done.stderr
    assert found == kept
