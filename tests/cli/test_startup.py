"""What a command line costs before it does anything: the modules that it may not import."""

from __future__ import annotations

import resource
import statistics

import pytest

from reberth.cli.app import COMMANDS, LazyGroup, root

FORBIDDEN = (
    "sh",
    "rich",
    "tomlkit",
    "reberth.host",
    "reberth.connect.process",
    "reberth.plugin.catalog",
    "reberth_lab",
    "reberth_progress",
)
PROBE = """
import sys
try:
    from reberth.__main__ import main
    main()
finally:
    found = [n for n in {!r} if n in sys.modules] + [n for n in sys.modules if n.startswith("reberth.cli.")]
    print("modules:", *found, file=sys.stderr)
"""


def modules(world, *words):
    done = world.process(*words, code=PROBE.format(FORBIDDEN))
    return done, done.stderr.rpartition("modules:")[2].split()


def test_help_imports_no_command_and_no_plugin(world):
    done, found = modules(world, "--help")
    assert done.returncode == 0
    assert {name.rpartition(".")[2] for name in found} <= {"app", "guard", "output"}
    for name in (*COMMANDS, "lab"):
        assert f"\n  {name} " in done.stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_help_of_a_command_imports_only_itself(world, name):
    done, found = modules(world, name, "--help")
    assert done.returncode == 0, done.stderr
    allowed = {"reberth.plugin.catalog"} if name in ("node", "plugin") else set()  # they are about plugins
    assert not set(found) & set(FORBIDDEN) - allowed
    others = {f"reberth.cli.{other}" for other in COMMANDS if other not in (name, "move" if name == "plan" else name)}
    assert not set(found) & others
    assert "\n  reberth " in done.stdout or name in ("node", "plugin"), "each command shows an example"


def test_typer_is_imported_without_rich_and_rich_is_free_afterwards(world):
    code = "import sys, reberth.cli; assert 'rich' not in sys.modules; import rich.text; print('fine')"
    assert world.process(code=code).stdout == "fine\n"


def test_version_and_help_go_to_stdout(world):
    assert world.run("--version").stdout.startswith("reberth")
    assert world.run("--version").exit_code == 0
    for words in (["-h"], ["move", "-h"], ["node", "add", "-h"]):
        result = world.run(*words)
        assert result.exit_code == 0 and result.stdout.startswith("Usage: reberth") and result.stderr == ""


def test_flags_have_no_opposite_twin(world):
    assert "--no-dry-run" not in world.run("move", "--help").stdout
    assert "--no-json" not in world.run("ls", "--help").stdout


def test_every_listed_command_exists_and_has_one_line_of_help():
    assert isinstance(root, LazyGroup)
    for name, line in COMMANDS.items():
        command = root.get_command(None, name)
        assert command.name == name and command.help.splitlines()[0] == line


@pytest.mark.slow
def test_a_tab_costs_at_most_four_bare_interpreters(world, tmp_path):
    """Processor time, in turns within one run: both suffer alike from what else the machine does."""
    names = tmp_path / "reberth/complete"
    names.mkdir(parents=True)
    (names / "node-node1").write_text("".join(f"runc\tweb{n}\trunning\n" for n in range(100)))
    env = {"XDG_CACHE_HOME": str(tmp_path), "REBERTH_COMPLETE_ASK": "0"}
    code = "from reberth.__main__ import main; main()"
    ways = {"bare": ((), "pass"), "names": (("__complete", "move", "no"), code), "word": (("__complete", "mo"), code)}

    def median(rounds=9):
        spent = {name: [] for name in ways}
        for _ in range(rounds):
            for name, (words, program) in ways.items():
                before = resource.getrusage(resource.RUSAGE_CHILDREN)
                assert world.process(*words, code=program, **env).returncode == 0
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                spent[name].append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
        return {name: statistics.median(values) for name, values in spent.items()}

    found = median()
    print(found)
    assert max(found.values()) <= 4.0 * found["bare"], found
