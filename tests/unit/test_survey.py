"""What a process tree holds: addresses, connections, and a real child with every kind of descriptor."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
from types import SimpleNamespace

import pytest

from reberth.node.errors import OpError
from reberth.node.net import ipc, sockets
from reberth.node.survey import elf, process_tree

HOLDER = """
import os, select, socket, subprocess, sys, time
place = sys.argv[1]
kept = open(place + "/kept", "w")
gone = open(place + "/gone", "w")
os.unlink(place + "/gone")
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
inside = socket.create_connection(server.getsockname()); other, _ = server.accept()
outside = socket.create_connection(("127.0.0.1", int(sys.argv[2])))
poll = select.epoll()
pipe = os.pipe()
null = open("/dev/zero")
child = subprocess.Popen(["sleep", "60"], close_fds=True)
print(server.getsockname()[1], child.pid, flush=True)
time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as server:
        words = [sys.executable, "-c", HOLDER, str(tmp_path), str(server.getsockname()[1])]
        with subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
        ) as process:
            port, child = map(int, process.stdout.readline().split())
            peer, _ = server.accept()
            with peer:
                yield SimpleNamespace(
                    pid=process.pid, port=port, child=child, peer=peer.getsockname()[1], mine=peer.getpeername()[1]
                )
            os.kill(child, 9)
            process.kill()


def test_describe_a_real_tree(holder, tmp_path):
    found = process_tree.describe(None, None, holder.pid)
    assert [t["pid"] for t in found["tasks"]] == [holder.pid, holder.child]
    assert found["uids"] == [os.getuid()]
    paths = {f["path"] for f in found["files"]}
    assert {str(tmp_path / "kept"), os.path.realpath(sys.executable)} <= paths
    assert found["deleted"] == [f"{tmp_path}/gone (deleted)"]
    assert found["anon"] == {"[eventpoll]": 1}
    assert found["tcp"]["inside"] == 2
    assert found["tcp"]["outside"] == [f"127.0.0.1:{holder.mine} - 127.0.0.1:{holder.peer}"]
    assert found["tcp"]["listening"] == [f"127.0.0.1:{holder.port}"]
    assert (found["devices"], found["terminals"], found["traced_by"], found["hugetlb"]) == ([], [], [], False)
    assert found["outside_mounts"] == []
    assert len(found["pipes"]) == 2  # standard output and its own
    assert found["memory_bytes"] > 1 << 20
    assert found["namespaces"] == found["helper_namespaces"]
    assert found["exe"] == os.path.realpath(sys.executable)


def test_a_terminal_is_seen():
    leader, follower = pty.openpty()
    try:
        with subprocess.Popen(["sleep", "60"], stdin=follower, stdout=follower, stderr=follower) as process:
            found = process_tree.describe(None, None, process.pid)
            process.kill()
        assert found["terminals"] == [os.ttyname(follower)]
    finally:
        os.close(leader)
        os.close(follower)


def test_a_process_that_has_ended_is_an_error():
    with subprocess.Popen(["true"]) as process:
        process.wait()
        with pytest.raises(OpError) as caught:
            process_tree.describe(None, None, process.pid)
    assert caught.value.kind == "ended"


@pytest.mark.skipif(sys.byteorder != "little", reason="written as a little-endian kernel writes it")
@pytest.mark.parametrize(
    ("kernel", "text"),
    [
        ("0100007F:1F90", "127.0.0.1:8080"),
        ("00000000:0016", "0.0.0.0:22"),
        ("B80D0120000000000000000001000000:01BB", "[2001:0db8:0000:0000:0000:0000:0000:0001]:443"),
        ("0000000000000000FFFF00000100007F:0050", "[0000:0000:0000:0000:0000:ffff:7f00:0001]:80"),
    ],
)
def test_addresses_as_the_kernel_writes_them(kernel, text):
    assert sockets.address(kernel) == text


ROW = "   {n}: {here} {there} {state} 00000000:00000000 00:00000000 00000000     0        0 {inode} 1 0 0 10 -1\n"
A, B, C = "0100007F:0050", "0100007F:9C40", "0200007F:9C41"
MAPPED_A, MAPPED_B = (f"0000000000000000FFFF0000{x}" for x in (A, B))


def pairs(monkeypatch, tmp_path, rows, rows6=()):
    for name, lines in (("tcp", rows), ("tcp6", rows6)):
        body = "".join(ROW.format(n=i, here=h, there=t, state=s, inode=i) for i, (h, t, s) in enumerate(lines))
        (tmp_path / name).write_text("  sl  local_address rem_address\n" + body)
    real = open
    monkeypatch.setattr(
        sockets, "open", lambda path, **kw: real(tmp_path / os.path.basename(path), **kw), raising=False
    )
    return sockets.tcp(1, {str(i) for i in range(9)})


def test_both_ends_in_the_tree_are_inside(monkeypatch, tmp_path):
    assert pairs(monkeypatch, tmp_path, [(A, B, "01"), (B, A, "01")]) == (2, [], [])


def test_an_end_elsewhere_is_outside_whatever_its_state(monkeypatch, tmp_path):
    inside, outside, listening = pairs(monkeypatch, tmp_path, [(A, B, "01"), (A, C, "08"), (A, "0:0", "0A")])
    assert (inside, len(outside), listening) == (0, 2, ["127.0.0.1:80"])


def test_a_mapped_address_and_its_plain_one_are_one_connection(monkeypatch, tmp_path):
    assert pairs(monkeypatch, tmp_path, [(B, A, "01")], [(MAPPED_A, MAPPED_B, "01")])[0] == 2


def test_what_belongs_to_nobody_is_not_counted(monkeypatch, tmp_path):
    assert pairs(monkeypatch, tmp_path, [(A, B, "06"), (A, C, "07")]) == (0, [], [])


def test_compare_files_says_what_criu_would_say(tmp_path):
    good, small, script = tmp_path / "good", tmp_path / "small", tmp_path / "script"
    for path in (good, small, script):
        path.write_text("12345")
    wanted = [{"path": str(p), "mode": p.stat().st_mode, "size": 5} for p in (good, small, script)]
    assert process_tree.compare_files(None, None, wanted) == []
    small.write_text("1")
    script.chmod(0o755)
    wanted.append({"path": str(tmp_path / "none"), "mode": 0o100644, "size": 0})
    found = {os.path.basename(p["path"]): p["problem"] for p in process_tree.compare_files(None, None, wanted)}
    assert found["small"] == "size 1, not 5"
    assert found["script"].startswith("mode -rwxr-xr-x")
    assert found["none"].startswith("No such file")


def test_candidates_are_session_leaders_without_a_terminal():
    with (
        subprocess.Popen(["sleep", "60"], start_new_session=True) as process,
        subprocess.Popen(["sleep", "60"]) as plain,
    ):
        found = {p["pid"]: p for p in process_tree.processes(None, None)}
        process.kill()
        plain.kill()
    assert found[process.pid]["comm"] == "sleep"
    assert plain.pid not in found
    assert not {1, 2, os.getpid()} & found.keys()


# What ties a tree to others

TIES = """
import ctypes, os, socket, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
place = sys.argv[1]
outside = socket.socket(socket.AF_UNIX); outside.connect(place + "/outside")
inside = socket.socketpair()
own = socket.socket(socket.AF_UNIX); own.bind(place + "/own"); own.listen()
waiting = socket.socket(socket.AF_UNIX); waiting.connect(place + "/own")
name = socket.socket(socket.AF_UNIX); name.bind("\\0reberth-test-" + sys.argv[2]); name.listen()
server = socket.socket(); server.bind(("127.0.0.1", 0)); server.listen()
client = socket.create_connection(server.getsockname())
ghost = open(place + "/ghost", "wb"); ghost.write(b"x" * 8192); ghost.flush(); os.unlink(place + "/ghost")
linked = open(place + "/linked", "wb"); os.link(place + "/linked", place + "/other"); os.unlink(place + "/linked")
queue = libc.msgget(0, 0o1600)
libc.msgsnd(queue, ctypes.create_string_buffer(struct.pack("=q", 1) + b"x"), ctypes.c_size_t(1), 0)
process = os.pidfd_open(int(sys.argv[2]))
controlling, terminal = os.openpty()
status = open("/proc/self/status")
print(queue, os.ttyname(terminal), flush=True)
sys.stdin.read()
libc.msgctl(queue, 0, None)
"""


def test_ties_to_the_outside_are_seen(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "outside"))
        server.listen()
        with subprocess.Popen(
            [sys.executable, "-c", TIES, str(tmp_path), str(os.getpid())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        ) as process:
            queue, terminal = process.stdout.readline().decode().split()
            accepted, _ = server.accept()
            found = process_tree.describe(None, None, process.pid)
            process.stdin.close()
            accepted.close()
    assert found["unix_outside"] == [str(tmp_path / "outside")]
    assert found["abstract"] == [f"reberth-test-{os.getpid()}"]
    assert len(found["tcp"]["unaccepted"]) == 1
    assert found["ghosts"][f"{tmp_path}/ghost"] == 8192
    assert found["linked"] == [f"{tmp_path}/linked"]
    assert f"queue {queue}" in found["sysv_items"]
    assert found["pidfds"] == [os.getpid()]
    number = int(terminal.rpartition("/")[2])
    assert (found["masters"], found["slaves"]) == ([number], [number])
    assert os.getpid() in found["pipes_outside"]
    assert found["protocols"]["UNIX-STREAM"] >= 5 and found["protocols"]["TCP"] == 2
    assert f"/proc/{process.pid}/status" not in {f["path"] for f in found["files"]}
    assert (found["nested"], found["shared_vm"], found["schedulers"], found["frozen"]) == ([], [], [], False)


HELD = """
import ctypes, mmap, os, sys
place = sys.argv[1]
memory = mmap.mmap(-1, 4096)
memory[0] = 1
name = next(n for n in os.listdir("/proc/self/map_files") if "zero" in os.readlink("/proc/self/map_files/" + n))
behind = os.open("/proc/self/map_files/" + name, os.O_RDWR)
os.symlink("nowhere", place + "/link")
link = os.open(place + "/link", os.O_PATH | os.O_NOFOLLOW)
name, library = b"/reberth-test-%d" % os.getpid(), ctypes.CDLL(None, use_errno=True)
queue = library.mq_open(name, os.O_RDWR | os.O_CREAT, 0o600, None)
library.mq_unlink(name)
print(queue, flush=True)
sys.stdin.read()
"""


@pytest.mark.skipif(os.getuid() != 0, reason="map_files is open to root alone")
def test_what_travels_is_not_outside_and_a_queue_is_named(tmp_path):
    with subprocess.Popen(
        [sys.executable, "-c", HELD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        assert int(process.stdout.readline()) > 0
        found = process_tree.describe(None, None, process.pid)
        process.stdin.close()
    assert [path for path in found["outside_mounts"] if "zero" in path or "reberth-test" in path] == []
    assert [name for name in found["mqueues"] if name.endswith(f"in process {process.pid}")] != []
    link = next(one for one in found["files"] if one["path"] == f"{tmp_path}/link")
    assert process_tree.compare_files(None, None, [link]) == []


def test_a_listener_with_another_pid_of_old_is_not_taken_for_ours(monkeypatch):
    row = {"msqid": "7", "lspid": "42", "lrpid": "0", "stime": "1000", "rtime": "0"}
    monkeypatch.setattr(ipc, "_sysv", lambda name: [row] if name == "msg" else [])
    assert ipc.items_of({42: 999.0}) == ["queue 7"]
    assert ipc.items_of({42: 5000.0}) == ipc.items_of({43: 0.0}) == []


@pytest.mark.parametrize("flags", [os.O_RDWR, os.O_WRONLY | os.O_APPEND])
def test_a_file_with_one_offset_here_and_outside_is_found_unless_it_is_appended_to(tmp_path, flags):
    path = tmp_path / "shared"
    path.touch()
    fd = os.open(path, flags)
    words = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    null = subprocess.DEVNULL
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=null, stderr=null, pass_fds=[fd]) as process:
        shared = process_tree.describe(None, None, process.pid)["files_outside"]
        os.close(fd)
        alone = process_tree.describe(None, None, process.pid)["files_outside"]
        other = os.open(path, flags)  # the twin: the same file by another description
        same_file = process_tree.describe(None, None, process.pid)["files_outside"]
        os.close(other)
    assert len(shared) == (0 if flags & os.O_APPEND else 1)
    assert all(name.startswith(f"{path} with ") and name.endswith(f"({os.getpid()})") for name in shared)
    assert alone == same_file == []


def test_the_build_id_of_this_python_and_of_no_elf_file(tmp_path):
    with open("/proc/self/maps") as maps:
        library = next(line.split()[-1] for line in maps if "libc.so" in line or "libc-" in line)
    assert len(elf.build_id(library)) in (32, 40)
    (tmp_path / "short").write_bytes(b"\x7fELF\x02\x01" + b"\xff" * 20)
    assert elf.build_id(str(tmp_path / "short")) == elf.build_id(str(tmp_path / "none")) == elf.build_id(__file__) == ""


def test_another_build_is_no_equal_file(tmp_path):
    path = tmp_path / "library"
    path.write_bytes(b"text")
    entry = {"path": str(path), "size": 4, "mode": path.stat().st_mode, "build_id": "ab" * 20}
    (problem,) = process_tree.compare_files(None, None, [entry])
    assert problem["problem"].startswith("another build-id")


def test_what_is_taken_here():
    with socket.create_server(("127.0.0.1", 0)) as server:
        assert f"127.0.0.1:{server.getsockname()[1]}" in process_tree.taken(None, None)["tcp"]
