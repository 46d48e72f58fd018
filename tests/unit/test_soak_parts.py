"""What the long runs judge by: the same seed gives the same kills, names may change and numbers may not grow."""

from __future__ import annotations

import json
import sys

import pytest
from faults import alone, kills, pairs, pairs_table, postcopy, soak
from faults.hops import grown, renamed
from faults.kills import VICTIMS, chosen, table

CGROUPS = [
    "node1: cgroups: new: /sys/fs/cgroup/reberth-20261128-143600-0ce8",
    "node1: cgroups: gone: /sys/fs/cgroup/reberth-20261128-143534-1d5e",
]
PROCESSES = ["node1: processes: new: 26784 python3 pulse", "node1: processes: gone: 2293 python3 pulse"]


def test_everything_left_to_chance_comes_from_the_seed():
    first = [chosen(victim, number, 6) for victim in VICTIMS for number in range(30)]
    assert first == [chosen(victim, number, 6) for victim in VICTIMS for number in range(30)]
    assert first != [chosen(victim, number, 7) for victim in VICTIMS for number in range(30)]
    assert {kill.side for kill in first if kill.victim == "helper"} == {"source", "target"}
    assert {kill.side for kill in first if kill.victim == "criu-source"} == {"source"}
    assert {kill.backend for kill in first if kill.victim == "ssh"} == {"criu", "runc"}


def test_another_name_is_no_leftover_and_another_thing_is():
    assert renamed([*CGROUPS, *PROCESSES]) == []
    assert renamed(CGROUPS[:1]) == CGROUPS[:1]
    assert renamed([*PROCESSES, "node1: run: new: /run/x"]) == ["node1: run: new: /run/x"]
    assert renamed([PROCESSES[0], PROCESSES[1].replace("pulse", "other")]) != []


def test_a_descriptor_more_is_too_many_and_some_memory_is_not():
    before = {"workload: descriptors": 5.0, "workload: anonymous KiB": 30000.0}
    assert grown(before, {"workload: descriptors": 5.0, "workload: anonymous KiB": 30100.0}) == []
    assert grown(before, {"workload: descriptors": 6.0, "workload: anonymous KiB": 30000.0}) != []
    assert grown(before, {"workload: descriptors": 5.0, "workload: anonymous KiB": 40000.0}) != []


def test_only_kills_that_hit_are_counted():
    base = {"victim": "ssh", "code": 20, "outcome": "rolled-back", "seconds": 1.0, "problems": []}
    lines = table([{**base, "hit": 1}, {**base, "hit": 0}, {**base, "hit": 1, "problems": ["x"]}])
    assert "| ssh | 2 | 1 | 20: 2 | 0 | 2 | 1 |" in lines


@pytest.mark.parametrize("part", [kills, postcopy, soak])
def test_a_tally_of_a_log_makes_nothing_and_fails_for_a_broken_promise(part, tmp_path, capsys, monkeypatch):
    log = tmp_path / "log.jsonl"
    line = {"victim": "ssh", "case": "runc-ssh-source-at-9-x", "hit": 1, "code": 20, "outcome": "", "seconds": 1.0}
    line |= {"fault": "daemon", "resolved": []}
    monkeypatch.setattr(part, "Lab", None)
    monkeypatch.setattr(sys, "argv", ["part", "--tally", "--log", str(log)])
    log.write_text(json.dumps({**line, "problems": []}) + "\n", "utf-8")
    assert part.main() == 0
    log.write_text(json.dumps({**line, "problems": ["x"]}) + "\n", "utf-8")
    assert part.main() == 1
    assert "20: 1" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("case", "row"),
    [
        ("runc-link-deaf-source-at-9-initial-sync", ("runc", "link-deaf-source")),
        ("criu-controller-before-16-ask-ready", ("criu", "controller")),
        ("runc-criu-source-in-10-final-dump", ("runc", "criu-source")),
    ],
)
def test_cases_of_one_fault_are_one_row(case, row):
    assert soak.kind(case) == row


def test_a_break_of_a_post_copy_comes_from_the_seed_and_its_row_tells_how_it_ended():
    every = [postcopy.chosen(fault, number, 6) for fault in postcopy.CODES for number in range(20)]
    assert every == [postcopy.chosen(fault, number, 6) for fault in postcopy.CODES for number in range(20)]
    assert {(one.backend, one.side) for one in every} == {
        (b, s) for b in ("criu", "runc") for s in ("source", "target")
    }
    assert all(0 <= one.delay_s < 1 for one in every)
    held = {**every[0].__dict__, "hit": 1, "code": 50, "outcome": "rolled-back"}
    runs = [{**held, "resolved": ["forward 50", "rollback 0"]}, {**held, "resolved": ["rollback 0"]}]
    lines = postcopy.table([*runs, {**held, "outcome": "moved", "resolved": ["forward 0"], "problems": ["x"]}])
    assert "| daemon | 3 | 0 | 50: 3 | 1 | 2 | 1 | 2 | 1 |" in lines


@pytest.mark.parametrize(
    ("role", "events", "expected"),
    [
        ("source", [("freezing", None), ("held", None)], False),  # it waits for the link for ever
        ("source", [("voting", "RESUME")], False),  # it wants to, and has not done it
        ("source", [("voting", "RESUME"), ("resumed", None)], True),
        ("source", [("voting", "READY")], True),  # it has to wait
        ("source", [("voting", "READY"), ("released", None)], True),
        ("target", [("copy-held", None)], False),
        ("target", [("deciding", "ABORT")], False),
        ("target", [("deciding", "ABORT"), ("taken-back", None)], True),
        ("target", [("deciding", "PERMIT")], True),
    ],
)
def test_the_judge_sees_a_node_that_waits_for_its_link(role, events, expected, tmp_path, mocker):
    records = [{"event": event, "value": value} for event, value in events]
    assert alone.acted(role, records) is expected
    node = mocker.Mock(root=tmp_path)
    node.name = "node1"
    assert alone.problem(node, role, "r1", 0.0) == ""  # there is no such run
    place = tmp_path / "var/lib/reberth/r1"
    place.mkdir(parents=True)
    lines = [json.dumps(record) for record in records]
    (place / "journal.jsonl").write_text("\n".join([*lines, '{"event": "hal']))
    assert ("never acted alone" in alone.problem(node, role, "r1", 0.0)) is not expected


def test_each_schedule_of_two_faults_is_made_of_words_that_there_are():
    names = [one.name for one in pairs_table.PAIRS]
    assert len({*names}) == len(names) >= 15
    for one in pairs_table.PAIRS:
        assert [word for word in one.does if not callable(getattr(pairs.Two, word, None))] == [], one.name
        assert one.ran and one.outcome and (one.ends or "kill_controller" in one.does), one.name
        assert bool(one.last) == any(word.startswith("recover") for word in one.does) or one.ends <= {0, 20}, one.name


def test_the_sample_of_two_faults_comes_from_the_seed_and_leaves_out_what_is_not_yet_promised():
    found = pairs_table.sample(3, 6)
    assert found == pairs_table.sample(3, 6) and len({one.name for one in found}) == 3
    every = {one.name for seed in range(40) for one in pairs_table.sample(3, seed)}
    assert every == {one.name for one in pairs_table.PAIRS if one.cheap}


def test_the_judge_of_two_faults_sees_a_wrong_end_a_wrong_outcome_and_a_second_run(mocker):
    pair = pairs_table.pair("x", "permit", "go_on recover", (0,), "rolled-back", ends=[20], last=[0])
    one = pairs.Two(mocker.Mock(nodes=(mocker.Mock(), mocker.Mock())), pair, 9)
    one.result.code, one.result.recovered, one.result.outcome = 20, [40, 0], "rolled-back"
    witness = mocker.Mock(stop=lambda: [(1, 0), (2, 0)])
    mocker.patch.object(one, "_patient_health", return_value={"ok": True})
    gone = mocker.patch.object(pairs, "gone", autospec=True, return_value=True)
    one._settle(one.done), one._judge(mocker.Mock(), witness)
    assert one.result.problems == []
    one.result.code, one.result.recovered, one.result.outcome = 0, [40], "moved"
    witness.stop = lambda: [(1, 0), (2, 1), (3, 0)]
    gone.return_value = False
    one._settle(one.done), one._judge(mocker.Mock(), witness)
    assert [problem.split()[1] for problem in one.result.problems] == ["move", "ended", "outcome", "of", "ran,"]
