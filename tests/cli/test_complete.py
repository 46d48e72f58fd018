"""`reberth __complete`: its protocol, its values, and what it may cost."""

from __future__ import annotations

import importlib.util
import os
import sys
import time
from pathlib import Path

import pytest

from reberth.cli.app import COMMANDS as LISTED
from reberth.complete import cache, local, main, refresh, table, texts, values, words
from reberth.config.config import BUNDLED_BACKENDS
from reberth_hooks import Found, Mode

ROOT = Path(__file__).parents[2]
CONFIG = """
[nodes.node1]
address = "192.0.2.1"
backends = ["runc", "criu"]
[nodes.node2]
backends = ["runc"]
"""


@pytest.fixture
def complete(world, capsys, monkeypatch, tmp_path):
    """Answers with the candidates and the flags, and remembers which nodes were found to be old."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    path = Path(os.environ["REBERTH_CONFIG"])
    path.parent.mkdir(exist_ok=True)
    path.write_text(CONFIG)
    asked = []
    monkeypatch.setattr(refresh, "in_background", asked.extend)

    def answer(*typed):
        main.main(typed)
        *lines, last = capsys.readouterr().out.splitlines()
        answer.texts = dict(line.partition("\t")[::2] for line in lines)
        return [line.partition("\t")[0] for line in lines], int(last.removeprefix(":"))

    answer.asked = asked
    return answer


def test_the_table_is_the_tree_of_commands():
    spec = importlib.util.spec_from_file_location("tree", ROOT / "completions/tree.py")
    tree = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tree)
    assert tree.commands() == table.COMMANDS, "run: make completions"
    assert {*LISTED, "lab"} <= {path.partition(" ")[0] for path in table.COMMANDS}


def test_the_fixed_values_are_those_of_the_code():
    assert set(values.FIXED["--mode"]) == {*map(str, Mode)} | {"auto"}
    assert values.FIXED["SHELL"] == tuple(texts.SCRIPTS)
    assert local.LOCAL_BACKENDS == BUNDLED_BACKENDS


def test_commands_come_with_their_help(complete):
    found, flags = complete("")
    assert found == [name for name in table.COMMANDS if name and " " not in name] and flags == main.NO_FILES
    assert complete.texts["move"] == LISTED["move"]
    assert complete("no") == (["node"], main.NO_FILES)
    assert complete("node", "sh") == (["show"], main.NO_FILES)
    assert complete("--v") == (["--version"], main.NO_FILES)


def test_options_are_offered_once_unless_they_may_be_repeated(complete):
    assert complete("move", "--mode", "auto", "--mo")[0] == ["--move-address"]
    assert complete("move", "--skip", "a", "--sk")[0] == ["--skip"]
    assert complete("move", "--json", "--")[0].count("--json") == 0
    assert complete("move", "--", "--")[0] == []


def test_nodes_end_in_a_colon_without_a_space(complete):
    assert complete("move", "node") == (["node1:", "node2:"], main.NO_FILES | main.NO_SPACE)
    assert complete("move", "node1:web", "") == (["node2:", "local:"], main.NO_FILES | main.NO_SPACE)
    assert complete("move", "node1:web", "node2:") == (["node2:"], main.NO_FILES)
    assert complete("check", "node1", "")[0] == ["node2", "local"]


def test_workloads_come_from_the_cache_and_an_old_cache_is_made_new(complete):
    assert complete("move", "node1:") == ([], main.NO_FILES)
    assert complete.asked == ["node1"]
    cache.write("node1", [cache.Entry("runc", "web", "running"), cache.Entry("lxd", "off", "running")])
    complete.asked.clear()
    assert complete("move", "node1:") == (["node1:web"], main.NO_FILES)
    assert complete.asked == [] and complete.texts == {"node1:web": "runc, running"}
    os.utime(cache.tried("node1"), (time.time() - 60, time.time() - 60))
    assert complete("move", "node1:w")[0] == ["node1:web"]
    assert complete.asked == ["node1"]
    assert complete("move", "unknown:") == ([], main.NO_FILES)
    assert complete("move", "../etc:")[0] == []


def test_a_changed_inventory_is_seen_at_once(complete):
    assert complete("check", "node")[0] == ["node1", "node2"]
    Path(os.environ["REBERTH_CONFIG"]).write_text(CONFIG + '[nodes.node3]\nbackends = ["lxd"]\n')
    assert complete("check", "node")[0] == ["node1", "node2", "node3"]
    assert complete("check", "node")[0] == ["node1", "node2", "node3"]  # from what was kept
    assert complete("move", "--backend", "")[0] == ["criu", "lxd", "runc"]
    Path(os.environ["REBERTH_CONFIG"]).unlink()
    assert complete("check", "")[0] == ["local"]


def test_a_name_of_two_backends_is_offered_with_the_backend(complete):
    cache.write("node1", [cache.Entry("runc", "db", "running"), cache.Entry("criu", "db", "running")])
    assert complete("move", "node1:")[0] == ["node1:runc/db", "node1:criu/db"]
    assert complete("move", "node1:criu/")[0] == ["node1:criu/db"]
    assert complete("move", "node1:d")[0] == ["node1:db"]


def test_what_could_steer_a_terminal_is_never_sent(complete):
    folder = cache.folder()
    folder.mkdir(parents=True)
    lines = ["runc\t\x1b[31mred\trunning", "runc\tok\trun\x1b[0mning", "runc\tfine\trunning", "runc\ta\u202eb\trunning"]
    (folder / "node-node1").write_text("\n".join(lines) + "\n")
    assert complete("move", "node1:")[0] == ["node1:fine"]
    cache.write("node1", [cache.Entry("runc", "web", "run\x1b[2Jning"), cache.Entry("runc", "x\x1b", "running")])
    assert "\x1b" not in (folder / "node-node1").read_text()
    assert complete("move", "node1:")[0] == ["node1:web"]
    bad = CONFIG + '[nodes."bad name"]\n[nodes."esc\\u001b[31m"]\n'
    Path(os.environ["REBERTH_CONFIG"]).write_text(bad)
    assert not any("esc" in name or "bad" in name for name in complete("node", "show", "")[0])


def test_the_cache_of_somebody_else_is_not_read(complete, monkeypatch):
    cache.write("node1", [cache.Entry("runc", "web", "running")])
    assert (cache.folder() / "node-node1").stat().st_mode & 0o777 == 0o600
    assert cache.folder().stat().st_mode & 0o777 == 0o700
    monkeypatch.setattr(os, "geteuid", lambda: 12345)
    assert cache.read("node1", os.environ) == []


def test_runs_plugins_and_hosts(complete, tmp_path):
    for name in ("20250101-000000-aaaa", "20250301-000000-bbbb"):
        (tmp_path / "state/reberth/runs" / name).mkdir(parents=True)
    assert complete("report", "2025") == (
        ["20250301-000000-bbbb", "20250101-000000-aaaa"],
        main.NO_FILES | main.KEEP_ORDER,
    )
    assert "runc" in complete("plugin", "show", "")[0]
    (tmp_path / ".ssh").mkdir()
    (tmp_path / ".ssh/config").write_text("Host pi1 *.lan !x\nInclude more/*\nHost=pi2\n")
    (tmp_path / ".ssh/more").mkdir()
    (tmp_path / ".ssh/more/a").write_text("host pi3 'q'\n")
    assert [host for host in complete("node", "add", "n", "")[0] if host.startswith("pi")] == ["pi1", "pi2", "pi3"]
    assert complete("node", "add", "n", "--address", "pi1")[0] == ["pi1"]
    assert complete("node", "add", "pi2")[0] == ["pi2"]


def test_values_of_options(complete):
    assert complete("move", "--mode", "st") == (["stop-and-copy"], main.NO_FILES | main.KEEP_ORDER)
    assert complete("move", "--mode=st")[0] == ["--mode=stop-and-copy"]
    assert complete("move", "--backend", "")[0] == ["criu", "lxd", "runc"]
    assert complete("node", "add", "x", "--become", "")[0] == ["none", "sudo"]
    assert complete("lab", "up", "--kind", "a")[0] == ["android"]
    assert complete("android", "stop", "nod")[0] == ["node1", "node2"]
    assert complete("restore", "") == ([], main.ONLY_DIRS)
    assert complete("node", "add", "x", "--identity", "") == ([], 0)


def test_no_mess_on_the_command_line_is_an_error(complete):
    Path(os.environ["REBERTH_CONFIG"]).write_text("not toml [")
    assert complete("move", "")[0] == ["local:"]
    for typed in ([], ["move", "--", "x"], ["nope", "x"], ["--mode"], ["move", "a", "b", "c", "d"], ["\udcff"]):
        assert complete(*typed)[1] & main.ERROR == 0, typed


def test_an_alias_of_lxc_puts_the_fragment_first():
    assert main.in_order(["move", "no", "c1"], {"LXC_ALIASES": "1"}) == ["move", "c1", "no"]
    assert main.in_order(["move", "no", "c1"], {"INCUS_ALIASES": "1"}) == ["move", "c1", "no"]
    assert main.in_order(["move", "c1", "no"], {}) == ["move", "c1", "no"]


def test_ls_feeds_the_cache(world, complete):
    world.answers["list_workloads"] = [("node1", Found("runc", "web", "running", 1, 0, ""))]
    assert world.run("ls", "node1").exit_code == 0
    assert complete("move", "node1:")[0] == ["node1:web"]
    world.answers.update(list_workloads=[], warnings=["node node1 did not answer"])
    world.run("ls")
    assert complete("move", "node1:")[0] == ["node1:web"]
    world.answers.update(warnings=[])
    world.run("ls")
    assert complete("move", "node1:")[0] == []


def test_asking_in_the_background_lists_the_node_once(world, complete, monkeypatch):
    world.answers["list_workloads"] = [("node1", Found("runc", "late", "running", 1, 0, ""))]
    refresh._ask("node1")
    assert world.asked("list_workloads") == ("node1",)
    assert complete("move", "node1:")[0] == ["node1:late"] and complete.asked == []


def test_only_the_standard_library_is_imported_and_nothing_is_waited_for(world, tmp_path):
    code = (
        "import sys\nfrom reberth.__main__ import main\nmain()\n"
        "top = {name.partition('.')[0] for name in sys.modules} - {'reberth', '__main__', '__mp_main__'}\n"
        "print(sorted(n for n in top - set(sys.stdlib_module_names) if sys.modules[n].__spec__ is not None\n"
        "    and getattr(sys.modules[n], '__file__', None)), 'subprocess' in sys.modules, file=sys.stderr)"
    )
    for typed in (
        ["mo"],
        ["move", "node1:"],
        ["plugin", "show", ""],
        ["report", ""],
        ["node", "add", "x", ""],
        ["lxd", "shim", "lxc", ""],
    ):
        env = {"REBERTH_COMPLETE_ASK": "0", "XDG_CACHE_HOME": str(tmp_path)}
        done = world.process("__complete", *typed, code=code, **env)
        assert done.returncode == 0
        assert done.stderr.replace("'_distutils_hack'", "") in ("[] False\n", "[] False"), done.stderr


def test_shells_that_are_not_known_are_named(world):
    result = world.run("completion", "tcsh")
    assert result.exit_code == 2 and "one of: bash, zsh, fish" in result.stderr
    for shell in texts.SCRIPTS:
        assert "__complete" in world.run("completion", shell).stdout
        assert "migrate" in world.run("shell-init", shell).stdout


def test_words_follow_the_parser():
    line = words.read(["--debug", "node", "add", "--user", "x", "pi1"])
    assert (line.path, line.arguments, line.wants) == ("node add", ["pi1"], "")
    assert words.read(["move", "--mode"]).wants == "--mode"
    assert sys.stdlib_module_names  # the guard above needs it
