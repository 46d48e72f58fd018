"""What past runs keep: which are chosen, that open ones stay, and that only images of the run itself are removed."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

import pytest

from reberth.commands import retention
from reberth.run.journal import Journal, runs_dir
from reberth_hooks import ConnectionLostError

DAY_S = 86400


@pytest.fixture(autouse=True)
def own_state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))


def make(run_id, *, days=0, outcome="moved", exit_code=0, images=None):
    journal = Journal(run_id)
    plan = {"options": {"keep_images": images is not None}, "source": {"name": "a"}, "target": {"name": "b"}}
    journal.write("plan", format=1, plan=plan)
    for word, path in (images or {}).items():
        journal.write("note", key=f"images.{word}", value=path)
    if outcome:
        journal.write("end", outcome=outcome, owner="target", exit_code=exit_code)
    journal.keep_logs("source-a", {"dump.log": "x" * 1000})
    stamp = time.time() - days * DAY_S
    os.utime(journal.dir / "journal.jsonl", (stamp, stamp))
    return journal


def ids(found):
    return [one.id for one in found]


def test_only_runs_with_an_end_are_past():
    make("r1")
    make("r2", outcome="")
    make("r3", outcome="held", exit_code=40)
    make("r4", exit_code=41)
    assert ids(retention.past_runs()) == ["r1"]


def test_old_ones_beyond_the_newest_are_chosen():
    for number, days in enumerate((50, 40, 31, 29, 0)):
        make(f"r{number}", days=days)
    past = retention.past_runs()
    assert ids(retention.chosen(past, 0, 30 * DAY_S)) == ["r2", "r1", "r0"]
    assert ids(retention.chosen(past, 4, 30 * DAY_S)) == ["r0"]
    assert ids(retention.chosen(past, 9, 0)) == []


class Nodes:
    """Nodes that remember what they ran; `away` cannot be reached."""

    def __init__(self, away=()):
        self.ran, self.away = [], away

    def shell(self, name):
        def run(argv):
            if name in self.away:
                raise ConnectionLostError(f"{name} is away")
            self.ran.append((name, argv))

        return SimpleNamespace(run=run)


def test_kept_images_go_with_their_run():
    good = {"source": "/dev/shm/reberth-r1-images-0123456789ab", "target": "/run/reberth-r1-images-0123456789ab"}
    make("r1", images=good)
    nodes = Nodes()
    assert retention.remove(nodes, retention.past_runs()) == []
    assert nodes.ran == [(node, ["rm", "-rf", "--", path]) for node, path in zip("ab", good.values(), strict=True)]
    assert not (runs_dir() / "r1").exists()


@pytest.mark.parametrize(
    "path",
    ["/", "/etc", "/dev/shm/reberth-r2-images-0123456789ab", "/dev/shm/reberth-r1-images-0123456789ab/../x", ""],
)
def test_a_journal_cannot_name_anything_else(path):
    make("r1", images={"source": path})
    nodes = Nodes()
    assert retention.remove(nodes, retention.past_runs()) == []
    assert nodes.ran == []


def test_a_run_whose_images_cannot_be_removed_stays():
    make("r1", images={"source": "/dev/shm/reberth-r1-images-0123456789ab"})
    (problem,) = retention.remove(Nodes(away=("a",)), retention.past_runs())
    assert "a is away" in problem and (runs_dir() / "r1").exists()


def test_the_oldest_logs_go_first_when_they_are_too_many():
    for number in range(4):
        make(f"r{number}")
    assert retention.limit_logs(2500) == ["r1", "r0"]
    assert (runs_dir() / "r3" / "logs").exists() and (runs_dir() / "r0" / "journal.jsonl").exists()
    assert retention.limit_logs(2500) == []
