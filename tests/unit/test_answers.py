"""What a node says is bounded and of a known shape; a node that says anything else fails the calls that wait for it."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading

import pytest

from reberth.connect import answers, boot
from reberth.connect.helper import HelperShell
from reberth.node.daemon import loop
from reberth.node.operations import table
from reberth_hooks import ConnectionLostError, HelperError, Node, ReberthError, Route

# A node of its own making: it takes the program, says hello, answers pings, and to the rest what its kind is.
NODE = r"""
import json, os, sys, time
os.write(1, bytes(1) + b"reberth" + bytes(1))
for _ in range(2):
    left = int(os.read(0, 10))
    while left:
        left -= len(os.read(0, min(left, 65536)))
out = os.fdopen(1, "wb", 0)
def say(line):
    out.write((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n")
for line in os.fdopen(0, "rb"):
    asked = json.loads(line)
    number = asked["id"]
    if asked["op"] in ("hello", "ping"):
        say({"id": number, "ok": {"boot_ns": time.clock_gettime_ns(7), "uid": 0}})
        continue
    exec(sys.argv[1])
"""
# kind: what the node does, and what the call ends with
HOSTILE = {
    "deep": ("say(b'[' * 200000)", ConnectionLostError),
    "deep-object": ("say(b'{\"a\":' * 200000)", ConnectionLostError),
    "endless": ("\n    while True: out.write(b'x' * (1 << 20))", ConnectionLostError),
    "many-values": ("say(b'[' + b'[],' * 1000000 + b'0]')", ConnectionLostError),
    "no-json": ("say(b'hello')", ConnectionLostError),
    "no-object": ("say([1])", ConnectionLostError),
    "not-ascii": ("say('\"é\"'.encode())", ConnectionLostError),
    "not-a-number": ("say(b'{\"id\": NaN}')", ConnectionLostError),
    "long-number": ("say(b'1' * 100000)", ConnectionLostError),
    "exit": ("sys.exit(0)", ConnectionLostError),
    "half-a-line": ("out.write(b'{'); sys.exit(0)", ConnectionLostError),
    "half-error": ("say({'id': number, 'error': {'kind': 'x'}})", HelperError),
    "error-of-a-list": ("say({'id': number, 'error': []})", HelperError),
    "no-answer": ("say({'id': number})", HelperError),
    "wrong-type": ("say({'id': number, 'ok': 7})", HelperError),
    "wrong-part": ("say({'id': number, 'ok': {'role': 'target', 'tasks': 'two'}})", HelperError),
    "progress-of-words": ("say({'id': number, 'progress': 7}); say({'id': number, 'ok': 7})", HelperError),
    "another-id": ("say({'id': 'x'}); say({'id': 99}); say({'id': number, 'ok': []})", HelperError),
}


@pytest.fixture
def shell(monkeypatch):
    """Returns a connection to a node that does this."""
    made = []

    def connect(what: str) -> HelperShell:
        monkeypatch.setattr(boot, "control_argv", lambda: [sys.executable, "-c", NODE, what])
        made.append(HelperShell(Node("evil"), Route()))
        return made[-1]

    yield connect
    for one in made:
        one.kill()


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_node_ends_every_call_with_its_name(shell, kind):
    what, error = HOSTILE[kind]
    found = shell(what)
    ended = []

    def ask() -> None:
        try:
            found.call("fill", timeout_s=None)
        except ReberthError as caught:
            ended.append(caught)

    waits = [threading.Thread(target=ask, daemon=True) for _ in range(3)]
    for one in waits:
        one.start()
    for one in waits:
        one.join(60)
    assert len(ended) == 3
    assert all(isinstance(one, error) and "evil" in one.message for one in ended)


def test_a_watcher_that_fails_ends_nothing(shell):
    found = shell("say({'id': number, 'progress': {'bytes': 1}}); say({'id': number, 'ok': {'role': 'target'}})")

    def watcher(**_: int) -> None:
        raise KeyError

    assert found.begin("fill", on_progress=watcher).result(60) == {"role": "target"}


def test_a_node_that_cannot_say_hello_cannot_be_reached(monkeypatch):
    words = 'import os; os.read(0, 10); print(\'{"id": 1, "ok": {"uid": "root"}}\', flush=True); os.read(0, 1 << 20)'
    monkeypatch.setattr(boot, "control_argv", lambda: [sys.executable, "-c", words])
    with pytest.raises(ReberthError) as caught:
        HelperShell(Node("evil"), Route())
    assert "evil" in caught.value.message


def test_what_an_error_says_is_cut(shell):
    found = shell("say({'id': number, 'error': {k: 'x' * 200000 for k in ('kind', 'message', 'hint', 'tail')}})")
    with pytest.raises(HelperError) as caught:
        found.call("fill")
    sizes = [len(getattr(caught.value, name)) for name in ("kind", "message", "hint", "tail")]
    assert sizes == [64, answers.MESSAGE_CHARS + len("node evil: "), answers.HINT_CHARS, answers.TAIL_CHARS]


def test_a_request_that_is_too_long_is_not_sent(shell):
    with pytest.raises(HelperError) as caught:
        shell("say({'id': number, 'ok': None})").call("note", text="x" * answers.LINE_LIMIT_BYTES)
    assert caught.value.kind == "too-large"


# What each of these lines costs the controller: the worst that the limits let through.
COSTLY = {
    "lists": "b'{\"id\":1,\"ok\":[' + b'[],' * 240000 + b'0]}\\n'",
    "objects": "b'{\"id\":1,\"ok\":[' + b'{},' * 240000 + b'0]}\\n'",
    "keys": "b'{' + b','.join(b'\"%d\":%d.5' % (n, n) for n in range(490000)) + b'}\\n'",
    "wide-text": "b'{\"id\":1,\"ok\":\"\\\\ud83d\\\\ude00' + b'a' * ((16 << 20) - 64) + b'\"}\\n'",
    "escapes": "b'{\"id\":1,\"ok\":\"' + b'\\\\u4e00' * ((16 << 20) // 6 - 8) + b'\"}\\n'",
    "too-long": "b'a' * (200 << 20)",
}
MEASURE = """
import io, sys
from reberth.connect import answers
class Endless(io.RawIOBase):
    def __init__(self, data): self.data, self.at = memoryview(data), 0
    def readable(self): return True
    def readinto(self, room):
        part = self.data[self.at:self.at + len(room)]
        room[:len(part)] = part
        self.at += len(part)
        return len(part)
def peak():  # not ru_maxrss, which a program inherits from the process that started it (execve(2))
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
line = eval(sys.argv[1])
before = peak()
try:
    kept = answers.read(io.BufferedReader(Endless(line)))
except answers.NoMessageError as error:
    kept = error
print(peak() - before >> 10, type(kept).__name__)
"""


@pytest.mark.parametrize("kind", COSTLY)
def test_no_line_costs_more_than_was_said(kind):
    """Less than 200 MiB in all: what a controller holds already is about 40."""
    done = subprocess.run([sys.executable, "-c", MEASURE, COSTLY[kind]], capture_output=True, text=True, check=True)
    more_mib, what = done.stdout.split()
    assert what == ("NoMessageError" if kind == "too-long" else "dict")
    assert int(more_mib) < 150


def test_without_the_limits_it_would():
    """The twin: the same kind of line, longer than is allowed."""
    words = MEASURE.replace("answers.read(", "__import__('json').load(").replace("answers.NoMessageError", "ValueError")
    line = "b'{\"id\":1,\"ok\":[' + b'{},' * 5000000 + b'0]}\\n'"
    done = subprocess.run([sys.executable, "-c", words, line], capture_output=True, text=True, check=True)
    assert int(done.stdout.split()[0]) > 200


@pytest.mark.parametrize(
    ("value", "shape", "good"),
    [
        ({"a": 1}, {"a": int}, True),
        ({"a": True}, {"a": int}, False),
        ({"a": True}, {"a": bool}, True),
        ({}, {"a": int}, False),
        ({}, {"a?": int}, True),
        ({"a": "x"}, {"a?": int}, False),
        ({"/x": 1}, {str: int}, True),
        ({"/x": None}, {str: int}, False),
        ([{}, {}], [dict], True),
        ([{}, 1], [dict], False),
        (1.5, (int, float), True),
        (None, None, True),
        ("x", None, True),
    ],
)
def test_shapes(value, shape, good):
    assert answers.fits(value, shape) is good


def test_every_shape_is_of_an_operation_and_both_ends_have_one_limit():
    assert set(answers.SHAPES) <= set(table.OPS)
    assert answers.LINE_LIMIT_BYTES == loop.LINE_LIMIT_BYTES


def test_a_helper_says_that_its_answer_is_too_long(tmp_path):
    path = tmp_path / "out"
    with path.open("wb") as file:
        control = object.__new__(loop.Control)
        control.write_fd, control.lock = file.fileno(), threading.Lock()
        control.send({"id": 3, "ok": "x" * answers.LINE_LIMIT_BYTES})
    message = answers.read(io.BytesIO(path.read_bytes()))
    with pytest.raises(HelperError) as caught:
        answers.settle(message, "read", "n1")
    assert caught.value.kind == "too-large" and json.dumps(message).count("x") < 10
