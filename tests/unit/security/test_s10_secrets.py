"""S10: no secret reaches a journal, a report, a message or an argument list."""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass, field

from reberth.node.system import spawn
from reberth.run.journal import Journal
from reberth_hooks import plain

SECRET = "hunter2-marker"


@dataclass(frozen=True)
class Place:
    """A plugin's own type with something that is nobody's business."""

    host: str
    secret: dict[str, str] = field(repr=False)


def test_a_field_of_the_name_secret_is_neither_shown_nor_stored():
    one = Place("host", {"token": SECRET})
    journal = Journal("r1")
    journal.write("note", key="endpoint", value=plain(one))
    kept = (journal.dir / "journal.jsonl").read_text()
    assert SECRET not in repr(one) + str(one) + json.dumps(plain(one)) + kept
    assert one.secret["token"] == SECRET and "host" in kept


def test_what_is_no_secret_is_kept():
    """The twin: a secret put into another field would be seen."""
    assert SECRET in json.dumps(plain(Place(SECRET, {})))


def test_logs_and_journals_are_for_their_owner_alone():
    journal = Journal("r1")
    journal.write("open")
    journal.keep_logs("source-a", {"dump.log": SECRET, "../../escape.log": "x"})
    found = list(journal.dir.rglob("*"))
    assert {path.name for path in found} == {"journal.jsonl", "logs", "source-a-dump.log", "source-a-escape.log"}
    for path in [journal.dir, *found]:
        assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0, path


def test_a_tools_output_goes_to_a_private_file_and_input_to_no_argument(tmp_path):
    output = tmp_path / "tool.out"
    process = spawn.spawn(["cat", "/dev/null"], output=str(output))
    assert process.wait() == 0
    assert stat.S_IMODE(os.stat(output).st_mode) == 0o600
    found = spawn.run(["sh", "-c", "tr '\\0' ' ' < /proc/$$/cmdline; cat > /dev/null"], stdin=SECRET)
    assert found["code"] == 0 and SECRET not in found["out"]
