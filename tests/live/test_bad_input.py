"""What only a node can refuse: a name it does not have, a tool it lacks; a clear error, and nothing is touched.

Live because the answers come from a node's own tools, missing, old, or of another machine.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from livekit.command import Command, Done
from livekit.snapshot import Watch
from livekit.stand import Stand, healthy, word_of

from reberth_lab.node import Node

Settings = Callable[[Callable[[str], str]], dict[str, str]]
# Source, target, options -> exit code, words of the error; for the rest see tests/cli/test_bad_words.py
WORDS = {
    "unknown workload": (["node1:no-such", "node2:"], 2, ["no workload no-such on node node1", "reberth ls node1"]),
    "unknown container": (["node1:runc/no-such", "node2:"], 2, ["no-such", "node1"]),
    "unknown process": (["node1:criu/31999", "node2:"], 2, ["31999"]),
    "no process at all": (["node1:criu/web", "node2:"], 2, ["pid"]),
    "another name for a process": (["node1:criu/PID", "node2:99"], 2, ["a process keeps its pid"]),
    "unknown check": (["node1:criu/PID", "node2:", "--skip", "spce"], 2, ["did you mean space"]),
    "the node itself": (["node1:criu/1", "node2:"], 10, ["pid 1 is the node itself"]),
}


def refused(done: Done, code: int, *words: str) -> None:
    """The exit code, each word somewhere in the error, and neither a crash nor a raw control character."""
    assert done.code == code, str(done)
    for word in words:
        assert word in done.error, f"{word!r} is not in: {done}"
    assert "Traceback" not in done.stderr
    assert "\x1b" not in done.stdout + done.stderr


@pytest.mark.parametrize("name", WORDS)
def test_wrong_words(name: str, works: Stand, watch: Watch, reberth: Command) -> None:
    (source, target, *options), code, words = WORDS[name]
    if "PID" in source:
        source = source.replace("PID", str(works.raw("memory", "--mib", "4").pid))
    running = watch.again()
    done = reberth.run("move", *options, "--json", "--", source, target)
    refused(done, code, *words)
    running.check(patience_s=5)


def test_a_name_that_two_backends_have(works: Stand, watch: Watch, reberth: Command, node1: Node) -> None:
    raw = works.raw("memory", "--mib", "4")
    twin = works.named_container(str(raw.pid), "memory", "--mib", "4")
    running = watch.again()
    done = reberth.move(f"node1:{raw.pid}", "node2:")
    refused(done, 2, "both have", f"node1:criu/{raw.pid}", f"node1:runc/{raw.pid}")
    running.check()
    works.stop(twin)


@pytest.fixture
def replaced(node1: Node, node2: Node) -> Iterator[Callable[[Node, str, str], None]]:
    """Puts a program of ours before another one on a node's path, or takes a program away (empty text)."""
    undo: list[tuple[Node, list[str]]] = []

    def replace(node: Node, program: str, text: str) -> None:
        if text:
            node.write(f"/usr/local/sbin/{program}", text, 0o755)
            undo.append((node, ["rm", f"/usr/local/sbin/{program}"]))
        else:
            path = node.run(["which", program]).stdout.strip()
            node.run(["mv", path, f"{path}.away"])
            undo.append((node, ["mv", f"{path}.away", path]))

    yield replace
    for node, words in reversed(undo):
        node.run(words)


OLD_CRIU = '#!/bin/sh\n[ "$1" = --version ] && { echo "Version: 3.17.1"; exit; }\nexec /usr/sbin/criu "$@"\n'
OTHER_MACHINE = '#!/bin/sh\nexec setarch i686 /usr/bin/python3 "$@"\n'


@pytest.mark.parametrize("kind", ["raw", "runc"])
@pytest.mark.parametrize(
    ("where", "program", "text", "words"),
    [
        ("node2", "criu", "", ["criu is not installed", "install criu", "node2"]),
        ("node1", "criu", "", ["criu is not installed", "install criu", "node1"]),
        ("node2", "criu", OLD_CRIU, ["criu 3.17.1 is older than", "install a newer criu", "node2"]),
        ("node2", "python3", OTHER_MACHINE, ["architecture: x86_64 on node1, i686 on node2"]),
    ],
    ids=["no-criu-on-the-target", "no-criu-on-the-source", "old-criu", "other-architecture"],
)
def test_a_node_that_cannot(
    where: str,
    program: str,
    text: str,
    words: list[str],
    kind: str,
    works: Stand,
    watch: Watch,
    replaced: Callable[[Node, str, str], None],
    reberth: Command,
    node1: Node,
    node2: Node,
) -> None:
    handle = (works.raw if kind == "raw" else works.container)("memory", "--mib", "4")
    running = watch.again()
    replaced(node1 if where == "node1" else node2, program, text)
    done = reberth.move(word_of(node1, handle), "node2:")
    refused(done, 10, *words)
    healthy(node1, handle)
    running.check()


def test_runc_is_missing(
    works: Stand, watch: Watch, replaced: Callable[[Node, str, str], None], reberth: Command, node1: Node, node2: Node
) -> None:
    handle = works.container("memory", "--mib", "4")
    running = watch.again()
    replaced(node2, "runc", "")
    refused(reberth.move(word_of(node1, handle), "node2:"), 10, "runc is not installed", "install runc")
    running.check()


def test_a_process_on_a_terminal(works: Stand, watch: Watch, reberth: Command, node1: Node) -> None:
    node1.spawn(["script", "-qfc", "exec sleep 4242", "/dev/null"])
    pid = ""
    for _ in range(100):
        pid = node1.run(["pgrep", "-x", "-f", "sleep 4242"], check=False).stdout.strip()
        if pid:
            break
    running = watch.again()
    try:
        refused(reberth.move(f"node1:criu/{pid}", "node2:"), 10, "terminal", "setsid")
        running.check()
    finally:
        node1.run(["kill", "-KILL", pid])
    watch.check()


def test_a_node_that_does_not_answer(
    works: Stand, watch: Watch, settings: Settings, reberth: Command, node1: Node
) -> None:
    handle = works.raw("memory", "--mib", "4")
    running = watch.again()
    nobody = settings(lambda text: text.replace(node1.site.address(2), node1.site.address(77)))
    refused(reberth.move(word_of(node1, handle), "node2:", env=nobody), 13, "node2 cannot be reached")
    closed = settings(lambda text: text.replace('user = "root"', 'user = "root"\nport = 9'))
    refused(reberth.move(word_of(node1, handle), "node2:", env=closed), 13, "cannot be reached")
    running.check()
