"""The contract of a connector: words go through it unchanged, and no name is ever taken for an option."""

from __future__ import annotations

import contextlib
import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from reberth.connect.helper import HelperShell
from reberth.testing.lab import Lab, as_plain
from reberth.testing.plain import PluginContract
from reberth_hooks import Declaration, HelperError, Node, ReberthError, Role, Route, UnreachableError, UsageError

SAY = "import json, sys; print(json.dumps(sys.argv[1:]))"
ODD = ["two words", "", "$HOME", "`id`", "a\nnewline", "'\"", "-n", "--", "*", "\\", "; exit 9", "\u00e9"]
HOSTILE = "-oProxyCommand=touch {}"


class ConnectorContract(PluginContract):
    """Override `plugin`, and `programs` with fake tools for the programs that the route begins with."""

    @pytest.fixture
    def programs(self, reberth_lab: Lab) -> Path | None:
        """A folder for the front of PATH: `reberth_lab.controller_tool("ssh", tools.SSH)`."""
        return None

    @pytest.fixture
    def options(self) -> dict[str, Any]:
        """The connector's table of the node."""
        return {}

    @pytest.fixture
    def far(self) -> bool:
        """A declared deviation: False for a connector that reaches only this machine, and so cannot fail to."""
        return True

    @pytest.fixture
    def node(self, plugin: str, options: dict[str, Any]) -> Node:
        """A node that is reached by the connector."""
        return Node("node1", "192.0.2.1", plugin, options={plugin: options} if options else {})

    @pytest.fixture
    def route(self, module: Any, node: Node) -> Route:
        """Return how it is reached."""
        found = module.reberth_connect(node)
        assert isinstance(found, Route)
        return found

    @pytest.fixture
    def path(self, programs: Path | None, monkeypatch: pytest.MonkeyPatch) -> None:
        """The fake programs come first."""
        if programs is not None:
            monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")

    @pytest.fixture
    def shell(self, node: Node, route: Route, path: None) -> Any:
        """A helper at the end of the route."""
        shell = HelperShell(node, route)
        yield shell
        shell.close()

    def test_it_is_a_connector(self, said: Declaration) -> None:
        """It declares the role."""
        assert Role.CONNECTOR in said.roles

    def test_a_route_is_data(self, route: Route, module: Any, node: Node) -> None:
        """Words without NUL, the same each time, and a hint for the day that it fails."""
        for word in (*route.control, *route.bulk, *route.become):
            assert isinstance(word, str) and "\0" not in word
        assert module.reberth_connect(node) == route
        assert as_plain(route)["control"] == list(route.control)
        assert bool(route.control) is bool(route.bulk), "commands and data take the same way, in two connections"
        assert route.hint.strip()

    def test_an_address_is_never_an_option(self, module: Any, plugin: str, tmp_path: Path, path: None) -> None:
        """A hostile address or name is refused, or stands behind `--`; nothing of it is run."""
        trace = tmp_path / "trace"
        for node in (
            Node("node1", HOSTILE.format(trace), plugin),
            Node(HOSTILE.format(trace), "", plugin),
        ):
            try:
                found = module.reberth_connect(node)
            except UsageError:
                continue
            for words in (found.control, found.bulk):
                assert all(
                    "--" in words[:at] for at, word in enumerate(words) if word.startswith("-oProxyCommand=touch")
                )
        assert not trace.exists()

    def test_an_unknown_become_is_refused(self, module: Any, plugin: str) -> None:
        """Never silently as somebody else."""
        with pytest.raises(UsageError):
            module.reberth_connect(Node("node1", "192.0.2.1", plugin, become="root; sh"))

    def test_words_arrive_unchanged(self, shell: HelperShell) -> None:
        """Spaces, quotes, newlines, `$`, an empty one, a leading dash."""
        assert json.loads(shell.run(["python3", "-c", SAY, *ODD]).out) == ODD

    def test_exit_code_and_output_are_exact(self, shell: HelperShell) -> None:
        """Both streams, apart from each other, to the byte."""
        done = shell.run(["sh", "-c", "printf 'out\\n\\n'; printf err >&2; exit 37"], check=False)
        assert (done.code, done.out, done.err) == (37, "out\n\n", "err")
        assert shell.run(["cat"], stdin="in\n" * 30_000).out == "in\n" * 30_000

    def test_a_time_out_ends_the_program_there(self, shell: HelperShell, tmp_path: Path) -> None:
        """Check that what was given up does not go on in the dark."""
        trace = tmp_path / "trace"
        with pytest.raises(HelperError):
            shell.run(["sh", "-c", 'sleep 1; touch "$1"', "sh", str(trace)], timeout_s=0.2)
        time.sleep(1.1)
        assert not trace.exists()

    def test_closing_twice_leaves_nothing(self, node: Node, route: Route, path: None) -> None:
        """No child of ours is left, whichever way a connection ends."""
        before = _children()
        for end in (HelperShell.close, HelperShell.kill):
            shell = HelperShell(node, route)
            end(shell)
            shell.close()
        deadline = time.monotonic() + 5
        while _children() - before and time.monotonic() < deadline:
            time.sleep(0.02)
        assert _children() <= before

    def test_out_of_reach_is_said_with_a_hint(
        self, node: Node, route: Route, far: bool, reberth_lab: Lab, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """The program's own last words, and what to try."""
        assert bool(route.control) is far, "declare it: fixture `far`"
        if not far:
            return
        refuses = reberth_lab.dir / "refuses.py"
        refuses.write_text("from reberth.testing.machine import ToolError\ndef main(*_): raise ToolError('no route')\n")
        folder = reberth_lab.controller_tool(Path(route.control[0]).name, refuses)
        monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
        with pytest.raises(UnreachableError) as caught:
            HelperShell(node, route)
        assert "no route" in caught.value.tail
        assert isinstance(caught.value, ReberthError) and caught.value.hint


def _children() -> set[int]:
    """Pids of this process's children, zombies too."""
    found: set[int] = set()
    for task in Path("/proc/self/task").iterdir():
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # a thread that ended meanwhile
            found.update(int(pid) for pid in (task / "children").read_text().split())
    return found
