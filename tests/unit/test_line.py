"""The line between two helpers: what a source without a controller does after the target's word, and on what word."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from reberth.connect.helper import HelperShell
from reberth.node.runs.peer import Line, what_follows
from reberth.run.decide import Step, Want, decide
from reberth_hooks import HelperError, Node, Route

SOURCE = {"role": "source", "vote": "READY", "holding": True, "held": True}
FLAGS = ("landed", "lazy", "filled", "fill_failed", "taken_back", "ended", "rebooted", "landing_failed", "cleaned")
FLAGS += ("unseen", "ill")
STEPS = {Step.COMMIT: "kill", Step.RESUME_ABORTED: "resume"}


def targets() -> Iterator[dict[str, object]]:
    """Every combination of what a target can say, the impossible ones too."""
    for verdict, running_ns in itertools.product((None, "PERMIT", "ABORT", "UNREADABLE"), (0, 5)):
        for values in itertools.product((False, True), repeat=len(FLAGS)):
            yield {
                "role": "target",
                "verdict": verdict,
                "running_ns": running_ns,
                **dict(zip(FLAGS, values, strict=True)),
            }


@pytest.mark.parametrize("want", [Want.FORWARD, Want.BACK])
def test_the_source_alone_does_nothing_that_decide_would_not_do(want):
    for target in targets():
        step = what_follows(target)
        if step:
            assert STEPS.get(decide(SOURCE, target, want).step) == step, target


def test_the_source_alone_does_all_that_decide_would_do():
    for target in targets():
        if target["verdict"] not in (None, "UNREADABLE") and not (target["taken_back"] and target["landed"]):
            assert what_follows(target) == STEPS.get(decide(SOURCE, target, Want.FORWARD).step, ""), target


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ({}, ""),
        ({"verdict": None, "holding": True}, ""),
        ({"verdict": "ABORT"}, ""),  # the copy may still hold what the source needs: an address, a lock
        ({"verdict": "ABORT", "taken_back": True}, "resume"),
        ({"verdict": "PERMIT"}, ""),
        ({"verdict": "PERMIT", "landed": True}, ""),
        ({"verdict": "PERMIT", "landed": True, "running_ns": 5}, "kill"),
        ({"verdict": "PERMIT", "landed": True, "running_ns": 5, "lazy": True}, ""),
        ({"verdict": "PERMIT", "landed": True, "running_ns": 5, "lazy": True, "filled": True}, "kill"),
        ({"verdict": "PERMIT", "landing_failed": True}, ""),
        ({"verdict": "PERMIT", "landed": True, "running_ns": 5, "unseen": True}, ""),
        ({"verdict": "PERMIT", "landed": True, "running_ns": 5, "ill": True}, ""),
    ],
)
def test_rows_by_name(target, expected):
    assert what_follows(target) == expected


@pytest.fixture
def sockets():
    with contextlib.ExitStack() as stack:
        yield tuple(stack.enter_context(one) for one in socket.socketpair())


def pair(sockets, facts=None, other_facts=None):
    """Both ends of a line: the source's, and the target's."""
    ours, theirs = sockets
    source = Line(ours, lambda: facts or {"role": "source", "vote": None}, "target")
    return source, Line(theirs, lambda: other_facts or {"role": "target", "verdict": None}, "source")


def test_each_end_hears_the_other(sockets):
    source, target = pair(sockets, {"role": "source", "vote": "READY"})
    done = threading.Event()
    threads = [threading.Thread(target=line.run, args=(done,)) for line in (source, target)]
    for thread in threads:
        thread.start()
    while source.heard is None or target.heard is None:
        time.sleep(0.01)
    done.set()
    for thread in threads:
        thread.join(10)
    assert (source.heard, target.heard) == ({"role": "target", "verdict": None}, {"role": "source", "vote": "READY"})


def test_the_last_word_is_heard_after_the_target_has_hung_up(sockets):
    facts = {"role": "target", "verdict": None}
    source, target = pair(sockets, other_facts=facts)
    thread = threading.Thread(target=source.run, args=(threading.Event(),))
    thread.start()
    target.tell()
    facts["verdict"] = "ABORT"
    target.close()
    thread.join(10)
    assert source.heard == {"role": "target", "verdict": "ABORT"}


@pytest.mark.parametrize("said", [b"no json\n", b'["role"]\n', b'{"role": "source", "taken_back": true}\n', b'{"role"'])
def test_what_is_no_word_of_a_target_is_not_heard(said, sockets):
    ours, theirs = sockets
    line = Line(ours, lambda: {"role": "source"}, "target")
    theirs.sendall(said)
    theirs.shutdown(socket.SHUT_WR)
    line.run(threading.Event())
    assert line.heard is None


def test_a_line_without_an_end_is_no_message(sockets):
    ours, theirs = sockets
    line = Line(ours, lambda: {"role": "source"}, "target")
    thread = threading.Thread(target=theirs.sendall, args=(b"x" * (80 << 10),))
    thread.start()
    line.run(threading.Event())
    thread.join(10)
    assert line.heard is None


def test_an_end_nobody_listens_to_does_no_harm(sockets):
    ours, theirs = sockets
    ours.close()
    line = Line(theirs, lambda: {"role": "target"}, "source")
    line.run(threading.Event())
    line.close()


# Two real helpers, each with a state directory of its own


@pytest.fixture
def nodes(tmp_path):
    """Two mount namespaces in which /var/lib is empty: a helper in each, and where its state is."""
    if os.getuid() != 0 or not shutil.which("openssl"):
        pytest.skip("a run needs root, a line needs openssl")
    places: list[subprocess.Popen[bytes]] = []
    shells: list[HelperShell] = []
    env = {"PATH": "/usr/bin:/usr/sbin:/bin:/sbin", "HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(tmp_path)}

    def connect(number: int) -> HelperShell:
        become = ("nsenter", "-m", f"-t{places[number].pid}", "--")
        shells.append(HelperShell(Node("here", connector="local"), Route(become=become, hint="", env=env)))
        return shells[-1]

    words = ["unshare", "-m", "--propagation", "private", "sh", "-c"]
    for number in range(2):
        holder = subprocess.Popen(
            [*words, "mount -t tmpfs none /var/lib && echo up && exec sleep 60"], stdout=subprocess.PIPE
        )
        places.append(holder)
        if holder.stdout.readline() != b"up\n":
            pytest.skip("no mount namespaces here")
        connect(number)
    yield shells[:2], [Path(f"/proc/{holder.pid}/root/var/lib/reberth") for holder in places], connect
    for shell in shells:
        shell.close()
    for holder in places:
        holder.kill()
        holder.communicate()


def begin(shells, use: str = "line", strange: bool = False) -> str:
    """Open a run on both and join them; `strange`: the target expects the certificate of somebody else."""
    run_id = f"line-{os.getpid()}-{time.monotonic_ns()}"
    for shell, role in zip(shells, ("source", "target"), strict=True):
        shell.call("open", run_id=run_id, role=role, workload="criu/7")
    ours, theirs = (shell.call("direct_identity") for shell in shells)
    place = shells[1].call("direct_listen", peer=theirs if strange else ours, address="127.0.0.1", use=use)
    with pytest.raises(HelperError, match="does not answer") if strange else contextlib.nullcontext():
        shells[0].call("direct_connect", peer=theirs, use=use, **place)
    return run_id


def ended(state: Path, run_id: str, seconds: float = 20.0) -> list[str]:
    path = state / "ended" / run_id / "journal.jsonl"
    deadline = time.monotonic() + seconds
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return [json.loads(line)["event"] for line in path.read_text().splitlines()]


def test_a_source_after_ready_runs_again_when_the_target_has_aborted(nodes):
    shells, states, _ = nodes
    run_id = begin(shells)
    assert shells[0].call("vote", value="READY")["vote"] == "READY"
    for shell in shells:
        shell.kill()
    assert ended(states[1], run_id)[-2:] == ["taken-back", "end"]
    assert ended(states[0], run_id)[-4:] == ["following", "resuming", "resumed", "end"]


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no line", "the target expects another"])
def test_without_the_line_it_waits(case, nodes):
    shells, states, connect = nodes
    run_id = begin(shells, use="data" if case == "no line" else "line", strange=case != "no line")
    shells[0].call("vote", value="READY")
    for shell in shells:
        shell.kill()
    ended(states[1], run_id)
    time.sleep(2.5)  # twice the time in which the other case has acted
    assert not (states[0] / "ended" / run_id).exists()
    again = connect(0)
    assert again.call("adopt", run_id=run_id) == {"live": True}
    again.call("release", how="resume", aborted=True)
    again.call("end", outcome="rolled-back")
