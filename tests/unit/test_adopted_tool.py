"""A tool that init adopts before it begins, its exit status, and the parent-death signal in CRIU's images."""

from __future__ import annotations

import os
import signal
import struct
import subprocess
import time

import pytest

from reberth.node.criu import cores
from reberth.node.errors import OpError
from reberth.node.system import ends, procs, spawn
from reberth.node.system.ends import Adopted, kernel_tells

needs_kernel = pytest.mark.skipif(not kernel_tells(), reason="needs Linux 6.15")


def start(tmp_path, script: str) -> Adopted:
    (tmp_path / "cgroup.procs").write_text("")
    return spawn.spawn_adopted(["sh", "-c", script], output=str(tmp_path / "out"), cgroup=str(tmp_path))


@needs_kernel
@pytest.mark.parametrize(("end", "code"), [("exit 0", 0), ("exit 3", 3), ("kill -TERM $$", -signal.SIGTERM)])
def test_the_exit_status_of_an_adopted_tool(tmp_path, end, code):
    tool = start(tmp_path, f"echo said; {end}")
    assert tool.wait(20) == code
    assert (tool.poll(), tool.returncode) == (code, code)
    assert (tmp_path / "out").read_text() == "said\n"
    assert (tmp_path / "cgroup.procs").read_text() == f"{tool.pid}\n"


def test_its_parent_is_not_this_process_from_its_first_word_on(tmp_path):
    tool = start(tmp_path, "read -r a b c d rest < /proc/$$/stat; echo $d; sleep 60")
    try:
        deadline = time.monotonic() + 20
        while not (text := (tmp_path / "out").read_text()).endswith("\n") and time.monotonic() < deadline:
            time.sleep(0.005)
        found = procs.task(tool.pid)
        assert found is not None and found.ppid == int(text) != os.getpid()
        assert found.pgid == found.sid == tool.pid
        assert tool.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            tool.wait(0.01)
    finally:
        spawn.kill_group(tool)
    tool.wait(20)


def test_where_nobody_tells_it_is_no_success(monkeypatch, tmp_path):
    monkeypatch.setattr(ends, "exit_status", lambda *words: None)
    assert start(tmp_path, "exit 0").wait(20) == -1


def test_a_tool_that_is_not_installed(tmp_path):
    with pytest.raises(OpError, match="not installed"):
        spawn.spawn_adopted(["no-such-tool"], output=str(tmp_path / "out"), cgroup=str(tmp_path))


def number(value: int) -> bytes:
    packed = bytearray()
    while value > 0x7F:
        packed.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*packed, value])


def field(key: int, value: int | bytes) -> bytes:
    if isinstance(value, int):
        return number(key << 3) + number(value)
    return number(key << 3 | 2) + number(len(value)) + value


def image(path, *messages: bytes) -> None:
    path.write_bytes(bytes(8) + b"".join(struct.pack("<I", len(one)) + one for one in messages))


def tree(directory, *signals: int, packed: bool = False) -> str:
    """Images of a first process with so many threads, and of a child that has a signal of its own."""
    tids = [300 + i for i in range(len(signals))]
    threads = field(5, b"".join(map(number, tids))) if packed else b"".join(field(5, tid) for tid in tids)
    image(directory / "pstree.img", field(1, 300) + field(2, 0) + threads, field(1, 400) + field(5, 400))
    for tid, signal_number in zip(tids, signals, strict=True):
        thread = field(1, 1 << 40) + (field(8, signal_number) if signal_number else b"") + field(13, b"name")
        fixed = number(9 << 3 | 5) + bytes(4) + number(10 << 3 | 1) + bytes(8)
        image(directory / f"core-{tid}.img", field(1, 1) + field(3, b"\x08\x01") + fixed + field(5, thread))
    image(directory / "core-400.img", field(5, field(8, 9)))
    return str(directory)


@pytest.mark.parametrize(("signals", "found"), [((0,), 0), ((15,), 15), ((0, 0, 10), 10)])
@pytest.mark.parametrize("packed", [False, True])
def test_the_parent_death_signal_of_the_first_process_alone(tmp_path, signals, found, packed):
    assert cores.parent_death_signal(tree(tmp_path, *signals, packed=packed)) == found


def test_damaged_images_are_said_to_be(tmp_path):
    directory = tree(tmp_path, 15)
    whole = (tmp_path / "core-300.img").read_bytes()
    for damaged in (whole[:-3], whole[:5], whole[:12] + b"\x0f" * (len(whole) - 12)):
        (tmp_path / "core-300.img").write_bytes(damaged)
        with pytest.raises(OpError, match="cannot be read"):
            cores.parent_death_signal(directory)


def test_without_images_there_is_none(tmp_path):
    assert cores.parent_death_signal(str(tmp_path)) == 0
