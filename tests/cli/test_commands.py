from __future__ import annotations

from pathlib import Path

import pytest

from reberth.report.report import Report
from reberth_hooks import Owner, UnreachableError


def test_ls_as_table_and_as_json(world, make):
    world.answers = {"list_workloads": [("pi1", make.found)], "warnings": ["pi2 \x1b is away"]}
    assert world.run("ls").stderr == "warning: pi2 \\x1b is away\n"
    world.calls.clear()
    lines = world.run("ls", "pi1:").stdout.splitlines()
    assert lines[0].split() == ["NODE", "BACKEND", "NAME", "STATUS", "PID", "MEMORY", "DETAIL"]
    assert lines[1].split() == ["pi1", "runc", "web", "running", "4711", "64.0", "MiB", "redis"]
    assert world.asked("list_workloads") == ("pi1",)
    code, document = world.json("ls", "--json")
    workload = {"node": "pi1", "backend": "runc", "name": "web", "status": "running", "pid": 4711}
    workload |= {"memory_bytes": 64 << 20, "detail": "redis"}
    assert (code, document) == (0, {"schema": 1, "workloads": [workload], "warnings": ["pi2 \x1b is away"]})
    assert world.calls[-2] == ("list_workloads", None)


def test_checkpoint_and_restore(world, make):
    world.answers = {"checkpoint": make.moved, "restore": make.moved}
    assert world.run("checkpoint", "pi1:web", "d", "--backend", "runc", "--timeout", "2m").exit_code == 0
    request, directory = world.asked("checkpoint")
    assert (request.source, request.backend, request.options.timeout_s) == ("pi1:web", "runc", 120.0)
    assert directory == Path("d")
    assert world.run("restore", "d", "pi2:", "--tcp-close", "--no-lazy-restore").exit_code == 0
    directory, target, options = world.asked("restore")
    assert (directory, target) == (Path("d"), "pi2:") and options.tcp_close and not options.lazy_restore


def test_status_and_abort(world):
    world.answers = {"status": [], "abort": {"id": "r1", "state": "rolled-back", "exit_code": 20}}
    assert world.run("status").stdout == "no migration is open\n"
    world.answers["status"] = [
        {"id": "r1", "owner": Owner.SOURCE, "workload": {"node": "pi1", "name": "web"}, "x": None}
    ]
    assert world.run("status", "r1").stdout.splitlines() == [
        "r1",
        "  owner        source",
        "  workload     node pi1, name web",
    ]
    assert world.calls[-2] == ("status", "r1")
    _, document = world.json("status", "--json")
    assert document == {"schema": 1, "runs": [{**world.answers["status"][0], "owner": "source"}]}
    result = world.run("abort", "r1")
    assert result.exit_code == 20 and "rolled-back" in result.stdout
    assert world.json("abort", "r1", "--json") == (20, {"schema": 1, **world.answers["abort"]})


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--forward", "--source-is-dead"), "is said of one run"),
        (("a", "--source-is-dead"), "goes with --forward"),
        (("a", "--rollback", "--source-is-dead"), "goes with --forward"),
        (("a", "--forward", "--target-is-gone"), "goes with --rollback"),
        (("a", "--rollback", "--source-is-dead", "--target-is-gone"), "no direction"),
    ],
)
def test_the_word_about_a_node_is_typed_in_full(words, said, world):
    result = world.run("recover", *words)
    assert result.exit_code == 2 and said in result.stderr
    assert not world.calls


def test_recover_gives_the_worst_code(world, make):
    held, rolled = Report(id="a", exit_code=40, outcome="held"), Report(id="b", exit_code=20, outcome="rolled-back")
    world.answers = {"recover": [rolled, held, make.moved]}
    result = world.run("recover")
    assert result.exit_code == 40 and "reberth recover a" in result.stdout
    assert world.asked("recover") == (None, "auto", False, ())
    world.calls.clear()
    world.answers["recover"] = [{"id": "a", "decision": "rollback", "exit_code": 0}]
    assert "decision     rollback" in world.run("recover", "a", "--rollback", "--dry-run").stdout
    assert world.asked("recover") == ("a", "rollback", True, ())
    world.calls.clear()
    world.run("recover", "a", "--rollback", "--target-is-gone")
    assert world.asked("recover") == ("a", "rollback", False, ("target_is_gone",))
    world.calls.clear()
    world.run("recover", "a", "--source-is-dead", "--target-is-gone")
    assert world.asked("recover") == ("a", "auto", False, ("source_is_dead", "target_is_gone"))
    world.answers["recover"] = []
    assert world.run("recover", "--forward").stdout == "nothing to recover\n"
    assert world.json("recover", "--json") == (0, {"schema": 1, "runs": []})


def test_history_and_report(world, make):
    assert world.run("history").stdout == "no migrations yet\n"
    runs = world.tmp / "state" / "reberth" / "runs"
    for name in ("20250101-000000-aaaa", "20250131-120000-1f2e", "20250201-000000-bbbb", "20250202-000000-cccc"):
        (runs / name).mkdir(parents=True)
    make.moved.save(runs / make.moved.id / "report.json")
    (runs / "20250201-000000-bbbb" / "report.json").write_text('{"schema": 9}')
    result = world.run("history")
    lines = [line.split() for line in result.stdout.splitlines()[1:]]
    assert [(line[0], line[4]) for line in lines] == [
        ("20250202-000000-cccc", "open"),
        ("20250131-120000-1f2e", "moved"),
        ("20250101-000000-aaaa", "open"),
    ]
    assert "schema 9" in result.stderr and "243 ms" in result.stdout
    code, document = world.json("history", "--limit", "1", "--json")
    assert code == 0 and [run["id"] for run in document["runs"]] == ["20250202-000000-cccc"]
    assert world.json("report", make.moved.id, "--json") == (0, make.moved.to_json())
    assert world.run("report", make.moved.id).stdout.startswith("pi1:runc/web -> pi2:web: moved\n")
    result = world.run("report", "20250131-120000-1f2f")
    assert result.exit_code == 2 and make.moved.id in result.stderr
    assert "no report yet" in world.run("report", "20250101-000000-aaaa").stderr


@pytest.fixture
def two_nodes(world, make):
    file = world.tmp / "config" / "config.toml"
    file.parent.mkdir()
    file.write_text(
        '[nodes.pi1]\naddress = "a"\nbackends = ["runc"]\ntransports = []\n'
        '[nodes.pi2]\naddress = "b"\nbackends = ["runc"]\ntransports = []\n'
    )
    world.answers = {"shell": {"pi1": make.hello, "pi2": {**make.hello, "boot_id": "c", "arch": "aarch64"}}}
    return world


def test_check_of_a_node_without_usable_plugins(two_nodes):
    result = two_nodes.run("check", "pi1")
    assert result.exit_code == 10
    assert "ok     pi1: reachable: box, x86_64, kernel 6.12" in result.stdout
    assert "warn   pi1: runc-usable" in result.stdout and "fail   backends: none is usable on pi1" in result.stdout
    assert "architecture" not in result.stdout


def test_check_of_a_pair(two_nodes):
    code, document = two_nodes.json("check", "pi1", "pi2:", "--json")
    assert code == 10 and list(document) == ["schema", "nodes", "checks", "failed", "exit_code"]
    assert document["nodes"] == ["pi1", "pi2"]
    assert list(document["checks"][0]) == ["id", "level", "reason", "remedy", "node"]
    levels = {check["id"]: check["level"] for check in document["checks"]}
    assert levels["arch"] == "fail" and levels["root"] == "ok"
    assert len(document["checks"]) == len({str(check) for check in document["checks"]})


def test_check_of_one_machine_twice_and_of_a_dead_one(two_nodes):
    assert two_nodes.run("check", "pi1", "pi1").exit_code == 2
    assert two_nodes.run("check", "pi3").exit_code == 2
    two_nodes.answers["shell"] = UnreachableError("pi1 does not answer")
    assert two_nodes.run("check", "pi1").exit_code == 13
