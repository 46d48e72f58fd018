from __future__ import annotations

import pytest

from reberth_hooks import Exit, Mode, UnreachableError

REPORT_KEYS = [
    *("schema", "id", "started", "source", "target", "workload", "backend", "transports", "mode", "policy", "outcome"),
    *(
        "owner",
        "exit_code",
        "downtime_s",
        "downtime_error_s",
        "frozen_s",
        "restore_s",
        "total_s",
        "bytes",
        "compress",
        "rounds",
    ),
    *("stop_reason", "predicted", "phases", "checks", "warnings", "error", "versions"),
]


def test_move_prints_plan_to_stderr_and_report_to_stdout(world, make):
    world.answers = {"plan": make.plan(make.ok, make.warn), "move": make.moved}
    result = world.run("move", "pi1:web", "pi2:")
    assert result.exit_code == 0
    assert "checks 1 of 2 fine" in result.stderr and "set both clocks by NTP" in result.stderr
    assert "it runs on pi2 as web" in result.stdout
    assert "downtime   243 ms ± 1 ms" in result.stdout
    assert "5.0 MiB images, 1.0 KiB filesystem" in result.stdout
    assert result.stdout.endswith("next       reberth history\n")
    assert world.calls[-1] == ("close",)


def test_every_option_reaches_the_request(world, make):
    world.answers = {"plan": make.plan(), "move": make.moved}
    words = (
        "move pi1:web pi2:w2 --mode pre-copy --backend runc --transport ssh --transport page-server --tcp-established"
    )
    words += " --timeout 90s --keep-images --skip a --skip b --no-lazy-restore --quiet --yes"
    assert world.run(*words.split()).exit_code == 0
    (request,) = world.asked("plan")
    assert (request.source, request.target, request.backend) == ("pi1:web", "pi2:w2", "runc")
    assert request.transports == ("ssh", "page-server")
    options = request.options
    assert (options.mode, options.timeout_s, options.skip) == (Mode.PRE_COPY, 90.0, ("a", "b"))
    assert options.tcp_established and options.keep_images and not options.lazy_restore and not options.tcp_close
    assert world.asked("flags") == ({"yes": True, "quiet": True, "json": False},)


def test_defaults_of_the_configuration_lie_under_the_options(world, make):
    file = world.tmp / "config" / "config.toml"
    file.parent.mkdir()
    file.write_text('[defaults]\nmode = "hybrid"\ntcp_close = true\nlazy_restore = false\n')
    world.answers = {"plan": make.plan(), "move": make.moved}
    world.run("move", "pi1:web", "pi2:", "--mode", "stop-and-copy")
    options = world.asked("plan")[0].options
    assert (options.mode, options.tcp_close, options.lazy_restore) == (Mode.STOP_AND_COPY, True, False)


def test_json_is_one_document_and_stderr_has_the_end_alone(world, make):
    world.answers = {"plan": make.plan(make.ok), "move": make.moved}
    code, document = world.json("move", "pi1:web", "pi2:", "--json")
    assert code == 0 and list(document) == REPORT_KEYS
    assert document["schema"] == 1 and document["error"] is None and document["outcome"] == "moved"
    said = world.run("move", "pi1:web", "pi2:", "--json").stderr
    assert said == "reberth: moved: it runs on pi2 as web; owner target, exit code 0\n"


def test_the_last_line_of_stderr_says_owner_and_code(world, make):
    for outcome, owner, code in (("rolled-back", "source", 20), ("held", "nobody", 40), ("moved", "target", 41)):
        make.moved.outcome, make.moved.owner, make.moved.exit_code = outcome, owner, code
        world.answers = {"plan": make.plan(), "move": make.moved, "recover": [make.moved]}
        for words in (("move", "pi1:web", "pi2:"), ("recover", make.moved.id)):
            result = world.run(*words)
            assert result.exit_code == code
            assert result.stderr.splitlines()[-1].endswith(f"owner {owner}, exit code {code}")


@pytest.mark.parametrize("words", [("move", "pi1:web", "pi2:"), ("move", "pi1:web", "pi2:", "--json"), ("history",)])
def test_an_output_that_cannot_be_written_changes_no_exit_code(world, words):
    """Stdout on a full disk: the process leaves with the run's own code, and stderr tells the rest."""
    code = """
import sys
from reberth.cli import common, output
from reberth.report.report import Report
sys.stdout = open("/dev/full", "w")
if sys.argv[1] == "move":
    import typer
    try:
        common.finish(Report(outcome="moved", owner="target", source="a:x", target="b:x"), json="--json" in sys.argv)
    except typer.Exit as end:
        sys.exit(end.exit_code)
from reberth.__main__ import main
main()
"""
    done = world.process(*words, code=code)
    assert done.returncode == 0, done.stderr
    assert "warning: the output could not be written: No space left on device" in done.stderr
    assert "a bug in reberth" not in done.stderr
    if words[0] == "move":
        assert done.stderr.splitlines()[-1].endswith("owner target, exit code 0")


@pytest.mark.parametrize("place", ["/sys/kernel", "FILE"])
def test_a_state_folder_that_cannot_be_written_is_a_usage_error(world, place):
    """sysfs takes a folder from no user, nor does a file: as a folder of another user's for who is not root."""
    (world.tmp / "file").touch()
    place = place.replace("FILE", str(world.tmp / "file"))
    extra = {"XDG_STATE_HOME": place, "REBERTH_CONFIG": str(world.tmp / "none.toml")}
    for words in (("move", "local:x", "local:"), ("checkpoint", "local:x", "d"), ("restore", "d", "local:")):
        done = world.process(*words, **extra)
        assert done.returncode == 2, done.stderr
        assert f"{place}/reberth" in done.stderr and "XDG_STATE_HOME" in done.stderr
        assert "nothing was touched" in done.stderr and "a bug" not in done.stderr
    done = world.process("plan", "local:x", "local:", **extra)
    assert done.returncode == 2 and "same node" in done.stderr  # it needs no folder: its own words are answered
    for words in (("status",), ("history",), ("ls",), ("recover",)):
        done = world.process(*words, **extra)
        assert done.returncode == 0, done.stderr


def test_refused_plan_never_moves(world, make):
    world.answers = {"plan": make.plan(make.ok, make.fail)}
    result = world.run("move", "pi1:web", "pi2:")
    assert result.exit_code == Exit.REFUSED
    assert "nothing was touched" in result.stdout and "run it without" in result.stdout
    assert "hugetlb" in result.stderr
    code, document = world.json("move", "pi1:web", "pi2:", "--json")
    assert code == 10 and list(document) == REPORT_KEYS
    assert document["outcome"] == "refused" and document["owner"] == "source" and document["exit_code"] == 10
    assert document["error"] == {
        "code": "refused",
        "message": "the preflight refused this move: hugetlb",
        "hint": "run it without",
        "log_tail": "",
        "phase": "plan",
    }
    assert "move" not in [call[0] for call in world.calls]


@pytest.mark.parametrize("words", [["plan", "pi1:web", "pi2:"], ["move", "pi1:web", "pi2:", "--dry-run"]])
def test_plan_touches_nothing(world, make, words):
    world.answers = {"plan": make.plan(make.ok, make.warn)}
    result = world.run(*words)
    assert (
        result.exit_code == 0 and "nothing was touched" in result.stdout and "stop-and-copy: as asked" in result.stdout
    )
    world.answers = {"plan": make.plan(make.fail)}
    assert world.run(*words).exit_code == 10
    code, document = world.json(*words, "--json")
    assert code == document["exit_code"] == 10 and document["refused"] is True
    assert list(document) == [
        *(
            "schema",
            "id",
            "workload",
            "target_name",
            "mode",
            "why",
            "routes",
            "options",
            "checks",
            "measured",
            "predicted",
        ),
        *("source", "target", "refused", "exit_code"),
    ]


@pytest.mark.parametrize("exit_code", list(Exit))
def test_exit_code_of_the_report_is_that_of_the_command(world, make, exit_code):
    make.moved.exit_code = int(exit_code)
    world.answers = {"plan": make.plan(), "move": make.moved}
    assert world.run("move", "pi1:web", "pi2:").exit_code == exit_code


@pytest.mark.parametrize(
    ("exit_code", "outcome", "owner", "where", "following"),
    [
        (0, "moved", "target", "runs on pi2 as web", "reberth history"),
        (20, "rolled-back", "source", "runs on pi1, as before", "reberth report ID"),
        (21, "ended", "nobody", "runs nowhere", "reberth report ID"),
        (40, "held", "nobody", "frozen on pi1", "reberth recover ID"),
        (41, "moved", "target", "runs on pi2", "reberth recover ID"),
        (42, "detached", "nobody", "go on with it by themselves", "reberth status ID"),
        (50, "held", "nobody", "waits for its pages", "reberth recover ID"),
        (60, "lost", "source", "was started afresh on pi1", "reberth report ID"),
        (124, "rolled-back", "source", "runs on pi1", "reberth report ID"),
        (1, "", "nobody", "`reberth recover` finds out", "reberth recover ID --dry-run"),
    ],
)
def test_every_end_tells_where_the_workload_is(world, make, exit_code, outcome, owner, where, following):
    report = make.moved
    report.exit_code, report.outcome, report.owner = exit_code, outcome, owner
    if exit_code not in (0, 41):
        tail = "Error (criu/x.c:1): no\x1b[31m\nsecond"
        report.error = {"code": "x", "message": "it broke", "hint": "mend it", "log_tail": tail, "phase": "restore"}
    world.answers = {"plan": make.plan(), "move": report}
    text = world.run("move", "pi1:web", "pi2:").stdout
    assert where in text and following.replace("ID", report.id) in text
    if report.error:
        assert "it broke (in restore)" in text and "hint: mend it" in text and "| second" in text
    assert "\x1b" not in text


def test_trouble_in_closing_does_not_hide_the_end(world, make):
    world.answers = {"plan": make.plan(), "move": make.moved, "close": UnreachableError("gone")}
    result = world.run("move", "pi1:web", "pi2:")
    assert result.exit_code == 0 and "warning: while closing the connections: gone" in result.stderr


def test_two_ways_for_connections_are_refused(world):
    result = world.run("move", "a", "b:", "--tcp-established", "--tcp-close")
    assert result.exit_code == 2 and "--tcp-close" in result.stderr
