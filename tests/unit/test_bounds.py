"""What users and workloads can make long, large or slow is read in part (docs/security.md)."""

from __future__ import annotations

import contextlib
import ctypes
import mmap
import os
import socket
import subprocess
import sys

import pytest

from reberth.connect.process import run_local
from reberth.node.errors import OpError
from reberth.node.net import ipc, unix
from reberth.node.survey import measure, objects
from reberth.node.survey.objects import Holdings
from reberth.node.system import procs, spawn
from reberth.node.tree.mounts import mounts
from reberth_hooks import Level
from reberth_hooks.criu.objects import RULES

# Not ru_maxrss: a program inherits the peak of the process that started it, here a worker of the tests (execve(2)).
PEAK = "print(next(int(line.split()[1]) for line in open('/proc/self/status') if line.startswith('VmHWM')) >> 10)"
LOUD = "head -c 200000000 /dev/zero; head -c 200000000 /dev/zero >&2"
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs users of its own")


@pytest.mark.parametrize(
    ("load", "call"),
    [
        ("from reberth.node.system.spawn import run", "run(['sh', '-c', LOUD])"),
        ("from reberth.connect.process import run_local", "run_local(['sh', '-c', LOUD])"),
    ],
)
def test_a_program_that_says_very_much_is_kept_in_part(load, call):
    done = subprocess.run(
        [sys.executable, "-c", f"LOUD = {LOUD!r}\n{load}\n{call}\n{PEAK}"], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 200


def test_what_is_kept_is_the_begin_of_the_output_and_the_end_of_the_errors(monkeypatch):
    monkeypatch.setattr(spawn, "OUTPUT_LIMIT_BYTES", 8)
    done = spawn.run(["sh", "-c", "printf 0123456789; printf abcdefghij >&2"])
    assert (done["out"], done["err"]) == ("01234567", "cdefghij")
    assert run_local(["sh", "-c", "echo out; echo err >&2; exit 4"]).code == 4


def test_long_input_and_a_program_that_does_not_read_it():
    assert len(spawn.run(["cat"], stdin="x" * 3_000_000)["out"]) == 3_000_000
    assert spawn.run(["true"], stdin="x" * 3_000_000)["code"] == 0


def test_a_log_of_one_long_line_is_read_in_pieces(tmp_path, mocker):
    path = tmp_path / "criu.log"
    path.write_text("Error " + "x" * 200_000 + "\n" + "Error (a.c:1): why\n" * 50)
    found = spawn.first_errors(str(path)).splitlines()
    assert len(found) == 12 and max(map(len, found)) <= spawn.LINE_CHARS
    assert "Error (a.c:1): why" in found


def test_terabytes_of_addresses_hide_no_page_that_is_there(monkeypatch):
    """The largest come last, and end with the time for all."""
    libc = ctypes.CDLL(None, use_errno=True)
    libc.mmap.restype = ctypes.c_void_p
    size = ctypes.c_size_t(1 << 40)
    at = libc.mmap(None, size, mmap.PROT_READ | mmap.PROT_WRITE, 0x4022, -1, ctypes.c_long(0))
    assert at not in (None, ctypes.c_void_p(-1).value)
    try:
        monkeypatch.setattr(measure, "LOOK_CPU_S", 0.3)
        found = measure.Places([os.getpid()])
    finally:
        libc.munmap(ctypes.c_void_p(at), size)
    assert found.total * measure.PAGE_BYTES > 4 << 20 and not any(
        at <= place < at + (1 << 40) for _, place in found.kept
    )


def test_of_very_many_pages_a_part_from_all_over_is_kept(monkeypatch):
    whole = measure.Places([os.getpid()])
    monkeypatch.setattr(measure, "MOST_PLACES", 512)
    part = measure.Places([os.getpid()])
    assert len(part.kept) <= 512 < part.total and abs(part.total - whole.total) < whole.total / 2
    assert len({address >> 24 for _, address in part.kept}) > 3


def test_a_tree_that_holds_too_much_is_told_so(monkeypatch):
    monkeypatch.setattr(objects, "MOST_THINGS", 2)
    with pytest.raises(OpError) as caught:
        Holdings(frozenset({os.getpid()})).add(procs.task(os.getpid()))
    assert caught.value.kind == "too-large"


@as_root
def test_descriptors_of_strangers_are_looked_at_for_a_while(monkeypatch):
    """A stranger with many of them is named; the twin, whose users are the tree's, is looked through."""
    words = "import os, time; [os.dup(0) for _ in range(500)]; print('up', flush=True); time.sleep(60)"
    user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups", "/usr/bin/python3", "-c", words]
    with subprocess.Popen(user, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as stranger:
        assert stranger.stdout.readline() == b"up\n"
        pipe = os.readlink(f"/proc/{stranger.pid}/fd/0")
        monkeypatch.setattr(ipc, "STRANGERS_S", 0.0)
        others, known = ipc.Others(frozenset(), {0}), ipc.Others(frozenset(), {0, 1000})
        assert stranger.pid not in ipc.pipes_outside({pipe}, others) and stranger.pid in others.skipped
        assert stranger.pid in ipc.pipes_outside({pipe}, known) and stranger.pid not in known.skipped
        stranger.kill()


def test_what_was_not_looked_at_is_a_warning():
    rule = next(rule for rule in RULES if rule.id == "strangers")
    assert rule.level is Level.WARN and list(rule.find({"not_looked_at": [4711]})) == [4711]
    assert not list(rule.find({}))  # a helper of an older version does not say


def test_unix_sockets_of_others_are_not_kept(tmp_path):
    """Kept are the tree's, their peers, and what waits in their queues or holds them in its own."""
    with contextlib.ExitStack() as stack:
        strangers = [one for _ in range(20) for one in map(stack.enter_context, socket.socketpair())]
        mine, peer = map(stack.enter_context, socket.socketpair())
        client, listener = (stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(2))
        listener.bind(str(tmp_path / "sock"))
        listener.listen()
        client.connect(str(tmp_path / "sock"))
        number = {one: os.fstat(one.fileno()).st_ino for one in (mine, peer, client, listener, *strangers)}
        assert set(unix._known(os.getpid(), {number[mine]})) == {number[mine], number[peer]}
        for one in (client, listener):
            assert set(unix._known(os.getpid(), {number[one]})) == {number[client], number[listener]}
        assert unix._known(os.getpid(), set()) == {}


def test_the_head_of_a_descriptor_is_enough():
    with open("/proc/self/maps", "rb") as file:
        info = f"/proc/self/fdinfo/{file.fileno()}"
        assert objects._mount_id(info) in {str(mount.number) for mount in mounts()}
        assert objects._flags(info) & os.O_ACCMODE == os.O_RDONLY
    assert objects._mount_id("/proc/self/fdinfo/999999") == ""
